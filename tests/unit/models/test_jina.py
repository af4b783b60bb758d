"""What is the family "jina"'s own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, ModelUnavailable
from pg_embed.models.jina import load
from pg_embed.models.provider import HostedEmbedder
from pg_embed.records import ModelSpec
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
