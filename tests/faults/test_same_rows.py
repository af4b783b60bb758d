"""Two workers and eight writers on the same hundred rows."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg
import pytest

from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, ODD, PARTED, TWICE, Table, set_up
from tests.faults.writers import new_seed, writing

SECONDS = 4.0  # for each choice of tables
SETTINGS = {"tend_every": 0.5}


@pytest.mark.parametrize("tables", [[NOTES], [TWICE], [ODD, PARTED]], ids=["one", "two columns", "odd"])
def test_writers_and_workers_meet_on_the_same_rows(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path, tables: list[Table]
) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    set_up(db, tables)
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, **SETTINGS) for _ in range(2)]
        end = time.monotonic() + SECONDS
        with writing(dsn, tables, seed, writers=8, rows=100) as writers:
            while time.monotonic() < end:
                time.sleep(rng.uniform(0, SECONDS / 3))
                for writer in writers:
                    writer.hold()
                rest(db, tables)
                assert violations(db, tables) == []
                for writer in writers:
                    writer.go_on()
        rest(db, tables)
        assert violations(db, tables) == []
        assert [processes.stop(worker) for worker in workers] == [0, 0]
