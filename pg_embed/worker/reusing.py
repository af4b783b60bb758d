"""Models as one vectorizer sees them, where a text that comes again needs no call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pg_embed.jobs.reuse import Reuse, text_keys
from pg_embed.jobs.usage import Ledger
from pg_embed.records import Card, Embeddings, Kind, ModelSpec, Outputs, Priority, Rows, join
from pg_embed.worker.embedding import Models


class ReusingModels:
    """The same models. Equal texts of a call are embedded once, and those not at all that are known.

    A vector must depend on its text alone. `exact` says that the dense vectors are stored unrounded.
    """

    def __init__(self, models: Models, reuse: Reuse, ledger: Ledger, vectorizer: int, *, exact: bool) -> None:
        self._models = models
        self._reuse = reuse
        self._ledger = ledger
        self._vectorizer = vectorizer
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
            found = await self._known_or_new(spec, distinct, priority, timeout, outputs, salt)
        if len(distinct) == len(texts):
            return found
        self._ledger.reuse(spec.name, self._vectorizer, len(texts) - len(distinct))
        rows = {text: row for row, text in enumerate(distinct)}
        return _take(found, [rows[text] for text in texts], found.tokens, found.requests)

    async def _known_or_new(
        self,
        spec: ModelSpec,
        texts: Sequence[str],
        priority: Priority,
        timeout: float,
        outputs: Outputs,
        salt: bytes,
    ) -> Embeddings:
        card = await self._models.card(spec)
        keys = text_keys(salt, card, texts)
        kept = await self._reuse.recall(spec.name, card, keys, outputs, exact=self._exact)
        self._ledger.reuse(spec.name, self._vectorizer, len(kept.places))
        known = set(kept.places)
        new = [row for row in range(len(texts)) if row not in known]
        if not new:
            return _take(kept.vectors, np.argsort(kept.places), tokens=0, requests=0)
        found = await self._models.embed(
            spec, [texts[row] for row in new], "document", priority, timeout, outputs
        )
        wanted = _only(found, outputs)
        await self._reuse.remember(spec.name, [keys[row] for row in new], wanted, exact=self._exact)
        if not kept.places:
            return found
        both = join([kept.vectors, wanted])
        return _take(both, np.argsort([*kept.places, *new]), found.tokens, found.requests)


def _take(found: Embeddings, rows: Rows, tokens: int, requests: int) -> Embeddings:
    return replace(found.take(rows, tokens=tokens), requests=requests)


def _only(found: Embeddings, outputs: Outputs) -> Embeddings:
    """Without outputs that were not asked for."""
    return replace(
        found,
        dense=found.dense if "dense" in outputs else found.dense[:, :0],
        sparse=found.sparse if "sparse" in outputs else None,
        multi=found.multi if "multi" in outputs else None,
    )
