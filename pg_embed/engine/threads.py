"""Threads that load models or run their calls, at a lower priority of the operating system where asked."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import TypeVar

LOW_PRIORITY = 10  # niceness: about a tenth of a processor's time while others want it

T = TypeVar("T")


class Threads:
    """A few threads on one queue; daemons, so that a hanging call cannot keep the process."""

    def __init__(self, name: str, count: int, *, low_priority: bool = False) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._low_priority = low_priority
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Run a call when a thread is free; it must not raise."""
        self._calls.put(call)

    def close(self, timeout: float) -> bool:
        """End the threads after what they are doing; whether all ended in time."""
        for _ in self._threads:
            self._calls.put(None)
        end = monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        if self._low_priority:
            _be_nice()
        while (call := self._calls.get()) is not None:
            call()


def apart(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """What a call returns that has a daemon thread of its own, and may hang; it must not raise."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def tell(result: T) -> None:
        if not ended.done():
            ended.set_result(result)

    def run() -> None:
        result = call()
        with suppress(RuntimeError):  # the event loop has been closed: nobody is left to tell
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return ended


def _be_nice() -> None:
    """On Linux niceness belongs to a thread, and the threads that it starts (OpenMP's) inherit it."""
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            lower = os.getpriority(os.PRIO_PROCESS, thread) + LOW_PRIORITY  # whoever starts us may be nice
            os.setpriority(os.PRIO_PROCESS, thread, lower)
