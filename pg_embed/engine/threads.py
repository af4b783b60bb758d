"""Threads that run a model's calls, at a lower priority of the operating system where asked."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic

LOW_PRIORITY = 10  # niceness: about a tenth of a processor's time while others want it


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


def _be_nice() -> None:
    """On Linux niceness belongs to a thread, and the threads that it starts (OpenMP's) inherit it."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
