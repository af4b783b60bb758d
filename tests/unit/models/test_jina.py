"""What is the family "jina"'s own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, ModelUnavailable
from pg_embed.models.contextual import ContextualEmbedder
from pg_embed.models.jina import load
from pg_embed.models.provider import HostedEmbedder
from pg_embed.records import ModelSpec
from tests.providers.jina_server import late_vectors, token_vectors
from tests.providers.server import Fault, ProviderServer

SMALL, NANO = "jina-embeddings-v5-text-small", "jina-embeddings-v5-text-nano"
V4, V3 = "jina-embeddings-v4", "jina-embeddings-v3"
Connect = Callable[..., HostedEmbedder]


@pytest.fixture
def server(start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """Jina's contract on this machine."""
    return start_provider("jina")


@pytest.fixture
def connect(server: ProviderServer) -> Iterator[Connect]:
    """Models on the server; closed at the end."""
    made: list[HostedEmbedder] = []

    def connect(model: str = SMALL, **options: Any) -> HostedEmbedder:
        made.append(load(ModelSpec("j", "jina", {"base_url": server.base_url, "model": model, **options})))
        return made[-1]

    yield connect
    for embedder in made:
        embedder.close()


@pytest.mark.parametrize(
    ("model", "size", "more"),
    [
        (SMALL, 1024, {"normalized": True}),
        (NANO, 768, {"normalized": True}),
        (V4, 2048, {}),
        (V3, 1024, {"normalized": True}),
    ],
)
def test_each_model_is_asked_in_the_fields_that_it_has(
    connect: Connect, server: ProviderServer, model: str, size: int, more: dict[str, Any]
) -> None:
    embedder = connect(model)
    embedder.embed(["a"], "query")
    embedder.embed(["b"], "document")
    assert embedder.card.dimensions == size
    assert server.requests == [
        {
            "model": model,
            "input": [text],
            "task": task,
            "dimensions": size,
            "truncate": True,
            "embedding_type": "base64",
            **more,
        }
        for text, task in (("a", "retrieval.query"), ("b", "retrieval.passage"))
    ]


def test_a_size_that_the_model_was_not_trained_for_is_refused(connect: Connect) -> None:
    assert connect(NANO, dimensions=32).embed(["a"], "document").dense.shape == (1, 32)
    with pytest.raises(InvalidArgument, match="1024 dimensions"):
        connect(NANO, dimensions=1024)


def test_a_long_text_is_cut_unless_told_otherwise(connect: Connect) -> None:
    long = "word " * 10_000
    assert len(connect(NANO).embed([long], "document").dense) == 1
    with pytest.raises(InputRejected, match="maximum context length"):
        connect(NANO, truncate=False).embed([long], "document")


def test_an_empty_account_is_said_so(connect: Connect, server: ProviderServer) -> None:
    server.faults.append(Fault(403, "Insufficient account balance", "AUTHZ_INSUFFICIENT_BALANCE"))
    with pytest.raises(ModelMisconfigured, match="Insufficient account balance") as caught:
        connect().embed(["a"], "document")
    assert "balance" in str(caught.value.hint)
    assert len(server.requests) == 1


@pytest.mark.parametrize("limit", ["REQUEST", "TOKEN", "CONCURRENCY", "IP"])
def test_a_limit_of_the_account_passes(connect: Connect, server: ProviderServer, limit: str) -> None:
    server.faults.append(Fault(429, "wait", f"RATE_{limit}_LIMIT_EXCEEDED"))
    with pytest.raises(ModelUnavailable, match="answered 429: wait"):
        connect().embed(["a"], "document")


def test_a_model_that_is_not_there_is_no_fault_of_the_text(connect: Connect, server: ProviderServer) -> None:
    with pytest.raises(ModelMisconfigured, match="not found"):
        connect("jina-embeddings-v9", dimensions=8).embed(["a"], "document")
    with pytest.raises(ModelMisconfigured, match="not found"):
        connect("jina-embeddings-v9")


@pytest.mark.parametrize("base64", [True, False])
def test_token_vectors_are_those_of_each_text(connect: Connect, server: ProviderServer, base64: bool) -> None:
    server.base64 = base64
    embedder = connect(V4, output="multi")
    texts = ["several words here", "", "naïve Größe 東京 🦜"]
    found = embedder.embed(texts, "document")
    embedder.embed(["a"], "query")
    assert found.multi is not None
    assert found.dense.shape == (3, 0)
    assert found.multi.vectors.dtype == np.float32
    for row, text in enumerate(texts):
        assert np.array_equal(found.multi.row(row), token_vectors(text or " "))
    assert found.tokens > 0
    assert server.requests == [
        {
            "model": V4,
            "input": given,
            "task": task,
            "truncate": True,
            "embedding_type": "base64",
            "return_multivector": True,
        }
        for given, task in (
            (["several words here", " ", texts[2]], "retrieval.passage"),
            (["a"], "retrieval.query"),
        )
    ]


