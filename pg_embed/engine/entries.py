"""Requests in a queue, and batches of parts of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pg_embed.errors import PgEmbedError
from pg_embed.records import Card, Embeddings, Kind, Outputs, Priority, join


class Entry:
    """One request: taken whole if it fits a batch, else in parts, the longest texts first."""

    def __init__(
        self,
        texts: Sequence[str],
        counts: list[int],
        kind: Kind,
        outputs: Outputs,
        future: asyncio.Future[Embeddings],
        card: Card,
    ) -> None:
        self.kind = kind
        self.outputs = outputs
        self.future = future
        self.untaken = self._missing = len(texts)
        self._parts: dict[int, Embeddings] = {}
        cost = max(counts) * len(counts) if card.padded else sum(counts)
        self.whole = len(texts) == 1 or (len(texts) <= card.max_batch_items and cost <= card.max_batch_tokens)
        if self.whole:
            self.texts, self.counts = texts, counts
        else:
            # by characters too, for counts are equal where texts are cut at the model's limit
            self._order = np.lexsort(([-len(text) for text in texts], [-count for count in counts]))
            order: list[int] = self._order.tolist()
            self.texts, self.counts = [texts[row] for row in order], [counts[row] for row in order]

    @property
    def next(self) -> int:
        """The first text that no batch has taken."""
        return len(self.texts) - self.untaken

    def receive(self, start: int, part: Embeddings) -> None:
        """The vectors of the texts from `start` on; the caller is answered with the last of them."""
        self._missing -= len(part)
        self._parts[start] = part
        if not self._missing and not self.future.done():
            self.future.set_result(self._joined())

    def fail(self, error: PgEmbedError) -> None:
        """Answer the caller with an error; parts still to come are dropped."""
        if not self.future.done():
            self.future.set_exception(error)

    def _joined(self) -> Embeddings:
        found = join([self._parts[start] for start in sorted(self._parts)])
        if self.whole:
            return found
        return replace(found.take(np.argsort(self._order), found.tokens), requests=found.requests)


@dataclass(frozen=True, eq=False)
class Part:
    """The texts of an entry from `start` to before `stop`."""

    entry: Entry
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """As counted before."""
        return sum(self.entry.counts[self.start : self.stop])


@dataclass(eq=False)
class Batch:
    """One call of the model, while it is being filled and after."""

    card: Card
    priority: Priority
    parts: list[Part] = field(default_factory=list)
    items: int = 0
    _longest: int = 0
    _total: int = 0

    @property
    def kind(self) -> Kind:
        """That of all its parts."""
        return self.parts[0].entry.kind

    @property
    def tokens(self) -> int:
        """As counted before."""
        return self._total

    @property
    def outputs(self) -> Outputs:
        """Those of all its parts."""
        return self.parts[0].entry.outputs

    def suits(self, entry: Entry) -> bool:
        """Whether an entry can go with the parts."""
        return not self.parts or (entry.kind == self.kind and entry.outputs == self.outputs)

    def take(self, entry: Entry) -> int:
        """Take as many of the entry's texts as fit, a whole one only as a whole; how many were taken."""
        start = entry.next
        count = self._fitting(entry, start)
        if count < entry.untaken and entry.whole and self.items:
            count = 0
        if not self.items:
            count = count or 1  # a text larger than the budget goes alone
        if count:
            self._add(entry, start, start + count)
        return count

    def texts(self) -> Sequence[str]:
        """All texts, in the order of the parts."""
        if len(self.parts) == 1:
            part = self.parts[0]
            is_all = part.stop - part.start == len(part.entry.texts)
            return part.entry.texts if is_all else part.entry.texts[part.start : part.stop]
        return [text for part in self.parts for text in part.entry.texts[part.start : part.stop]]

    def abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return all(part.entry.future.done() for part in self.parts)

    def deliver(self, embeddings: Embeddings) -> None:
        """Give every part its vectors, and its share of the tokens."""
        row, estimated = 0, [part.tokens for part in self.parts]
        for part, tokens in zip(self.parts, estimated, strict=True):
            end = row + part.stop - part.start
            share = embeddings.tokens * tokens // max(1, sum(estimated))
            mine = replace(embeddings.cut(row, end, share), requests=int(row == 0))
            part.entry.receive(part.start, mine)
            row = end

    def fail(self, error: PgEmbedError) -> None:
        """Give every caller the error."""
        for part in self.parts:
            part.entry.fail(error)

    def separate(self) -> list[Batch]:
        """A batch for each caller who still waits."""
        waiting = [part for part in self.parts if not part.entry.future.done()]
        return [Batch(self.card, self.priority, [part], part.stop - part.start) for part in waiting]

    def _fitting(self, entry: Entry, start: int) -> int:
        count = min(entry.untaken, self.card.max_batch_items - self.items)
        if not self.card.padded:
            return _prefix(entry.counts, start, count, self.card.max_batch_tokens - self._total)
        longest = max(self._longest, max(entry.counts) if entry.whole else entry.counts[start], 1)
        return max(0, min(count, self.card.max_batch_tokens // longest - self.items))

    def _add(self, entry: Entry, start: int, stop: int) -> None:
        self.parts.append(Part(entry, start, stop))
        self.items += stop - start
        entry.untaken -= stop - start
        self._longest = max(self._longest, max(entry.counts[start:stop]))
        self._total += sum(entry.counts[start:stop])


def _prefix(counts: list[int], start: int, limit: int, budget: int) -> int:
    """How many of the counts from `start` on, at most `limit`, add up to no more than `budget`."""
    sums: npt.NDArray[Any] = np.cumsum(counts[start : start + limit])
    return int(np.searchsorted(sums, budget, side="right"))
