"""Threads for queries and threads for bulk, so that neither waits for the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from pg_embed.engine.entries import Batch
from pg_embed.engine.threads import Threads
from pg_embed.records import Card, Priority

CALLS_PER_QUERY_THREAD = 4  # of the calls that a model takes at once, one in so many is for queries
SHORT_CALL = 0.05  # seconds; after a call as short as this a batch is kept ready, for gaps would count

B = TypeVar("B")  # what makes one call of the model


class Lane(Generic[B]):
    """Threads for some priorities, the batches they have in hand, and those to be tried again."""

    def __init__(
        self, name: str, count: int, priorities: Sequence[Priority], *, low_priority: bool = False
    ) -> None:
        self.threads = Threads(f"pg_embed-{name}", count, low_priority=low_priority)
        self.priorities = priorities
        self.running: list[B] = []
        self.again: deque[B] = deque()
        self.admitting: asyncio.Task[None] | None = None  # one batch at a time waits for its limits
        self._count = count
        self._ready = 0

    @property
    def full(self) -> bool:
        """Whether it takes no more for now."""
        return self.admitting is not None or len(self.running) >= self._count + self._ready

    def finished(self, batch: B, seconds: float) -> None:
        """A batch is done; with queries in the lane none is kept ready, they would wait for it."""
        self.running.remove(batch)
        self._ready = int(seconds < SHORT_CALL and Priority.QUERY not in self.priorities)


def lanes_for(card: Card, name: str) -> list[Lane[Batch]]:
    """One lane for all, if the model takes one call at a time; else one for queries and one for bulk."""
    if card.concurrency == 1:
        return [Lane(name, 1, list(Priority))]
    queries = max(1, card.concurrency // CALLS_PER_QUERY_THREAD)
    bulk = card.concurrency - queries
    return [
        Lane(f"{name}-query", queries, [Priority.QUERY]),
        Lane(f"{name}-bulk", bulk, [Priority.LIVE, Priority.BACKFILL], low_priority=card.shares_cpu),
    ]
