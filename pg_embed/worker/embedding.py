"""A batch through its models: every row ends with its vectors, or dead, or the batch is put off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from pg_embed.chunks import Counter
from pg_embed.errors import InputRejected, SpaceMismatch
from pg_embed.jobs import Batch, Dead, Lane, Outcome, Share, Work
from pg_embed.records import Card, Embeddings, Kind, ModelSpec, Outputs, Priority, join, no_embeddings

PRIORITIES = {Lane.LIVE: Priority.LIVE, Lane.BACKFILL: Priority.BACKFILL}
Part = tuple[list[int], Embeddings | None, list[Dead]]
Timeout = Callable[[ModelSpec], float]  # seconds that a call of a model may take
T = TypeVar("T")


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


async def embed_batch(models: Models, work: Work, batch: Batch, timeout: Timeout) -> Outcome:
    """The outcome of a batch. An input that a model rejects is found by halving, and it alone is charged.

    Raises `ModelUnavailable`, `ModelMisconfigured` and the like when nothing can be said about the rows.
    """
    await _together([check_space(models, share) for share in work.shares])
    if not batch.texts:
        return Outcome(places=[], vectors=no_embeddings())
    outcomes = await _together([_outcome(models, share, batch, timeout(share.spec)) for share in work.shares])
    return outcomes[0] if len(outcomes) == 1 else _combined(*outcomes)


async def _together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results. An error waits for the other call: what that uses is paid, and will be written down."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def check_space(models: Models, share: Share) -> None:
    """Refuse a model whose vectors are not those that the catalog says."""
    card = await models.card(share.spec)
    sizes = {output: card.size(output) for output in share.sizes if output in card.outputs}
    if card.space_id != share.space_id or card.dimensions != share.dimensions or sizes != share.sizes:
        raise SpaceMismatch(
            f"model {share.spec.name!r} as loaded here gives vectors of another space than the catalog says",
            hint="the checkpoint or its options changed: give workers the same files, or make a new model",
        )


async def _outcome(models: Models, share: Share, batch: Batch, timeout: float) -> Outcome:
    """What one model makes of a batch."""
    parts = await _embed(models, share, batch, list(range(len(batch.texts))), timeout)
    found = [vectors for _, vectors, _ in parts if vectors is not None]
    return Outcome(
        places=[place for places, vectors, _ in parts if vectors is not None for place in places],
        vectors=join(found) if found else no_embeddings(),
        dead=[dead for _, _, given_up in parts for dead in given_up],
    )


def _combined(first: Outcome, sparse: Outcome) -> Outcome:
    """The rows that both models took, with the sparse vectors of the second; all others are dead."""
    dead = {dead.place: dead for dead in (*sparse.dead, *first.dead)}
    places = [place for place in first.places if place not in dead]
    vectors, others = _of(first, places), _of(sparse, places)
    return Outcome(places, replace(vectors, sparse=others.sparse), list(dead.values()))


def _of(outcome: Outcome, places: Sequence[int]) -> Embeddings:
    """The vectors of the rows at these places."""
    if list(outcome.places) == list(places):
        return outcome.vectors
    rows = {place: row for row, place in enumerate(outcome.places)}
    return outcome.vectors.take([rows[place] for place in places])


async def _embed(models: Models, share: Share, batch: Batch, places: list[int], timeout: float) -> list[Part]:
    texts = [batch.texts[place] for place in places] if len(places) < len(batch.texts) else batch.texts
    try:
        found = await models.embed(
            share.spec, texts, "document", PRIORITIES[batch.lane], timeout, frozenset(share.sizes)
        )
    except InputRejected as exc:
        if len(places) == 1:
            return [([], None, [Dead(places[0], exc.sqlstate, str(exc))])]
        half = len(places) // 2
        halves = (places[:half], places[half:])
        parts = await asyncio.gather(*(_embed(models, share, batch, part, timeout) for part in halves))
        return [part for half_of in parts for part in half_of]
    return [(places, found, [])]
