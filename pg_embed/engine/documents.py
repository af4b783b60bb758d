"""Documents through a model that reads the chunks of each together: calls of whole documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter

from pg_embed.engine.batcher import CLOSING, nothing
from pg_embed.engine.observer import Observer
from pg_embed.engine.throttle import Gate
from pg_embed.errors import ModelUnavailable, PgEmbedError
from pg_embed.protocols import ChunkEmbedder
from pg_embed.records import Allowance, Embeddings, Priority

Document = Sequence[str]
CALLS_PER_QUERY = 4  # of the calls that a model takes at once, one in so many is left for others


class Documents:
    """One model's calls of that kind; not more at once than leave some for its queries."""

    def __init__(self, embedder: ChunkEmbedder, name: str, observer: Observer, gate: Gate) -> None:
        self._embedder = embedder
        self._name = name
        self._observer = observer
        self._gate = gate
        self._allowance: Callable[[], Allowance | None] = getattr(embedder, "allowance", nothing)
        calls = embedder.card.concurrency
        self._calls = asyncio.Semaphore(max(1, calls - max(1, calls // CALLS_PER_QUERY)))

    async def embed(self, documents: Sequence[Document], priority: Priority) -> list[Embeddings]:
        """Vectors of each document's chunks, in their order."""
        found: list[Embeddings] = []
        for part in self._parts(documents):
            found += await self._call(documents[part], priority)
        return found

    def _parts(self, documents: Sequence[Document]) -> Iterator[slice]:
        """As many documents a call as the model's limits let pass; one that is too large goes alone."""
        card, start, tokens = self._gate.card, 0, 0
        for place, document in enumerate(documents):
            cost = sum(self._embedder.count_tokens(document))
            full = place - start >= card.max_batch_items or tokens + cost > card.max_batch_tokens
            if full and place > start:
                yield slice(start, place)
                start, tokens = place, 0
            tokens += cost
        if start < len(documents):
            yield slice(start, len(documents))

    async def _call(self, documents: Sequence[Document], priority: Priority) -> list[Embeddings]:
        call, error = object(), ModelUnavailable(CLOSING)
        outcome: list[Embeddings] | PgEmbedError = error
        chunks = sum(len(document) for document in documents)
        async with self._calls:
            try:
                if not self._gate.is_open:
                    tokens = sum(sum(self._embedder.count_tokens(document)) for document in documents)
                    if waited := await self._gate.admit(call, len(documents), tokens, priority):
                        self._observer.throttled(self._name, priority, waited)
                started = perf_counter()
                outcome = await asyncio.to_thread(self._outcome, documents)
                seconds = perf_counter() - started
            finally:
                failed = outcome if isinstance(outcome, PgEmbedError) else None
                used = 0 if isinstance(outcome, PgEmbedError) else sum(found.tokens for found in outcome)
                self._gate.settle(call, used, self._allowance(), failed)
        self._observer.computed(self._name, priority, chunks, used, seconds, failed)
        if isinstance(outcome, PgEmbedError):
            raise outcome
        return [replace(found, requests=int(place == 0)) for place, found in enumerate(outcome)]

    def _outcome(self, documents: Sequence[Document]) -> list[Embeddings] | PgEmbedError:
        """In a thread: one call of the model."""
        try:
            found = self._embedder.embed_chunks(documents)
        except PgEmbedError as exc:
            return exc
        except Exception as exc:
            return ModelUnavailable(
                f"family {self._embedder.card.family!r} failed: {type(exc).__name__}: {exc}"
            )
        expected = [(len(document), self._embedder.card.dimensions) for document in documents]
        if [result.dense.shape for result in found] != expected:
            return ModelUnavailable(
                f"family {self._embedder.card.family!r} gave vectors of other chunks than were sent"
            )
        return found
