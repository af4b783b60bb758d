"""Models as one vectorizer sees them: what it uses is written down, a refused account pauses the model."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from pg_embed.chunks import Counter
from pg_embed.errors import ModelMisconfigured
from pg_embed.jobs.usage import Ledger
from pg_embed.records import Card, Embeddings, ModelSpec
from pg_embed.worker.embedding import Models

T = TypeVar("T")


class MeteredModels:
    """The same models; the vectorizer's share of them goes into the ledger."""

    def __init__(self, models: Models, ledger: Ledger, vectorizer: int) -> None:
        self._models = models
        self._ledger = ledger
        self._vectorizer = vectorizer

    async def card(self, spec: ModelSpec) -> Card:
        """The card of a model, loaded when need be."""
        return await self._watched(spec, self._models.card(spec))

    async def embed(self, spec: ModelSpec, texts: Sequence[str], *args: Any, **kwargs: Any) -> Embeddings:
        """Vectors of the texts, in their order."""
        found = await self._watched(spec, self._models.embed(spec, texts, *args, **kwargs))
        self._ledger.add(spec.name, self._vectorizer, texts, found)
        if self._ledger.is_budgeted(self._vectorizer):
            await self._ledger.tell()
        return found

    async def counter(self, spec: ModelSpec) -> Counter:
        """Counts the tokens of texts."""
        return await self._watched(spec, self._models.counter(spec))

    async def reads_documents(self, spec: ModelSpec) -> bool:
        """Whether vectors of chunks know of their document."""
        return await self._watched(spec, self._models.reads_documents(spec))

    async def embed_chunks(
        self, spec: ModelSpec, documents: Sequence[Sequence[str]], *args: Any, **kwargs: Any
    ) -> list[Embeddings]:
        """Vectors of each document's chunks."""
        found = await self._watched(spec, self._models.embed_chunks(spec, documents, *args, **kwargs))
        for document, vectors in zip(documents, found, strict=True):
            self._ledger.add(spec.name, self._vectorizer, document, vectors)
        if self._ledger.is_budgeted(self._vectorizer):
            await self._ledger.tell()
        return found

    async def _watched(self, spec: ModelSpec, work: Awaitable[T]) -> T:
        try:
            return await work
        except ModelMisconfigured as exc:
            if exc.refused:
                await self._ledger.refuse(spec.name, exc)
            raise
