"""Models as one vectorizer sees them, where a text that comes again needs no call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from pg_embed.chunks import Counter
from pg_embed.errors import InputRejected
from pg_embed.jobs.reuse import Reuse, text_keys
from pg_embed.jobs.usage import Ledger
from pg_embed.records import Card, Embeddings, Kind, ModelSpec, Outputs, Priority, Rows, join
from pg_embed.worker.embedding import Models
from pg_embed.worker.observer import Observer

T = TypeVar("T")


class ReusingModels:
    """The same models. Equal texts of a call are embedded once, and those not at all that are known.

    A vector must depend on its text alone. `exact` says that the dense vectors are stored unrounded.
    """

    def __init__(
        self,
        models: Models,
        reuse: Reuse,
        ledger: Ledger,
        vectorizer: int,
        observer: Observer,
        *,
        exact: bool,
    ) -> None:
        self._models = models
        self._reuse = reuse
        self._ledger = ledger
        self._vectorizer = vectorizer
        self._observer = observer
        self._exact = exact

    async def card(self, spec: ModelSpec) -> Card:
        """The card of a model, loaded when need be."""
        return await self._models.card(spec)

    async def embed(
        self,
        spec: ModelSpec,
        texts: Sequence[str],
        kind: Kind,
        priority: Priority,
        timeout: float,
        outputs: Outputs,
    ) -> Embeddings:
        """Vectors of the texts, in their order."""
        if kind != "document":
            return await self._models.embed(spec, texts, kind, priority, timeout, outputs)
        distinct = list(dict.fromkeys(texts))
        salt = await self._reuse.salt(self._vectorizer, spec.name)
        if salt is None:
            found = await self._models.embed(spec, distinct, kind, priority, timeout, outputs)
        else:
            keys = text_keys(salt, await self._models.card(spec), distinct)
            found = await self._known_or_new(spec, distinct, keys, priority, timeout, outputs)
        if len(distinct) == len(texts):
            return found
        self._tell(spec, len(texts) - len(distinct))
        rows = {text: row for row, text in enumerate(distinct)}
        return _take(found, [rows[text] for text in texts])

    async def counter(self, spec: ModelSpec) -> Counter:
        """Counts the tokens of texts."""
        return await self._models.counter(spec)

    async def reads_documents(self, spec: ModelSpec) -> bool:
        """Whether vectors of chunks know of their document."""
        return await self._models.reads_documents(spec)

    async def embed_chunks(
        self, spec: ModelSpec, documents: Sequence[Sequence[str]], priority: Priority, timeout: float
    ) -> list[Embeddings]:
        """Vectors of each document's chunks; they know of each other, and none is reused."""
        return await self._models.embed_chunks(spec, documents, priority, timeout)

    async def _known_or_new(
        self,
        spec: ModelSpec,
        texts: Sequence[str],
        keys: Sequence[bytes],
        priority: Priority,
        timeout: float,
        outputs: Outputs,
    ) -> Embeddings:
        """Those that another call is about are waited for, when all others are there and kept.

        Its error is theirs, too: who tries at once what has just failed is not more likely to succeed.
        """
        with self._reuse.claim(keys, priority) as others:
            ours = [row for row in range(len(texts)) if row not in others]
            parts = [await self._ours(spec, _of(texts, ours), _of(keys, ours), priority, timeout, outputs)]
        if not others:
            return parts[0]
        for end in set(others.values()):
            error = await asyncio.shield(end)
            if error is not None and not isinstance(error, InputRejected):  # of whatever text
                raise error
        rest = list(others)
        parts.append(
            await self._known_or_new(spec, _of(texts, rest), _of(keys, rest), priority, timeout, outputs)
        )
        return _in_order(parts, [*ours, *rest])

    async def _ours(
        self,
        spec: ModelSpec,
        texts: Sequence[str],
        keys: Sequence[bytes],
        priority: Priority,
        timeout: float,
        outputs: Outputs,
    ) -> Embeddings:
        card = await self._models.card(spec)
        kept = await self._reuse.recall(spec.name, card, keys, outputs, exact=self._exact)
        known = set(kept.places)
        new = [row for row in range(len(texts)) if row not in known]
        parts = [kept.vectors] if kept.places or not new else []
        if new:
            found = await self._models.embed(spec, _of(texts, new), "document", priority, timeout, outputs)
            parts.append(_only(found, outputs))
            await self._reuse.remember(spec.name, _of(keys, new), parts[-1], exact=self._exact)
        self._tell(spec, len(kept.places), len(new))
        return _in_order(parts, [*kept.places, *new])

    def _tell(self, spec: ModelSpec, reused: int, kept: int = 0) -> None:
        self._ledger.reuse(spec.name, self._vectorizer, reused)
        self._observer.reused(spec.name, reused, kept)


def _of(values: Sequence[T], rows: Sequence[int]) -> Sequence[T]:
    return values if len(rows) == len(values) else [values[row] for row in rows]


def _in_order(parts: Sequence[Embeddings], rows: Sequence[int]) -> Embeddings:
    """Parts, one behind the other, by the rows that they are of."""
    found = join(parts)
    return found if list(rows) == list(range(len(rows))) else _take(found, np.argsort(rows))


def _take(found: Embeddings, rows: Rows) -> Embeddings:
    return replace(found.take(rows, tokens=found.tokens), requests=found.requests)


def _only(found: Embeddings, outputs: Outputs) -> Embeddings:
    """Without outputs that were not asked for."""
    return replace(
        found,
        dense=found.dense if "dense" in outputs else found.dense[:, :0],
        sparse=found.sparse if "sparse" in outputs else None,
        multi=found.multi if "multi" in outputs else None,
    )
