"""Threads of a lane."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from pg_embed.engine.threads import LOW_PRIORITY, Threads
from tests.fix_models import PATIENCE


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to a thread only on Linux")
def test_low_priority_is_of_these_threads_alone_and_of_what_they_start() -> None:
    found: dict[str, int] = {}

    def look(name: str) -> None:
        found[name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def look_here_and_in_a_child() -> None:
        look("bulk")
        child = threading.Thread(target=look, args=("child",))
        child.start()
        child.join()

    before = os.getpriority(os.PRIO_PROCESS, 0)
    bulk, query = Threads("bulk", 1, low_priority=True), Threads("query", 1)
    bulk.submit(look_here_and_in_a_child)
    query.submit(lambda: look("query"))
    assert bulk.close(PATIENCE)
    assert query.close(PATIENCE)
    lower = min(before + LOW_PRIORITY, 19)
    assert found == {"bulk": lower, "child": lower, "query": before}


def test_closing_says_whether_the_threads_ended() -> None:
    gate = threading.Event()
    threads = Threads("stuck", 1)
    threads.submit(cast(Callable[[], None], partial(gate.wait, PATIENCE)))
    assert not threads.close(0)
    gate.set()
