"""Who waits for a model."""

from __future__ import annotations

import asyncio
from collections import deque

from pg_embed.engine.entries import Batch, Entry
from pg_embed.errors import PgEmbedError
from pg_embed.records import Card, Priority


class Queue:
    """The entries of one priority, bounded in texts: first come first served, but a flood lets others pass.

    Entries that fit one call and those that take several begin a batch in turn, so that a changed row waits
    for two calls at most, not for thousands of rows before it.
    """

    def __init__(self, priority: Priority, bound: int) -> None:
        self.priority = priority
        self.texts = 0
        self._bound = bound
        self._entries: deque[Entry] = deque()
        self._freed = asyncio.Event()
        self._whole_first = True  # the next time that there are entries of both kinds

    def has_room(self, texts: int) -> bool:
        """Whether so many more may wait; an empty queue takes a request of any size."""
        return not self.texts or self.texts + texts <= self._bound

    async def room(self, texts: int) -> None:
        """Wait until so many more may wait."""
        while not self.has_room(texts):
            self._freed.clear()
            await self._freed.wait()

    def push(self, entry: Entry) -> None:
        """Add to the end."""
        self._entries.append(entry)
        self.texts += entry.untaken

    def discard(self, entry: Entry) -> None:
        """Forget what is left of an entry whose caller has gone or has been answered."""
        if entry.untaken and entry in self._entries:
            self._entries.remove(entry)
            self._free(entry.untaken)
            entry.untaken = 0

    def fill(self, card: Card) -> Batch | None:
        """The next batch: texts of one kind and for the same outputs, until one does not fit."""
        batch = Batch(card, self.priority)
        self._take_turns()
        while self._entries:
            entry = self._entries[0]
            if entry.future.done():
                self.discard(entry)
                continue
            if not batch.suits(entry):
                break
            self._free(batch.take(entry))
            if entry.untaken:
                break
            self._entries.popleft()
        return batch if batch.parts else None

    def fail(self, error: PgEmbedError) -> None:
        """Answer everybody with an error."""
        for entry in list(self._entries):
            entry.fail(error)
            self.discard(entry)

    def _take_turns(self) -> None:
        if len({entry.whole for entry in self._entries}) == 2:
            self._entries = deque(
                sorted(self._entries, key=lambda entry: entry.whole is not self._whole_first)
            )
            self._whole_first = not self._whole_first

    def _free(self, texts: int) -> None:
        self.texts -= texts
        self._freed.set()
