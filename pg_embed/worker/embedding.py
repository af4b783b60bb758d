"""A batch through the model: every row ends with a vector, or dead, or the batch is put off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from pg_embed.chunks import Counter
from pg_embed.errors import InputRejected, SpaceMismatch
from pg_embed.jobs import Batch, Dead, Lane, Outcome, Work
from pg_embed.records import Card, Embeddings, Kind, ModelSpec, Outputs, Priority, join, no_embeddings

PRIORITIES = {Lane.LIVE: Priority.LIVE, Lane.BACKFILL: Priority.BACKFILL}
Part = tuple[list[int], Embeddings | None, list[Dead]]


class Models(Protocol):
    """Where vectors come from: the engine in this process, or a sidecar elsewhere."""

    async def card(self, spec: ModelSpec) -> Card:
        """The card of a model, loaded when need be."""

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

    async def counter(self, spec: ModelSpec) -> Counter:
        """Counts the tokens of texts, in any thread: exactly, or by an estimate that seldom is too low."""

    async def reads_documents(self, spec: ModelSpec) -> bool:
        """Whether the model's vectors of chunks know of their document, as `embed_chunks` makes them."""

    async def embed_chunks(
        self, spec: ModelSpec, documents: Sequence[Sequence[str]], priority: Priority, timeout: float
    ) -> list[Embeddings]:
        """Vectors of each document's chunks, in their order."""


async def embed_batch(models: Models, work: Work, batch: Batch, timeout: float) -> Outcome:
    """The outcome of a batch. An input that the model rejects is found by halving, and it alone is charged.

    Raises `ModelUnavailable`, `ModelMisconfigured` and the like when nothing can be said about the rows.
    """
    await check_space(models, work)
    everything = list(range(len(batch.texts)))
    parts = await _embed(models, work, batch, everything, timeout) if everything else []
    found = [vectors for _, vectors, _ in parts if vectors is not None]
    return Outcome(
        places=[place for places, vectors, _ in parts if vectors is not None for place in places],
        vectors=join(found) if found else no_embeddings(),
        dead=[dead for _, _, given_up in parts for dead in given_up],
    )


async def check_space(models: Models, work: Work) -> None:
    """Refuse a model whose vectors are not those that the catalog says."""
    card = await models.card(work.spec)
    sizes = {output: card.size(output) for output in work.sizes if output in card.outputs}
    if card.space_id != work.space_id or card.dimensions != work.dimensions or sizes != work.sizes:
        raise SpaceMismatch(
            f"model {work.spec.name!r} as loaded here gives vectors of another space than the catalog says",
            hint="the checkpoint or its options changed: give workers the same files, or make a new model",
        )


async def _embed(models: Models, work: Work, batch: Batch, places: list[int], timeout: float) -> list[Part]:
    texts = [batch.texts[place] for place in places] if len(places) < len(batch.texts) else batch.texts
    try:
        found = await models.embed(
            work.spec, texts, "document", PRIORITIES[batch.lane], timeout, frozenset(work.sizes)
        )
    except InputRejected as exc:
        if len(places) == 1:
            return [([], None, [Dead(places[0], exc.sqlstate, str(exc))])]
        half = len(places) // 2
        halves = (places[:half], places[half:])
        parts = await asyncio.gather(*(_embed(models, work, batch, part, timeout) for part in halves))
        return [part for half_of in parts for part in half_of]
    return [(places, found, [])]
