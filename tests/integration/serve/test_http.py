"""The HTTP door, as the official OpenAI client and as curl see it."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_embed.engine import EngineSettings
from pg_embed.errors import DatabaseError, ModelUnavailable, UnknownModel
from pg_embed.models.hashing import load
from pg_embed.records import Kind, ModelSpec
from pg_embed.serve import directory, http
from pg_embed.serve.directory import CatalogDirectory, StaticDirectory
from pg_embed.serve.settings import ServeSettings
from tests.fix_models import PATIENCE
from tests.fix_serve import FAKE, RERANKER, SLOW, RunningSidecar
from tests.fix_worker import create_fake_model

PROMPTED = ModelSpec("prompted", "fake", {"dimensions": 4, "query_prompt": "query: "})
PICKY = ModelSpec("picky", "fake", {"dimensions": 4, "fail_on": "poison", "unavailable_on": "storm"})


def vectors(texts: list[str], model: ModelSpec = FAKE, kind: Kind = "document") -> list[list[float]]:
    return [[float(number) for number in row] for row in load(model).embed(texts, kind).dense]


def base(sidecar: RunningSidecar) -> str:
    assert sidecar.sidecar is not None
    return next(address for address in sidecar.sidecar.addresses if address.startswith("http"))


@pytest.fixture(scope="module")
def sidecar() -> Iterator[RunningSidecar]:
    directory = StaticDirectory(
        [FAKE, SLOW, PROMPTED, PICKY, RERANKER], default="fake", rerankers=["reranker"]
    )
    with RunningSidecar(ServeSettings(http_port=0, http_timeout=5), directory=directory) as running:
        yield running


@pytest.fixture
def client(sidecar: RunningSidecar) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{base(sidecar)}/v1", max_retries=0) as found:
        yield found


@pytest.fixture
def web(sidecar: RunningSidecar) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base(sidecar)) as found:
        yield found


def test_the_official_client_gets_vectors_and_usage(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="fake", input=["one", "two"])  # asks for base64 by itself
    assert [entry.embedding for entry in answer.data] == vectors(["one", "two"])
    assert [entry.index for entry in answer.data] == [0, 1]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("fake", 2, 2)


def test_floats_and_base64_are_the_same_vectors(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="fake", input="žluťoučký 🦄", encoding_format="float")
    coded = client.embeddings.create(model="fake", input="žluťoučký 🦄", encoding_format="base64")
    decoded = np.frombuffer(base64.b64decode(str(coded.data[0].embedding)), "<f4")
    assert decoded.tolist() == np.array(floats.data[0].embedding, np.float32).tolist()
    assert floats.data[0].embedding == pytest.approx(vectors(["žluťoučký 🦄"])[0], rel=1e-6)


def test_queries_and_documents_are_told_apart(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="prompted", input="x", extra_body={"input_type": "query"})
    assert answer.data[0].embedding == vectors(["x"], PROMPTED, "query")[0]
    assert answer.data[0].embedding != vectors(["x"], PROMPTED, "document")[0]


def test_without_a_model_the_default_is_meant(web: httpx.Client) -> None:
    answer = web.post("/v1/embeddings", json={"input": "x"})
    assert answer.json()["model"] == "fake"


def test_dimensions_must_be_those_of_the_model(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model="fake", input="x", dimensions=4).data[0].embedding) == 4
    with pytest.raises(openai.BadRequestError, match="has 4 dimensions"):
        client.embeddings.create(model="fake", input="x", dimensions=3)


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        ({"model": "none", "input": "x"}, openai.NotFoundError, "PE001"),
        ({"model": "fake", "input": [1, 2, 3]}, openai.BadRequestError, "PE023"),
        ({"model": "fake", "input": []}, openai.BadRequestError, "PE023"),
        ({"model": "picky", "input": "poison"}, openai.BadRequestError, "PE021"),
        ({"model": "picky", "input": "storm"}, openai.InternalServerError, "PE020"),
    ],
)
def test_errors_are_those_that_the_client_knows(
    client: openai.OpenAI, asked: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(error) as raised:
        client.embeddings.create(**asked)
    assert raised.value.code == code


def test_a_client_tries_again_when_the_sidecar_was_overloaded() -> None:
    narrow = ModelSpec(
        "narrow", "fake", {"dimensions": 4, "delay": 1.0, "concurrency": 1, "max_batch_items": 1}
    )
    settings = ServeSettings(http_port=0)
    engine = EngineSettings(max_queued_queries=1)
    running = RunningSidecar(settings, engine=engine, directory=StaticDirectory([narrow]))
    with running, httpx.Client(base_url=base(running)) as web:
        from concurrent.futures import ThreadPoolExecutor

        def ask(number: int) -> httpx.Response:
            return web.post("/v1/embeddings", json={"input": f"text {number}", "input_type": "query"})

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json()["error"]["code"] == "PE012"


def test_a_slow_model_is_a_gateway_timeout() -> None:
    settings = ServeSettings(http_port=0, http_timeout=0.2)
    with RunningSidecar(settings) as running, httpx.Client(base_url=base(running)) as web:
        assert web.post("/v1/embeddings", json={"model": "slow", "input": "x"}).status_code == 504


def test_tokens_are_asked_for_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("open sesame\n")
    settings = ServeSettings(http_port=0, http_token_file=tmp_path / "token")
    with RunningSidecar(settings, directory=StaticDirectory([FAKE])) as running:
        for key, status in (("open sesame", 200), ("open", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            with httpx.Client(base_url=base(running), headers=headers) as web:
                assert web.post("/v1/embeddings", json={"input": "x"}).status_code == status
                assert web.get("/metrics").status_code == status
                assert web.get("/healthz").status_code == 200
        for scheme, status in (("bearer", 200), ("Basic", 401)):
            shown = {"Authorization": f"{scheme} open sesame"}
            assert httpx.get(f"{base(running)}/metrics", headers=shown).status_code == status


def test_operators_see_health_readiness_and_metrics(web: httpx.Client) -> None:
    web.post("/v1/embeddings", json={"input": "x"})
    assert web.get("/healthz").text == "ok\n"
    assert web.get("/readyz").text == "ready\n"
    metrics = web.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'pg_embed_requests_total{code="ok",door="http"}' in metrics.text


class Asked(StaticDirectory):
    """Tells when a request has come so far that its model is looked for."""

    def __init__(self, models: list[ModelSpec]) -> None:
        super().__init__(models)
        self.came = threading.Event()

    async def find(self, name: str) -> ModelSpec:
        """As ever."""
        self.came.set()
        return await super().find(name)


def test_a_graceful_stop_answers_what_is_in_hand() -> None:
    asked = Asked([SLOW])
    running = RunningSidecar(ServeSettings(http_port=0), directory=asked)
    running.start()

    def stop() -> None:
        assert asked.came.wait(PATIENCE), "the request did not come"
        running.stop()

    with httpx.Client(base_url=base(running)) as web:
        stopping = threading.Thread(target=stop)
        stopping.start()
        assert web.post("/v1/embeddings", json={"model": "slow", "input": "x"}).status_code == 200
        stopping.join()
        with pytest.raises(httpx.ConnectError):
            web.get("/healthz")


def test_models_are_those_of_the_catalog(dsn: str, db: psycopg.Connection[Any]) -> None:
    running = RunningSidecar(ServeSettings(http_port=0), directory=CatalogDirectory(dsn))
    with running, httpx.Client(base_url=base(running)) as web:
        asked = {"model": "mine", "input": "x"}
        assert web.post("/v1/embeddings", json=asked).json()["error"]["code"] == "PE001"
        card = '{"dimensions": 4, "metric": "cosine", "space_id": "s", "max_tokens": 10}'
        db.execute("SELECT embed.create_model('mine', 'fake', %s, card => %s)", ('{"dimensions": 4}', card))
        assert web.post("/v1/embeddings", json=asked).status_code == 200
        assert web.post("/v1/embeddings", json={"input": "x"}).json()["model"] == "mine"


def test_over_ipv6_the_address_can_be_opened() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    settings = ServeSettings(http_host="::1", http_port=0)
    with RunningSidecar(settings, directory=StaticDirectory([FAKE])) as running:
        assert base(running).startswith("http://[::1]:")
        assert httpx.get(f"{base(running)}/healthz").text == "ok\n"


def test_texts_are_reranked_as_cohere_does(web: httpx.Client) -> None:
    asked = {"query": "red fox", "documents": ["a dog", {"text": "a red fox"}, "a fox"], "top_n": 2}
    answer = web.post("/v1/rerank", json={"model": "reranker", **asked, "return_documents": True})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model": "reranker",
        "results": [
            {"index": 1, "relevance_score": 1.0, "document": {"text": "a red fox"}},
            {"index": 2, "relevance_score": 0.5, "document": {"text": "a fox"}},
        ],
        "usage": {"total_tokens": 13},
    }
    assert web.post("/v1/rerank", json=asked).json()["model"] == "reranker"  # the only one


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"model": "none"}, 404, "PE001"),
        ({"model": "fake"}, 400, "PE003"),
        ({"documents": ["poison"]}, 400, "PE021"),
        ({"documents": ["storm"]}, 503, "PE020"),
        ({"documents": []}, 400, "PE023"),
    ],
)
def test_errors_of_reranking_are_those_of_embeddings(
    web: httpx.Client, asked: dict[str, Any], status: int, code: str
) -> None:
    answer = web.post("/v1/rerank", json={"query": "q", "documents": ["a"], **asked})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_embeddings_of_a_reranker_are_refused(web: httpx.Client) -> None:
    answer = web.post("/v1/embeddings", json={"model": "reranker", "input": "x"})
    assert answer.status_code == 400
    assert (
        "makes no dense vectors (it makes scores of texts for a query)" in answer.json()["error"]["message"]
    )


def test_reranking_wants_the_token_too(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("open sesame\n")
    settings = ServeSettings(http_port=0, http_token_file=tmp_path / "token")
    directory = StaticDirectory([RERANKER], rerankers=["reranker"])
    with RunningSidecar(settings, directory=directory) as running:
        for key, status in (("open sesame", 200), ("open", 401)):
            with httpx.Client(base_url=base(running), headers={"Authorization": f"Bearer {key}"}) as web:
                answer = web.post("/v1/rerank", json={"query": "q", "documents": ["x"]})
                assert answer.status_code == status


def test_the_only_reranker_of_the_catalog_is_meant(dsn: str, db: psycopg.Connection[Any]) -> None:
    running = RunningSidecar(ServeSettings(http_port=0), directory=CatalogDirectory(dsn))
    for name, card in (("one", {}), ("mine", {"outputs": ["score"]})):
        told = {"dimensions": 1, "metric": "ip", "space_id": "s", **card}
        db.execute("SELECT embed.create_model(%s, 'fake_reranker', card => %s)", (name, Jsonb(told)))
    with running, httpx.Client(base_url=base(running)) as web:
        asked = {"query": "x", "documents": ["x"]}
        assert web.post("/v1/rerank", json=asked).json()["model"] == "mine"


def test_a_connection_that_never_asks_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.7)
    with RunningSidecar(ServeSettings(http_port=0)) as running:
        for said in (b"", b"GET /healthz HTT"):
            with connected(running) as silent:
                silent.sendall(said)
                assert silent.recv(1) == b""
        answer = httpx.post(f"{base(running)}/v1/embeddings", json={"model": "slow", "input": "x"})
        assert answer.status_code == 200, "a slow answer is no silence of the client's"


def test_a_request_that_does_not_come_is_refused() -> None:
    with RunningSidecar(ServeSettings(http_port=0, http_timeout=0.2)) as running, connected(running) as slow:
        slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b"400" in slow.recv(100).splitlines()[0]


def test_a_client_that_goes_away_is_counted_as_gone() -> None:
    with RunningSidecar(ServeSettings(http_port=0)) as running, httpx.Client(base_url=base(running)) as web:
        with connected(running) as hasty:
            body = b'{"model": "slow", "input": "x"}'
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            hasty.sendall(head.encode() + body)
        until = time.monotonic() + PATIENCE
        while 'pg_embed_requests_total{code="gone",door="http"} 1.0' not in web.get("/metrics").text:
            assert time.monotonic() < until, "the client is not counted as gone"
            time.sleep(0.02)


def connected(sidecar: RunningSidecar) -> socket.socket:
    """A connection to the door."""
    url = httpx.URL(base(sidecar))
    return socket.create_connection((url.host, url.port or 0), timeout=PATIENCE)


def test_models_that_were_read_are_known_while_the_database_is_away(
    dsn: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "CATALOG_LIFETIME", 0.0)
    create_fake_model(db, "mine")
    models = CatalogDirectory(dsn)

    async def ask() -> None:
        found = await models.find("mine")
        models._dsn = "host=/nowhere"
        assert await models.find("mine") == await models.default() == found
        with pytest.raises(DatabaseError):
            await models.find("another")
        models._dsn = dsn
        with pytest.raises(UnknownModel):
            await models.find("another")

    asyncio.run(ask())


async def test_a_database_that_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "READ_TIMEOUT", 1.0)
    callers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: callers.append(writer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        models = CatalogDirectory(f"host=127.0.0.1 port={port} user=x dbname=x sslmode=disable")
        found = await asyncio.gather(*(models.default() for _ in range(5)), return_exceptions=True)
        assert [type(error) for error in found] == [DatabaseError] * 5
        assert len(callers) == 1
        callers[0].close()


def test_a_client_is_told_for_how_long_a_provider_wants_to_be_left_alone() -> None:
    refused = http._error(503, ModelUnavailable("too many calls", retry_after=12.2))
    assert refused.headers["retry-after"] == "13"
    assert http._error(503, ModelUnavailable("down")).headers["retry-after"] == "1"
