"""The C library's heap, where it is glibc's; elsewhere nothing is done.

glibc gives threads heaps of their own, eight a processor at most, and what is free in one of them the threads
of others cannot use. A model computes in one thread at a time, but is loaded in another, tokenises in others
still, and a thread's heap is made of pieces of 64 MiB, which the large arrays of a pass leave half empty
(`man mallopt`, M_ARENA_MAX; `man malloc_trim`).
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from time import monotonic

PROCESSORS = 4  # that one heap is enough for: it is locked, and tokenizers allocate on all of them
M_ARENA_MAX = -8  # malloc.h
TRIM_EVERY = 5.0  # seconds; what was given back is asked for again, for up to 70 ms of a processor
TOLD_BY = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")  # who sets these has tuned glibc and is left alone


def share() -> bool:
    """Let the threads of this process share heaps, before any is started; whether it was done."""
    library = _glibc()
    if library is None or any(name in os.environ for name in TOLD_BY):
        return False
    return bool(library.mallopt(M_ARENA_MAX, heaps()))


def heaps() -> int:
    """How many: one, on machines that are not large."""
    return max((os.cpu_count() or 1) // PROCESSORS, 1)


def trim() -> None:
    """Give free pages back to the system: after much was freed that is not needed again soon."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


class Trimming:
    """Trims now and then: blocks of ever new sizes leave gaps that the next do not fit, and heaps grow."""

    def __init__(self, every: float = TRIM_EVERY) -> None:
        self._every = every
        self._next = monotonic() + every

    def look(self) -> bool:
        """Trim if it is time; whether it was. Threads that come together may both do it: no harm."""
        now = monotonic()
        if now < self._next:
            return False
        self._next = now + self._every
        trim()
        return True


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
