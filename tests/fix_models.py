"""Models for tests: MiniLM, a hosted one on a local server, and one whose calls a test lets go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pg_embed.errors import PgEmbedError
from pg_embed.models.presets import presets
from pg_embed.models.registry import Registry, default_registry
from pg_embed.protocols import Embedder, Reranker
from pg_embed.records import VECTORS, Card, Embeddings, Kind, ModelSpec, Outputs, Scores
from tests.providers.cohere_server import cohere_server
from tests.providers.jina_server import jina_server
from tests.providers.openai_server import openai_server as make_openai_server
from tests.providers.ranking_server import (
    cohere_ranking_server,
    jina_ranking_server,
    served_ranking_server,
    voyage_ranking_server,
)
from tests.providers.server import ProviderServer, serving
from tests.providers.tei_server import tei_ranking_server, tei_server, tei_sparse_server
from tests.providers.voyage_server import voyage_context_server, voyage_server

PATIENCE = 20.0  # seconds that a test waits for another thread before it fails
PROVIDERS = {
    "openai": make_openai_server,
    "voyage": voyage_server,
    "cohere": cohere_server,
    "jina": jina_server,
}
RANKERS = {
    "voyage_reranker": voyage_ranking_server,
    "cohere_reranker": cohere_ranking_server,
    "jina_reranker": jina_ranking_server,
    "openai_reranker": served_ranking_server,
}
TEI = {"tei": tei_server, "tei_sparse": tei_sparse_server, "tei_reranker": tei_ranking_server}
SERVERS = {**PROVIDERS, **RANKERS, **TEI, "voyage_context": voyage_context_server}
STEPPED = ModelSpec("stepped", "stepped")
CARD = Card(
    family="stepped",
    checkpoint="none",
    outputs=("dense",),
    dimensions=1,
    max_tokens=100,
    metric="cosine",
    space_id="stepped",
    concurrency=2,
    max_batch_items=4,
    max_batch_tokens=100,
)


@dataclass(eq=False)
class Call:
    """One call of a stepped model, which waits until the test lets it go."""

    texts: list[str]
    kind: str  # of a reranker the query
    thread: str
    _gate: threading.Event
    _error: BaseException | None = None

    def go(self, error: BaseException | None = None) -> None:
        """Let the call end, with an error if given."""
        self._error = error
        self._gate.set()


class SteppedEmbedder:
    """A vector is its text's length, tokens are words; a call waits for the test, unless `free`."""

    def __init__(self, free: bool = False, **card: object) -> None:
        self.card = replace(CARD, **card)  # type: ignore[arg-type]
        self.calls: list[Call] = []
        self.closed = threading.Event()
        self._free = free
        self._changed = threading.Condition()
        self._seen = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words."""
        return [len(text.split()) for text in texts]

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Wait, then lengths."""
        self._step(texts, kind)
        return Embeddings(
            np.array([[len(text)] for text in texts], np.float32), sum(self.count_tokens(texts))
        )

    def _step(self, texts: Sequence[str], kind: str) -> None:
        call = Call(list(texts), kind, threading.current_thread().name, threading.Event())
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        if not self._free:
            assert call._gate.wait(PATIENCE), "the test never let the call go"
        if call._error is not None:
            raise call._error

    def close(self) -> None:
        """Remember it."""
        self.closed.set()

    def next_call(self) -> Call:
        """Wait for the next call to begin; in a test on an event loop, by `asyncio.to_thread`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) > self._seen, PATIENCE), "no call came"
            self._seen += 1
            return self.calls[self._seen - 1]


class SteppedReranker(SteppedEmbedder):
    """A score is the text's length."""

    def __init__(self, free: bool = False, **card: object) -> None:
        super().__init__(free, **{"outputs": ("score",), "metric": "ip", **card})

    def rerank(self, query: str, texts: Sequence[str]) -> Scores:
        """Wait, then lengths."""
        self._step(texts, query)
        return Scores(np.array([len(text) for text in texts], np.float32), sum(self.count_tokens(texts)))


class OneModel(Registry):
    """A registry whose every model is what a function makes."""

    def __init__(self, make: Callable[[ModelSpec], Embedder | Reranker | PgEmbedError]) -> None:
        super().__init__()
        self.loads: list[ModelSpec] = []
        self._make = make

    def load(self, spec: ModelSpec) -> Embedder | Reranker:
        """Make it, or raise it."""
        self.loads.append(spec)
        made = self._make(spec)
        if isinstance(made, PgEmbedError):
            raise made
        return made


@pytest.fixture
def stepped() -> SteppedEmbedder:
    """A model whose calls the test lets go."""
    return SteppedEmbedder()


@pytest.fixture(scope="session")
def minilm() -> Iterator[Embedder]:
    """all-MiniLM-L6-v2, from its package."""
    embedder = default_registry().load(presets()["all-MiniLM-L6-v2"].spec)
    yield embedder
    embedder.close()


@pytest.fixture
def start_provider() -> Iterator[Callable[[str], ProviderServer]]:
    """Start the local server of a hosted family; stopped at the end."""
    with ExitStack() as stack:
        yield lambda family: stack.enter_context(serving(SERVERS[family]))


@pytest.fixture
def openai_server(start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """OpenAI's contract on this machine."""
    return start_provider("openai")
