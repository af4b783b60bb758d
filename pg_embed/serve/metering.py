"""The engine as the doors use it: what queries and other callers use is written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pg_embed.jobs.usage import Ledger
from pg_embed.records import Card, Embeddings, ModelSpec, Priority, Scores
from pg_embed.serve.requests import Engine


class MeteredEngine:
    """The same engine; what is used goes into the ledger, as no vectorizer's."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine = engine
        self._ledger = ledger

    async def card(self, spec: ModelSpec, timeout: float) -> Card:
        """The card of a model, which is loaded if need be."""
        return await self._engine.card(spec, timeout)

    async def count(self, spec: ModelSpec, texts: Sequence[str], timeout: float) -> list[int] | None:
        """Tokens of each text, if the model has a tokenizer here."""
        return await self._engine.count(spec, texts, timeout)

    async def embed(self, spec: ModelSpec, texts: Sequence[str], *args: Any, **kwargs: Any) -> Embeddings:
        """Vectors of the texts, in their order."""
        found = await self._engine.embed(spec, texts, *args, **kwargs)
        self._ledger.add(spec.name, None, texts, found)
        return found

    async def rerank(
        self, spec: ModelSpec, query: str, texts: Sequence[str], priority: Priority, timeout: float
    ) -> Scores:
        """How well each text answers the query, in the order of the texts."""
        found = await self._engine.rerank(spec, query, texts, priority, timeout)
        self._ledger.add(spec.name, None, texts, found)
        return found
