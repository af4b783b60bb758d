"""Somebody cancels what a worker's session does, before the worker is ready."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg

from tests.faults.invariant import REST_TIMEOUT, rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, set_up

CANCEL = """
    SELECT count(pg_cancel_backend(pid)) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'pg_embed worker' AND wait_event_type = 'Lock'
"""


def test_a_worker_whose_first_statement_is_cancelled_tries_again(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    set_up(db, [NOTES])
    db.execute("INSERT INTO notes (id, body) VALUES (1, 'text')")
    with nursery(tmp_path / "workers.log") as processes:
        with psycopg.connect(dsn) as holder:
            holder.execute("LOCK TABLE embed._vectorizer IN ACCESS EXCLUSIVE MODE")
            worker = processes.worker(dsn)
            deadline = time.monotonic() + REST_TIMEOUT
            while db.execute(CANCEL).fetchone() != (True,):
                assert time.monotonic() < deadline, "the worker does not come"
                time.sleep(0.01)
        rest(db, [NOTES])
        assert violations(db, [NOTES]) == []
        assert not processes.died(worker)
        assert processes.stop(worker) == 0
