"""Postgres is killed in the middle of its work, fifty times, and recovers from its log; fsync is on."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from pg_embed.embedded import EmbeddedServer
from pg_embed.install import install
from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, ODD, PARTED, set_up
from tests.faults.writers import new_seed, writing
from tests.fix_pg import temporary_folder

KILLS = 50
LONGEST_LIFE = 0.2  # seconds between a start and the next kill, at most
PATIENCE = 45  # seconds; recovery synchronises every file, and the disk may be somebody else's too
START_TIMEOUT = 120  # seconds
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


def kill_one(server: EmbeddedServer, rng: random.Random) -> str:
    """Kill the postmaster, whose children then end, or one of them, upon which it starts all of them anew."""
    postmaster = psutil.Process(server.pid)
    children = postmaster.children()
    victim = rng.choice(children) if children and rng.random() < 0.5 else postmaster
    name = "postmaster" if victim is postmaster else "child"
    with suppress(psutil.NoSuchProcess):
        os.kill(victim.pid, signal.SIGKILL)
    if victim is postmaster:
        psutil.wait_procs([postmaster], timeout=START_TIMEOUT)
    return name


def state_of(server: EmbeddedServer) -> str:
    running = [(process.pid, process.status(), process.name()) for process in psutil.process_iter()]
    return f"running: {running}, log:\n{server.log_file.read_text(errors='replace')[-5_000:]}"


def bring_up(server: EmbeddedServer, workers: int) -> None:
    """Wait until the server has recovered and has so many workers; start it if it has not survived.

    One that is long in coming back is killed once more, as its operator would do.
    """
    began = time.monotonic()
    patience = PATIENCE
    while True:
        try:
            if not psutil.pid_exists(server.pid):
                server.stop()
                server.start()
            with psycopg.connect(server.dsn(), autocommit=True, connect_timeout=5) as connection:
                while connection.execute("SELECT embed._workers() < %s", (workers,)).fetchone() == (True,):
                    assert time.monotonic() < began + START_TIMEOUT, "the workers do not come back"
                    time.sleep(0.01)
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > began + patience:
                print(f"not back after {patience} s: {error}; {state_of(server)}")
                assert patience < START_TIMEOUT, "the server does not come back"
                patience = START_TIMEOUT
                with suppress(ProcessLookupError):
                    os.kill(server.pid, signal.SIGKILL)
            time.sleep(0.01)


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
