"""A worker that is paused for longer than its lease loses its rows, and does no harm when it goes on."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pg_embed.records import ModelSpec
from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, Column, set_up
from tests.faults.writers import new_seed, writing

PAUSES = 8
SLOW = ModelSpec("slow", "fake", {"dimensions": 8, "delay": 0.05, "fail_on": "poison", "concurrency": 4})
SETTINGS = {"lease": 0.8, "tend_every": 0.2, "poll": 0.1}
TABLE = replace(NOTES, columns=[Column("embedding", SLOW, "input => 'body', model => 'slow'", "body")])


@pytest.mark.timeout(180)
def test_a_paused_worker_writes_nothing_stale_and_loses_no_row(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    set_up(db, [TABLE], models=[SLOW])
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, **SETTINGS) for _ in range(2)]
        with writing(dsn, [TABLE], seed, writers=3, rows=60, pause=0.005) as writers:
            for _ in range(PAUSES):
                time.sleep(rng.uniform(0.1, 0.4))
                paused = rng.choice(workers)
                processes.signal(paused, signal.SIGSTOP)
                time.sleep(rng.uniform(0, 0.3))  # texts change meanwhile
                for writer in writers:
                    writer.hold()
                rest(db, [TABLE])  # the other worker does it all, when the lease is over
                assert violations(db, [TABLE]) == []
                processes.signal(paused, signal.SIGCONT)
                for writer in writers:
                    writer.go_on()
        rest(db, [TABLE])
        assert [processes.stop(worker) for worker in workers] == [0, 0]
        assert violations(db, [TABLE]) == []
