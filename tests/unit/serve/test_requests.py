"""Bytes of a request in, bytes of its answer out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, ModelUnavailable, Overloaded, SidecarTimeout, UnknownModel
from pg_embed.records import (
    Card,
    Embeddings,
    Kind,
    ModelSpec,
    Outputs,
    Priority,
    Scores,
    SparseVectors,
    TokenVectors,
    starts,
)
from pg_embed.serve.requests import LATE, answer

ID = "0b5e4a52-6a0e-4d35-9a3e-0f5b4f1f7f3a"
CARD = Card("fake", "hash", ("dense", "sparse", "multi"), 2, 100, "cosine", "space-1", sparse_dimensions=5)


class StubEngine:
    """Gives what it was told to give, and remembers what it was asked."""

    def __init__(self, result: Any = None) -> None:
        self.result = np.array([[0.1, -1e-7]]) if result is None else result
        self.asked: list[tuple[Any, ...]] = []

    async def card(self, spec: ModelSpec, timeout: float) -> Card:
        return CARD

    async def embed(
        self,
        spec: ModelSpec,
        texts: Sequence[str],
        kind: Kind,
        priority: Priority,
        timeout: float,
        outputs: Outputs,
    ) -> Embeddings:
        self.asked.append((spec, list(texts), kind, priority, timeout))
        self.outputs = outputs
        if isinstance(self.result, Exception):
            raise self.result
        if isinstance(self.result, Embeddings):
            return self.result
        return Embeddings(np.asarray(self.result, np.float32), tokens=3)

    async def rerank(
        self, spec: ModelSpec, query: str, texts: Sequence[str], priority: Priority, timeout: float
    ) -> Scores:
        self.asked.append((spec, query, list(texts), priority, timeout))
        if isinstance(self.result, Exception):
            raise self.result
        return Scores(np.asarray(self.result, np.float32), tokens=3)

    async def count(self, spec: ModelSpec, texts: Sequence[str], timeout: float) -> list[int] | None:
        return [len(text) for text in texts]


def asked(**other: Any) -> dict[str, Any]:
    model = {"name": "m", "family": "fake", "options": {"dimensions": 2}}
    return {"v": 1, "id": ID, "op": "embed", "model": model, "texts": ["a"], "timeout": 5, **other}


async def ask(engine: StubEngine, fields: Any) -> dict[str, Any]:
    request = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    result: dict[str, Any] = json.loads(await answer(engine, request))
    return result


async def test_vectors_are_text_with_the_shortest_digits_that_give_the_same_float32() -> None:
    told = await ask(StubEngine(), asked())
    assert told == {"id": ID, "vectors": ["[0.1,-1e-7]"], "tokens": 3, "space_id": "space-1"}


async def test_sparse_and_token_vectors_are_spelled_as_pgvector_reads_them() -> None:
    found = Embeddings(
        np.empty((2, 0), np.float32),
        sparse=SparseVectors(starts([2, 0]), np.array([0, 4], np.int32), np.array([0.1, 2], np.float32)),
        multi=TokenVectors(starts([2, 0]), np.array([[1, 0.5], [0, 1]], np.float32)),
    )
    engine = StubEngine(found)
    sparse = await ask(engine, asked(texts=["a", "b"], output="sparse"))
    assert engine.outputs == {"sparse"}
    assert sparse["vectors"] == ["{1:0.1,5:2.0}/5", "{}/5"]
    multi = await ask(engine, asked(texts=["a", "b"], output="multi"))
    assert multi["vectors"] == ['{"[1.0,0.5]","[0.0,1.0]"}', "{}"]


async def test_an_answer_begins_with_the_id_which_the_transports_compare() -> None:
    raw = await answer(StubEngine(), json.dumps(asked(id=ID.upper())).encode())
    assert raw.startswith(b'{"id":"%b",' % ID.encode())


async def test_queries_go_before_documents() -> None:
    engine = StubEngine()
    await ask(engine, asked(kind="query"))
    await ask(engine, asked(kind="document"))
    assert [call[3] for call in engine.asked] == [Priority.QUERY, Priority.LIVE]


async def test_ping_needs_no_model() -> None:
    assert await ask(StubEngine(), {"v": 1, "id": ID, "op": "ping"}) == {"id": ID, "pong": True}


async def test_tokens_are_counted_without_vectors() -> None:
    engine = StubEngine()
    assert await ask(engine, asked(op="count", texts=["a", "bcd"])) == {"id": ID, "counts": [1, 3]}
    assert engine.asked == []


async def test_card_is_told() -> None:
    assert (await ask(StubEngine(), asked(op="card")))["card"] == json.loads(json.dumps(CARD.as_dict()))


async def test_a_known_model_needs_no_family_and_is_told_with_it() -> None:
    engine = StubEngine()
    model = {"name": "all-MiniLM-L6-v2", "options": {"dimensions": 64}}
    told = await ask(engine, asked(op="card", model=model))
    assert told["family"] == "sentence_transformers"
    assert told["options"] == {"checkpoint": "all-MiniLM-L6-v2", "dimensions": 64}
    told = await ask(engine, asked(op="card", model={"name": "unheard of"}))
    assert told["error"]["code"] == UnknownModel.sqlstate
    assert "all-MiniLM-L6-v2" in told["error"]["hint"]


async def test_a_card_has_the_price_of_a_known_model_and_what_its_licence_allows() -> None:
    told = await ask(StubEngine(), asked(op="card", model={"name": "voyage-4-lite"}))
    assert told["price"] == 0.02
    assert (told["known"]["name"], told["known"]["commercial"]) == ("voyage-4-lite", True)
    model = {"name": "m", "family": "splade", "options": {"checkpoint": "naver/splade-v3"}}
    told = await ask(StubEngine(), asked(op="card", model=model))
    assert (told["price"], told["known"]["commercial"]) == (None, False)
    told = await ask(StubEngine(), asked(op="card"))
    assert (told["price"], told["known"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, '"v" must be 1'),
        ({"op": "dance"}, '"op" must be "embed", "rerank", "count", "card" or "ping"'),
        ({"kind": "riddle"}, '"kind" must be "query" or "document"'),
        ({"texts": []}, '"texts" must have 1 to 10000 texts, not 0'),
        ({"texts": "a"}, '"texts" must be an array of strings'),
        ({"texts": ["a", None]}, '"texts" must be an array of strings'),
        ({"timeout": 0}, '"timeout" must be a number of seconds up to 3600'),
        ({"timeout": True}, '"timeout" must be a number of seconds up to 3600'),
        ({"model": None}, '"model" must be an object'),
        ({"model": {"name": "m"}}, '"model" must have a "name", a "family" and an object of "options"'),
        ({"space_id": 7}, '"space_id" must be a string'),
    ],
)
async def test_a_bad_request_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    told = await ask(StubEngine(), asked(**change))
    assert (told["id"], told["error"]["code"], told["error"]["message"]) == (ID, "PE023", message)


@pytest.mark.parametrize("request_", [b"", b"no json", b"[1]", b'{"v":1}', b'{"id":7}', b"\xff"])
async def test_a_request_without_an_id_gets_an_answer_without_one(request_: bytes) -> None:
    told = await ask(StubEngine(), request_)
    assert (told["id"], told["error"]["code"]) == (None, "PE023")


async def test_a_foreign_space_is_refused_before_anything_is_computed() -> None:
    engine = StubEngine()
    told = await ask(engine, asked(space_id="space-0"))
    assert told["error"]["code"] == "PE030"
    assert engine.asked == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded(), "PE012"),
        (InputRejected("too long", hint="cut it"), "PE021"),
        (ModelUnavailable("try later"), "PE020"),
    ],
)
async def test_errors_of_the_engine_keep_code_message_and_hint(error: Any, code: str) -> None:
    told = await ask(StubEngine(error), asked())
    assert told["error"] == {"code": code, "message": str(error), "hint": error.hint}


async def test_an_unexpected_error_is_logged_and_told_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = await ask(StubEngine(ZeroDivisionError("secret")), asked())
    assert told["error"]["code"] == "PE020"
    assert "secret" not in json.dumps(told)
    assert "ZeroDivisionError: secret" in caplog.text


async def test_a_timeout_has_the_hint_that_the_transports_give() -> None:
    told = await ask(StubEngine(SidecarTimeout("too late")), asked(timeout=3))
    assert told["error"] == {"code": "PE011", "message": "too late", "hint": LATE}


async def test_the_engine_is_told_what_is_left_of_the_time() -> None:
    engine = StubEngine()
    await ask(engine, asked(timeout=3))
    assert 2 < engine.asked[0][4] <= 3


async def test_a_vector_that_is_no_vector_is_an_error() -> None:
    assert (await ask(StubEngine([[1.0, float("nan")]]), asked()))["error"]["code"] == "PE020"


def asked_for_scores(**other: Any) -> dict[str, Any]:
    return asked(op="rerank", query="q", texts=["a", "b"], **other)


async def test_scores_are_numbers_with_the_shortest_digits_that_give_the_same_float32() -> None:
    engine = StubEngine([0.1, -1e-7])
    told = await answer(engine, json.dumps(asked_for_scores(timeout=3)).encode())
    assert told == b'{"id":"%b","scores":[0.1,-1e-7],"tokens":3}' % ID.encode()
    [(spec, query, texts, priority, timeout)] = engine.asked
    assert (spec.name, query, texts, priority) == ("m", "q", ["a", "b"], Priority.QUERY)
    assert 2 < timeout <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, '"query" must be a string'),
        ({"query": ["q"]}, '"query" must be a string'),
        ({"texts": []}, '"texts" must have 1 to 10000 texts, not 0'),
        ({"texts": ["a"] * 10_001}, '"texts" must have 1 to 10000 texts, not 10001'),
        ({"texts": ["a", None]}, '"texts" must be an array of strings'),
        ({"model": {"name": "m"}}, '"model" must have a "name", a "family" and an object of "options"'),
    ],
)
async def test_a_bad_request_for_scores_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    told = await ask(StubEngine(), {**asked_for_scores(), **change})
    assert (told["id"], told["error"]["code"], told["error"]["message"]) == (ID, "PE023", message)


async def test_errors_of_a_reranker_keep_code_message_and_hint() -> None:
    told = await ask(StubEngine(Overloaded("too many", hint="later")), asked_for_scores())
    assert told["error"] == {"code": "PE012", "message": "too many", "hint": "later"}
