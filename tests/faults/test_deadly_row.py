"""A row whose text kills every worker that embeds it is found and given up; the others are embedded."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pg_embed.records import ModelSpec
from tests.faults.deadly import DEADLY
from tests.faults.invariant import rest, violations
from tests.faults.nursery import Nursery, nursery
from tests.faults.tables import NOTES, Column, set_up

ROWS = 600
MODEL = ModelSpec("deadly", DEADLY, {"dimensions": 4, "delay": 0.01, "fail_on": DEADLY})
TABLE = replace(NOTES, columns=[Column("embedding", MODEL, "input => 'body', model => 'deadly'", "body")])
SETTINGS = {"tend_every": 0.1, "poll": 0.1, "lease": 5.0}


class Supervisor(threading.Thread):
    """Starts a worker again whenever it dies."""

    def __init__(self, processes: Nursery, dsn: str) -> None:
        super().__init__(daemon=True)
        self.deaths = 0
        self._processes = processes
        self._dsn = dsn
        self._ending = threading.Event()
        self._worker = processes.worker(dsn, **SETTINGS)

    def run(self) -> None:
        """Look after the worker."""
        while not self._ending.wait(0.02):
            if self._processes.died(self._worker):
                self.deaths += 1
                self._worker = self._processes.worker(self._dsn, **SETTINGS)

    def end(self) -> None:
        """Let it be."""
        self._ending.set()
        self.join(10)
        self._processes.kill(self._worker)


@pytest.mark.timeout(180)
def test_a_row_that_kills_its_worker_is_given_up_alone(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    set_up(db, [TABLE], models=[MODEL], max_attempts=6)
    with nursery(tmp_path / "workers.log") as processes:
        supervisor = Supervisor(processes, dsn)
        supervisor.start()
        db.execute(
            "INSERT INTO notes (id, body) SELECT i, CASE i WHEN %s THEN 'deadly' ELSE 'text ' || i END"
            " FROM generate_series(1, %s) AS i",
            (ROWS // 2, ROWS),
        )
        rest(db, [TABLE], timeout=120)
        supervisor.end()
    print(f"{supervisor.deaths} deaths")
    assert violations(db, [TABLE]) == []
    assert db.execute("SELECT key, code FROM embed.failures").fetchall() == [(str(ROWS // 2), "PE020")]
