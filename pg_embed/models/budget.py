"""How much one pass of a local model may hold: half as much after memory ran out, and slowly more again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import TypeVar

from pg_embed.log import event, logger
from pg_embed.models import local

T = TypeVar("T")

CALM = 32  # passes of at least half the budget, one after the other, after which it may grow
GROWTH = 8  # by one part of so many

log = logger("models")


class Budget:
    """Texts times the tokens of the longest, `first` at the beginning and never more; for several threads.

    Two calls that run out at the same time halve it once: each leaves half of what it had itself.
    """

    def __init__(self, first: int) -> None:
        self._first = self._now = max(first, 1)
        self._calm = 0
        self._lock = Lock()

    @property
    def now(self) -> int:
        """What a pass of several texts may hold."""
        return self._now

    def passes(
        self, rows: Sequence[int], lengths: Sequence[int], compute: Callable[[list[int]], T]
    ) -> Iterator[tuple[list[int], T]]:
        """Rows that were computed together, with what came of them; all rows, in their order.

        `lengths` has the tokens of every row. A single text that has no room raises what `compute` raised.
        """
        waiting = [list(rows)]
        while waiting:
            part = waiting.pop()
            cost = len(part) * max(lengths[row] for row in part)
            if len(part) == 1 or cost <= self._now:
                try:
                    found = compute(part)
                except local.OutOfMemory:
                    self._shrink(cost)
                    if len(part) == 1:
                        raise
                else:
                    self._grow(cost)
                    yield part, found
                    continue
                local.release_memory()  # not before the error is gone, which holds the tensors of the pass
            middle = (len(part) + 1) // 2
            waiting += [part[middle:], part[:middle]]

    def batched(
        self, order: Iterable[list[int]], lengths: Sequence[int], compute: Callable[[list[int]], T]
    ) -> Iterator[tuple[list[int], T]]:
        """The passes of several batches of rows, one after the other."""
        for rows in order:
            yield from self.passes(rows, lengths, compute)

    def _shrink(self, cost: int) -> None:
        with self._lock:
            self._now = min(self._now, max(cost // 2, 1))
            self._calm = 0
        words = f"out of memory at {cost} tokens: a pass has at most {self._now} from now on"
        event(log, logging.WARNING, "out_of_memory", words, tokens=cost, budget=self._now)

    def _grow(self, cost: int) -> None:
        if self._now == self._first or cost * 2 < self._now:
            return
        with self._lock:
            self._calm += 1
            if self._calm >= CALM:
                self._calm = 0
                self._now = min(self._first, self._now + self._now // GROWTH + 1)
