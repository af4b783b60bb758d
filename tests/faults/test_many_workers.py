"""Ten workers with batches of 2,048 rows need no tuning of the lock table."""

from __future__ import annotations

from pathlib import Path

import psycopg

from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, set_up
from tests.fix_pg import Server

ROWS = 100_000
WORKERS = 10


def test_ten_workers_with_large_batches_need_no_lock_table_tuning(
    server: Server, dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    assert db.execute("SHOW max_locks_per_transaction").fetchone() == ("64",)
    set_up(db, [NOTES])
    db.execute(
        "INSERT INTO notes (id, body) SELECT i, 'text ' || i FROM generate_series(1, %s) AS i", (ROWS // 2,)
    )
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, batch_rows=2_048) for _ in range(WORKERS)]
        with psycopg.connect(dsn) as connection:  # rows one by one: as many entries in the queue
            for number in range(ROWS // 2, ROWS):
                connection.execute("INSERT INTO notes (id, body) VALUES (%s, 'one text')", (number + 1,))
        rest(db, [NOTES], timeout=90)
        assert violations(db, [NOTES]) == []
        assert db.execute("SELECT count(*) FROM notes WHERE embedding IS NULL").fetchone() == (0,)
        assert [processes.stop(worker) for worker in workers] == [0] * WORKERS
    log = (tmp_path / "workers.log").read_text(encoding="utf-8")
    assert "ERROR" not in log, log
