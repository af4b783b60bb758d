"""Chunks in their documents, by Voyage's contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import stamina

from pg_embed.errors import InputRejected, ModelMisconfigured, ModelUnavailable
from pg_embed.models.contextual import ContextualEmbedder, shares
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.hosted import ATTEMPTS
from pg_embed.models.voyage import load
from pg_embed.records import ModelSpec
from tests.providers.server import Fault, ProviderServer

Connect = Callable[..., ContextualEmbedder]
DOCUMENTS = [["one", "two", ""], [], ["three"], ["naïve Größe 東京 🦜", "five"]]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


@pytest.fixture
def server(start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """Voyage's contract for contextualised chunks on this machine."""
    return start_provider("voyage_context")


@pytest.fixture
def connect(server: ProviderServer) -> Iterator[Connect]:
    """Models on the server; closed at the end."""
    made: list[ContextualEmbedder] = []

    def connect(**options: Any) -> ContextualEmbedder:
        given = {"base_url": server.base_url, "model": "voyage-context-4", "dimensions": 256, **options}
        embedder = load(ModelSpec("v", "voyage", given))
        assert isinstance(embedder, ContextualEmbedder)
        made.append(embedder)
        return embedder

    yield connect
    for embedder in made:
        embedder.close()


def expected(*texts: str) -> np.ndarray[Any, Any]:
    return FakeEmbedder(FakeOptions(dimensions=256)).embed(texts, "document").dense


@pytest.mark.parametrize("base64", [True, False])
def test_each_document_has_the_vectors_of_its_chunks(
    connect: Connect, server: ProviderServer, base64: bool
) -> None:
    server.base64 = base64
    found = connect().embed_chunks(DOCUMENTS)
    assert [result.dense.shape for result in found] == [(3, 256), (0, 256), (1, 256), (2, 256)]
    for document, result in zip(DOCUMENTS, found, strict=True):
        assert np.array_equal(result.dense, expected(*(chunk or " " for chunk in document)))
    assert server.requests == [
        {
            "model": "voyage-context-4",
            "inputs": [["one", "two", " "], ["three"], ["naïve Größe 東京 🦜", "five"]],
            "input_type": "document",
            "output_dtype": "float",
            "output_dimension": 256,
            "encoding_format": "base64",
        }
    ]


def test_a_text_and_a_query_are_documents_of_one_chunk(connect: Connect, server: ProviderServer) -> None:
    embedder = connect()
    found = embedder.embed(["a", ""], "document")
    assert np.array_equal(found.dense, expected("a", " "))
    assert found.tokens > 0
    embedder.embed(["q"], "query")
    told = [(request["inputs"], request["input_type"]) for request in server.requests]
    assert told == [([["a"], [" "]], "document"), ([["q"]], "query")]


def test_documents_and_chunks_are_put_in_order(connect: Connect) -> None:
    documents = [["a", "b SHUFFLE", "c"], ["d", "e"]]
    found = connect().embed_chunks(documents)
    assert all(
        np.array_equal(result.dense, expected(*document))
        for document, result in zip(documents, found, strict=True)
    )


def test_a_document_is_never_divided(connect: Connect, server: ProviderServer) -> None:
    embedder = connect(max_batch_tokens=400)
    documents = [["chunk " * 5] * size for size in (3, 1, 9, 2, 2, 1, 30, 1)]
    found = embedder.embed_chunks(documents)
    assert [len(result) for result in found] == [3, 1, 9, 2, 2, 1, 30, 1]
    sent = [request["inputs"] for request in server.requests]
    assert [document for inputs in sent for document in inputs] == documents
    assert len(sent) > 3
    for inputs in sent:
        tokens = sum(sum(embedder.count_tokens(document)) for document in inputs)
        assert tokens <= 400 or len(inputs) == 1


def test_no_call_has_too_many_documents_or_chunks(connect: Connect, server: ProviderServer) -> None:
    embedder = connect(max_batch_tokens=10_000_000)
    embedder.embed_chunks([["a"]] * 1_001)
    assert [len(request["inputs"]) for request in server.requests] == [1_000, 1]
    server.requests.clear()
    embedder.embed_chunks([["a"] * 9_000] * 2)
    assert [len(request["inputs"]) for request in server.requests] == [1, 1]


def test_the_tokens_of_a_call_are_shared_out(connect: Connect) -> None:
    found = connect().embed_chunks([["one two three " * 50], ["a"], ["b c"]])
    assert found[0].tokens > found[1].tokens
    assert sum(result.tokens for result in found) == sum(
        FakeEmbedder(FakeOptions()).count_tokens(["one two three " * 50, "a", "b c"])
    )
    assert shares(10, [1, 1, 1]) == [3, 4, 3]
    assert sum(shares(7, [5, 1, 9, 2])) == 7


def test_a_document_that_is_too_long_is_refused(connect: Connect) -> None:
    with pytest.raises(InputRejected, match="32000 tokens"):
        connect().embed_chunks([["word " * 20_000, "word " * 20_000]])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("SHORT", "vectors for 2 texts|documents are missing"),
        ("DOUBLED", "documents are missing or doubled"),
        ("NAN", "no usable answer"),
        ("RAGGED", "no usable answer|dimensions, expected 256"),
        ("WIDE", "257 dimensions, expected 256"),
        ("HTML", "not JSON"),
        ("NO_VECTORS", "no usable answer"),
        ("CUT", "cannot be reached"),
    ],
)
def test_an_answer_that_cannot_be_trusted_is_never_a_vector(
    connect: Connect, word: str, message: str
) -> None:
    embedder = connect()
    with pytest.raises(ModelUnavailable, match=message):
        embedder.embed_chunks([["good"], ["bad", word]])
    with pytest.raises(ModelUnavailable, match=message.replace("vectors for 2 texts|", "")):
        embedder.embed(["good", word], "document")


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault(400), InputRejected), (Fault(401), ModelMisconfigured), (Fault(429), ModelUnavailable)],
    ids=["400", "401", "429"],
)
def test_the_providers_errors_are_told_apart(
    connect: Connect, server: ProviderServer, fault: Fault, error: type[Exception]
) -> None:
    server.faults.append(fault)
    with pytest.raises(error, match=f"answered {fault.status}"):
        connect().embed_chunks([["a"]])
    assert len(server.requests) == 1


def test_the_card_has_the_limits_and_a_space_of_its_own(connect: Connect) -> None:
    card = connect(dimensions=1024).card
    assert (card.dimensions, card.max_tokens) == (1024, 32_000)
    assert (card.max_batch_items, card.max_batch_tokens) == (1_000, 120_000)
    spaces = {connect(model=f"voyage-context-{number}").card.space_id for number in (3, 4)}
    assert len(spaces) == 2


def test_the_endpoint_is_another_on_both_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, host in (("pa-1", "https://api.voyageai.com"), ("al-1", "https://ai.mongodb.com")):
        monkeypatch.setenv("VOYAGE_API_KEY", key)
        embedder = load(ModelSpec("v", "voyage", {"model": "voyage-context-3"}))
        assert embedder._endpoint.url == f"{host}/v1/contextualizedembeddings"
        embedder.close()
