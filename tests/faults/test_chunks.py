"""Tables of chunks under many workers and writers, some of them killed."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg
import pytest

from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import ODD_PAGES, PAGES, PARTED_PAGES, set_up
from tests.faults.writers import new_seed, writing

ROUNDS = 4
KILLS = 5  # a round
LONGEST_LIFE = 0.5  # seconds between two kills, at most
SETTINGS = {"lease": 5.0, "tend_every": 0.3, "poll": 0.2, "page_rows": 7, "batch_characters": 300}
TABLES = [PAGES, ODD_PAGES, PARTED_PAGES]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kills", [0, KILLS], ids=["alive", "killed"])
def test_every_row_has_the_chunks_of_its_present_text(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path, kills: int
) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    set_up(db, TABLES)
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, **SETTINGS) for _ in range(4)]
        with writing(dsn, TABLES, seed, writers=4, rows=25, pause=0.001) as writers:
            for _ in range(ROUNDS):
                for _ in range(KILLS):
                    time.sleep(rng.uniform(0, LONGEST_LIFE))
                    if kills:
                        victim = rng.randrange(len(workers))
                        processes.kill(workers[victim])
                        workers[victim] = processes.worker(dsn, **SETTINGS)
                for writer in writers:
                    writer.hold()
                rest(db, TABLES)
                assert violations(db, TABLES) == []
                for writer in writers:
                    writer.go_on()
        rest(db, TABLES)
        assert violations(db, TABLES) == []
        assert [processes.stop(worker) for worker in workers] == [0] * 4
    assert "ERROR" not in (tmp_path / "workers.log").read_text(encoding="utf-8") or kills
