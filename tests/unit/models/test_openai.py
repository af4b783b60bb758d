"""The family "openai" against a local server with the published contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import stamina

from pg_embed.errors import InputRejected, InvalidArgument, ModelError, ModelMisconfigured, ModelUnavailable
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.hosted import ATTEMPTS
from pg_embed.models.openai import load
from pg_embed.models.provider import HostedEmbedder
from pg_embed.records import ModelSpec
from tests.providers.server import Fault, ProviderServer

KEY = "sk-test-0123456789abcdef"
Connect = Callable[..., HostedEmbedder]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


@pytest.fixture
def connect(openai_server: ProviderServer) -> Iterator[Connect]:
    """Models on the server; closed at the end."""
    made: list[HostedEmbedder] = []

    def connect(**options: Any) -> HostedEmbedder:
        options = {"base_url": openai_server.base_url, "model": "small", "dimensions": 8, **options}
        made.append(load(ModelSpec("openai", "openai", {k: v for k, v in options.items() if v is not None})))
        return made[-1]

    yield connect
    for embedder in made:
        embedder.close()


def expected(*texts: str) -> np.ndarray[Any, Any]:
    return FakeEmbedder(FakeOptions(dimensions=8)).embed(texts, "document").dense


def test_vectors_and_tokens_are_the_servers(connect: Connect) -> None:
    embeddings = connect().embed(["one", "two words"], "document")
    assert np.array_equal(embeddings.dense, expected("one", "two words"))
    assert embeddings.tokens == 4


def test_a_list_of_numbers_will_do_instead_of_base64(connect: Connect, openai_server: ProviderServer) -> None:
    openai_server.base64 = False
    assert np.array_equal(connect().embed(["one"], "document").dense, expected("one"))


def test_vectors_are_sorted_by_index(connect: Connect) -> None:
    texts = ["a", "b SHUFFLE", "c"]
    assert np.array_equal(connect().embed(texts, "document").dense, expected(*texts))


def test_dimensions_that_are_not_given_are_asked_for_once(
    connect: Connect, openai_server: ProviderServer
) -> None:
    embedder = connect(dimensions=None)
    embedder.embed(["one"], "document")
    assert embedder.card.dimensions == 8
    assert [len(request["input"]) for request in openai_server.requests] == [1, 1]
    assert all("dimensions" not in request for request in openai_server.requests)


def test_dimensions_that_are_given_are_sent_and_cost_no_call(
    connect: Connect, openai_server: ProviderServer
) -> None:
    embedder = connect(dimensions=5)
    assert openai_server.requests == []
    assert embedder.embed(["one"], "document").dense.shape == (1, 5)
    assert openai_server.requests[0]["dimensions"] == 5


def test_prompts_are_put_in_front(connect: Connect, openai_server: ProviderServer) -> None:
    embedder = connect(query_prompt="query: ", document_prompt="passage: ")
    embedder.embed(["a"], "query")
    embedder.embed(["a"], "document")
    assert [request["input"] for request in openai_server.requests] == [["query: a"], ["passage: a"]]


def test_an_empty_text_is_sent_as_a_space(connect: Connect, openai_server: ProviderServer) -> None:
    connect().embed(["", "a"], "document")
    assert openai_server.requests[0]["input"] == [" ", "a"]


@pytest.mark.parametrize("word", ["POISON", "UNPROCESSABLE", "TOO_LARGE"])
def test_a_refused_input_is_said_so(connect: Connect, word: str) -> None:
    with pytest.raises(InputRejected):
        connect().embed(["good", f"a {word} pill"], "document")


def test_a_text_over_the_servers_limit_is_refused(connect: Connect) -> None:
    with pytest.raises(InputRejected, match="maximum context length"):
        connect().embed(["word " * 20_000], "document")


@pytest.mark.parametrize("word", ["UNAUTHORIZED", "FORBIDDEN", "NO_MODEL", "QUOTA"])
def test_what_only_the_operator_can_mend_is_a_misconfiguration(connect: Connect, word: str) -> None:
    with pytest.raises(ModelMisconfigured):
        connect().embed([word], "document")


def test_a_refused_dimension_is_not_a_refused_text(connect: Connect) -> None:
    with pytest.raises(ModelMisconfigured, match="dimensions"):
        connect(model="text-embedding-ada-002").embed(["good"], "document")


def test_a_refused_probe_is_a_misconfiguration(connect: Connect, openai_server: ProviderServer) -> None:
    openai_server.faults.append(Fault(400, "not like this"))
    with pytest.raises(ModelMisconfigured, match="not like this"):
        connect(dimensions=None)


@pytest.mark.parametrize(("word", "seconds"), [("RATE_LIMIT", 7), ("RATE_MS", 1.5), ("UNAVAILABLE", 3)])
def test_the_wait_that_a_server_asks_for_is_passed_on_and_not_waited_for(
    connect: Connect, openai_server: ProviderServer, word: str, seconds: float
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        connect().embed([word], "document")
    assert caught.value.retry_after == seconds
    assert len(openai_server.requests) == 1


def test_a_wait_may_be_given_as_a_date(connect: Connect, openai_server: ProviderServer) -> None:
    for date in ("Wed, 21 Oct 2015 07:28:00 GMT", "tomorrow"):
        openai_server.faults.append(Fault(429, "slow down", headers={"Retry-After": date}))
    waits = []
    for _ in range(2):
        with pytest.raises(ModelUnavailable) as caught:
            connect().embed(["a"], "document")
        waits.append(caught.value.retry_after)
    assert waits == [0, None]


def test_a_server_error_that_passes_is_not_seen(connect: Connect, openai_server: ProviderServer) -> None:
    openai_server.faults.extend([Fault(500), Fault(503)])
    assert len(connect().embed(["one"], "document").dense) == 1
    assert len(openai_server.requests) == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("SERVER_ERROR", "answered 500"),
        ("CUT", "cannot be reached"),
        ("HTML", "not JSON"),
        ("NO_VECTORS", "no usable answer"),
        ("SHORT", "1 vectors for 2 texts"),
        ("NAN", "not finite"),
        ("WIDE", "9 dimensions, expected 8"),
        ("DOUBLED", "indexes are missing or doubled"),
        ("RAGGED", "no usable answer"),
    ],
)
@pytest.mark.parametrize("base64", [True, False])
def test_an_answer_that_cannot_be_trusted_is_never_a_vector(
    connect: Connect, openai_server: ProviderServer, word: str, message: str, base64: bool
) -> None:
    openai_server.base64 = base64
    if (word, base64) == ("NAN", False):
        message = "no usable answer"  # JSON has no NaN: null arrives
    with pytest.raises(ModelUnavailable, match=message):
        connect().embed(["good", word], "document")


def test_a_server_that_hangs_is_given_up(connect: Connect) -> None:
    with pytest.raises(ModelUnavailable, match=r"did not answer within 0\.2 seconds"):
        connect(timeout=0.2).embed(["HANG"], "document")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    embedder = load(
        ModelSpec("m", "openai", {"base_url": "http://127.0.0.1:1/v1", "model": "m", "dimensions": 8})
    )
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        embedder.embed(["a"], "document")
    embedder.close()


def test_the_key_comes_from_the_environment_and_stands_in_no_error(
    connect: Connect, openai_server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_EMBED_TEST_KEY", KEY)
    openai_server.key = KEY
    assert len(connect(api_key_env="PG_EMBED_TEST_KEY").embed(["a"], "document").dense) == 1
    openai_server.key = "another"
    with pytest.raises(ModelMisconfigured) as caught:
        connect(api_key_env="PG_EMBED_TEST_KEY").embed(["a"], "document")
    assert KEY not in repr(chain(caught.value))


def chain(error: BaseException | None) -> list[str]:
    """The messages of an error and of what caused it."""
    return [] if error is None else [str(error), *chain(error.__cause__ or error.__context__)]


def test_a_lone_surrogate_is_refused(connect: Connect) -> None:
    with pytest.raises(InputRejected):
        connect().embed(["\ud800"], "document")


def test_the_space_is_that_of_the_weights_not_of_the_way_to_them(connect: Connect) -> None:
    plain = connect().card.space_id
    assert connect(timeout=3, concurrency=2, max_batch_items=7).card.space_id == plain
    different: list[dict[str, Any]] = [
        {"model": "large"},
        {"dimensions": 5},
        {"query_prompt": "q: "},
        {"space": "ours"},
    ]
    assert len({plain, *(connect(**options).card.space_id for options in different)}) == 5


def test_a_named_space_outlives_the_move_of_a_server(connect: Connect) -> None:
    here, there = connect(space="ours"), connect(space="ours", base_url="http://elsewhere.example/v1/")
    assert here.card.space_id == there.card.space_id


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "host/v1", "https://user:secret@host/v1", "https://host/v1?key=secret", "http://"],
)
def test_a_base_url_that_is_none_or_holds_a_secret_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        connect(base_url=url)
    assert "secret" not in str(caught.value)


def test_the_servers_own_words_are_kept_short(connect: Connect, openai_server: ProviderServer) -> None:
    openai_server.faults.append(Fault(400, "no " * 10_000))
    with pytest.raises(ModelError) as caught:
        connect().embed(["a"], "document")
    assert len(str(caught.value)) < 500
