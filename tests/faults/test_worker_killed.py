"""Workers are killed in the middle of their work, fifty times, while others write."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg
import pytest

from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import ODD, PAIR, PARTED, set_up
from tests.faults.writers import new_seed, writing
from tests.sql.test_postings import difference

KILLS = 50
LONGEST_LIFE = 0.4  # seconds between two kills, at most
SETTINGS = {"lease": 5.0, "tend_every": 0.3, "poll": 0.2, "page_rows": 7}
TABLES = [PAIR, ODD, PARTED]


OPERATIONS = [
    *("SELECT embed.backfill(name, mode => 'all')", "SELECT embed.backfill(name)"),
    *("SELECT embed.retry(name)", "SELECT embed.pause(name)", "SELECT embed.resume(name)"),
]


def operate(db: psycopg.Connection[tuple[object, ...]], rng: random.Random) -> None:
    """Do what an operator may do at any time."""
    if rng.random() < 0.7:
        chosen = rng.choice(TABLES).name.strip('"') + "_embedding"
        db.execute(f"{rng.choice(OPERATIONS)} FROM (VALUES (%s)) AS v (name)", (chosen,))


def go_on(db: psycopg.Connection[tuple[object, ...]]) -> None:
    """Let nothing be paused."""
    db.execute("SELECT embed.resume(name) FROM embed.vectorizers WHERE state = 'paused'")


@pytest.mark.timeout(240)
def test_no_row_is_lost_when_workers_are_killed(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    set_up(db, TABLES)
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, **SETTINGS) for _ in range(2)]
        with writing(dsn, TABLES, seed, writers=3, rows=60, pause=0.002) as writers:
            for kill in range(KILLS):
                time.sleep(rng.uniform(0, LONGEST_LIFE))
                victim = rng.randrange(len(workers))
                processes.kill(workers[victim])
                workers[victim] = processes.worker(dsn, **SETTINGS)
                operate(db, rng)
                if kill % 10 == 9:
                    for writer in writers:
                        writer.hold()
                    go_on(db)
                    rest(db, TABLES)
                    assert violations(db, TABLES) == []
                    for writer in writers:
                        writer.go_on()
        go_on(db)
        rest(db, TABLES)
        assert violations(db, TABLES) == []
        assert difference(db, "pair", "sparse") == 0
        assert [processes.stop(worker) for worker in workers] == [0, 0]
