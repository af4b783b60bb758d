"""Threads of our command share heaps, and what is free is given back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from pg_embed import heap

THREADS = 4
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="the C library is not glibc",
)

# How many heaps there are when so many threads have allocated: malloc_info(3) lists them.
COUNT = f"""
import ctypes, os, tempfile, threading
library = ctypes.CDLL(None)
together = threading.Barrier({THREADS})
def allocate():
    together.wait()
    library.malloc(1_000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range({THREADS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
library.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as told:
    stream = ctypes.c_void_p(library.fopen(os.fsencode(told.name), b"w"))
    library.malloc_info(0, stream)
    library.fclose(stream)
    print(told.read().count(b"<heap nr="))
"""

# Megabytes in memory before and after a trim, when all but the last of many blocks were freed.
TRIM = """
import ctypes
from pathlib import Path
from pg_embed import heap
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) // 1_024
blocks = [ctypes.c_void_p(library.malloc(60_000)) for _ in range(2_000)]
for block in blocks:
    ctypes.memset(block, 1, 60_000)
for block in blocks[:-1]:
    library.free(block)
before = resident()
heap.trim()
print(before, resident())
"""


def told(program: str, **variables: str) -> list[int]:
    """The numbers that a program prints, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in heap.TOLD_BY}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in done.stdout.split()[-2:] if number.isdigit()]


COMMAND = """
import sys
import pg_embed.cli
sys.argv = ["pg-embed", "--version"]
try:
    pg_embed.cli.main()
except SystemExit:
    pass
"""


@glibc
def test_threads_of_the_command_share_heaps() -> None:
    assert told(COUNT)[-1] > THREADS
    assert told(COMMAND + COUNT)[-1] == min(heap.heaps(), THREADS + 1)


@pytest.mark.parametrize(("processors", "expected"), [(None, 1), (2, 1), (4, 1), (16, 4)])
def test_large_machines_have_more_heaps(
    processors: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    assert heap.heaps() == expected


@glibc
@pytest.mark.parametrize("name", heap.TOLD_BY)
def test_whoever_has_tuned_glibc_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = "3" if name == "MALLOC_ARENA_MAX" else "glibc.malloc.arena_max=3"
    assert told(COMMAND + COUNT, **{name: value})[-1] == 3
    monkeypatch.setenv(name, value)
    assert not heap.share()


@glibc
def test_what_is_free_goes_back_to_the_system() -> None:
    before, after = told(TRIM)
    assert before - after > 100


def test_between_two_trims_some_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trims = [10.0], list[float]()
    monkeypatch.setattr(heap, "monotonic", lambda: now[0])
    monkeypatch.setattr(heap, "trim", lambda: trims.append(now[0]))
    trimming = heap.Trimming(every=2)
    for now[0] in (10.0, 11.9, 12.0, 12.1, 13.9, 14.5):
        assert trimming.look() == (now[0] in (12.0, 14.5))
    assert trims == [12.0, 14.5]


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    assert not heap.share()
    heap.trim()
