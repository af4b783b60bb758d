"""What a door is: it has an address, is opened, and is closed with a grace time for requests in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol


class Door(Protocol):
    """One way into the sidecar."""

    @property
    def address(self) -> str:
        """Where it is, for people."""

    async def open(self) -> None:
        """Be ready for requests, or raise."""

    async def close(self, grace: float) -> None:
        """Take no new requests, and finish those in hand within `grace` seconds."""


class InHand:
    """The requests that a door is working on: at most `most`, and waited for at the end."""

    def __init__(self, most: int) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(most)

    async def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin the work as soon as there is a place for it."""
        try:
            await self._places.acquire()
        except asyncio.CancelledError:
            work.close()
            raise
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._places.release()

    async def drain(self, grace: float) -> None:
        """Wait for the work, then stop what is left."""
        await finish(self.tasks, grace)


async def finish(tasks: set[asyncio.Task[None]], grace: float) -> None:
    """Let tasks end by themselves within `grace` seconds, then cancel them."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=grace)
    for task in late:
        task.cancel()
    if late:
        await asyncio.gather(*late, return_exceptions=True)


async def stop(task: asyncio.Task[Any] | None) -> None:
    """Cancel a background task and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
