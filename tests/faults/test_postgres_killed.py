"""Postgres is killed in the middle of its work, fifty times, and recovers from its log; fsync is on."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pg_embed.embedded import EmbeddedServer
from pg_embed.install import install
from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.postmaster import bring_up, end, kill_one
from tests.faults.tables import NOTES, ODD, PARTED, set_up
from tests.faults.writers import new_seed, writing
from tests.fix_pg import temporary_folder

KILLS = 50
LONGEST_LIFE = 0.2  # seconds between a start and the next kill, at most
SETTINGS = {"lease": 5.0, "tend_every": 0.5, "poll": 0.2}
TABLES = [NOTES, ODD, PARTED]


@pytest.fixture
def safe_server() -> Iterator[EmbeddedServer]:
    """A server of this test's own, with fsync."""
    with temporary_folder() as folder:
        server = EmbeddedServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()


CLAIM = "SELECT c.entries FROM embed._vectorizer AS v, embed._claim_v1(%s, v.id, 1, 100, '1 hour') AS c"
FINISH = """
    SELECT f.written FROM embed._vectorizer AS v,
        embed._finish_v1(%s, v.id, %s, '{1}', ARRAY[embed._hash('one')],
            ARRAY[array_fill(0.5, '{8}')::halfvec]) AS f
"""
LEFT = """
    SELECT n.id FROM notes AS n
    WHERE n.embedding IS NULL AND NOT EXISTS (SELECT FROM embed._queue AS q WHERE n.id = ANY (q.ids))
"""


def test_no_row_is_lost_when_commits_are(safe_server: EmbeddedServer) -> None:
    dsn = safe_server.dsn()
    install(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        set_up(db, [NOTES])
        db.execute("DELETE FROM embed._backfill")
        db.execute("ALTER SYSTEM SET synchronous_commit = off")
        db.execute(
            "ALTER SYSTEM SET wal_writer_delay = '10s'"
        )  # it writes nothing until the server is killed
        db.execute("SELECT pg_reload_conf()")
        db.execute("CHECKPOINT")
    with psycopg.connect(dsn, autocommit=True) as db:
        assert db.execute("SHOW synchronous_commit").fetchone() == ("off",)
        db.execute("INSERT INTO notes (id, body) VALUES (1, 'one')")
        row = db.execute(CLAIM, (7,)).fetchone()
        assert row is not None
        end(safe_server, signal.SIGKILL)
    bring_up(safe_server, workers=0)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("INSERT INTO notes (id, body) VALUES (2, 'two')")
        db.execute(FINISH, (7, row[0]))  # by a worker that lives on
        assert db.execute(LEFT).fetchall() == []
        assert db.execute("SELECT id FROM notes ORDER BY id").fetchall() == [(1,), (2,)]


@pytest.mark.timeout(600)
def test_no_row_is_lost_when_postgres_is_killed(safe_server: EmbeddedServer, tmp_path: Path) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    dsn = safe_server.dsn()
    install(dsn)
    with psycopg.connect(dsn, autocommit=True) as db:
        assert db.execute("SHOW fsync").fetchone() == ("on",)
        set_up(db, TABLES)
    killed: Counter[str] = Counter()
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, **SETTINGS) for _ in range(2)]
        with writing(dsn, TABLES, seed, writers=3, rows=60) as writers:
            for kill in range(KILLS):
                bring_up(safe_server, workers=rng.choice([0, 1, 1]))
                time.sleep(rng.uniform(0, LONGEST_LIFE))
                killed[kill_one(safe_server, rng)] += 1
                if kill % 10 == 9:
                    bring_up(safe_server, workers=1)
                    for writer in writers:
                        writer.hold()
                    with psycopg.connect(dsn, autocommit=True) as db:
                        rest(db, TABLES)
                        assert violations(db, TABLES) == []
                    for writer in writers:
                        writer.go_on()
        print(f"killed: {dict(killed)}")
        assert [processes.stop(worker) for worker in workers] == [0, 0]