def test_token_vectors_are_put_in_order(connect: Connect) -> None:
    texts = ["a b", "c d e SHUFFLE", "f"]
    found = connect(V4, output="multi").embed(texts, "document").multi
    assert found is not None
    assert all(np.array_equal(found.row(row), token_vectors(text)) for row, text in enumerate(texts))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("SHORT", "vectors for 1 of 2 texts"),
        ("NAN", "no usable answer"),
        ("WIDE", "no usable answer|129 dimensions, expected 128"),
        ("DOUBLED", "indexes are missing or doubled"),
        ("RAGGED", "no usable answer"),
        ("NO_VECTORS", "no usable answer"),
    ],
)
@pytest.mark.parametrize("base64", [True, False])
def test_token_vectors_that_cannot_be_trusted_are_none(
    connect: Connect, server: ProviderServer, word: str, message: str, base64: bool
) -> None:
    server.base64 = base64
    with pytest.raises(ModelUnavailable, match=message):
        connect(V4, output="multi").embed(["good", word], "document")


def test_a_text_without_vectors_is_no_usable_answer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = connect(V4, output="multi")
    for told in (b"[]", b"[[]]", b'["x"]', b"[[1], [2, 3]]", b"null", b"[1, 2]"):
        body = b'{"data": [{"index": 0, "embeddings": ' + told + b"}]}"
        monkeypatch.setattr(embedder._endpoint, "post", lambda payload, body=body: body)
        with pytest.raises(ModelUnavailable, match=r"no usable answer|gave 0 dimensions"):
            embedder.embed(["a"], "document")


def test_token_vectors_have_one_size_and_a_space_of_their_own(connect: Connect) -> None:
    card = connect(V4, output="multi").card
    assert (card.outputs, card.dimensions, card.size("multi")) == (("multi",), 128, 128)
    assert card.max_batch_tokens == 32_768
    assert card.space_id != connect(V4, dimensions=128).card.space_id
    with pytest.raises(InvalidArgument, match="64 dimensions"):
        connect(V4, output="multi", dimensions=64)
    with pytest.raises(InvalidArgument, match="makes no token vectors"):
        connect(V3, output="multi")


@pytest.mark.parametrize("base64", [True, False])
@pytest.mark.parametrize("model", [V3, V4])
def test_late_chunking_takes_one_document_a_call(
    connect: Connect, server: ProviderServer, model: str, base64: bool
) -> None:
    server.base64 = base64
    embedder = connect(model, late_chunking=True, dimensions=128)
    assert isinstance(embedder, ContextualEmbedder)
    documents = [["one", "two SHUFFLE", ""], [], ["one"], ["naïve 東京", "five"]]
    found = embedder.embed_chunks(documents)
    for document, result in zip(documents, found, strict=True):
        assert result.dense.shape == (len(document), 128)
        if document:
            assert np.array_equal(result.dense, late_vectors([chunk or " " for chunk in document], 128))
            assert result.tokens > 0
    assert [request["input"] for request in server.requests] == [
        ["one", "two SHUFFLE", " "],
        ["one"],
        ["naïve 東京", "five"],
    ]
    for request in server.requests:
        told = (request["late_chunking"], request["truncate"], request["task"], request["dimensions"])
        assert told == (True, False, "retrieval.passage", 128)


def test_texts_and_queries_of_a_model_with_late_chunking_are_by_themselves(
    connect: Connect, server: ProviderServer
) -> None:
    embedder = connect(V3, late_chunking=True)
    plain = connect(V3)
    for kind in ("query", "document"):
        assert np.array_equal(embedder.embed(["a", "b"], kind).dense, plain.embed(["a", "b"], kind).dense)
    assert all("late_chunking" not in request for request in server.requests)
    assert embedder.card.space_id != plain.card.space_id


def test_a_document_that_is_too_long_for_late_chunking_is_refused(connect: Connect) -> None:
    embedder = connect(V3, late_chunking=True)
    assert isinstance(embedder, ContextualEmbedder)
    with pytest.raises(InputRejected, match="8192"):
        embedder.embed_chunks([["word " * 4_000] * 2])


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (SMALL, {}, "does no late chunking"),
        (NANO, {}, "does no late chunking"),
        (V4, {"output": "multi"}, "output is multi"),
    ],
)
def test_late_chunking_is_refused_where_the_api_has_none(
    connect: Connect, model: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidArgument, match=told) as caught:
        connect(model, late_chunking=True, **options)
    assert caught.value.hint
