"""How a worker ends, and what it outlives: a stop, an abort, lost connections, a missing schema."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pg_embed.errors import NotInstalled
from pg_embed.install import uninstall
from pg_embed.worker import Worker, WorkerSettings
from tests.fix_models import OneModel
from tests.fix_pg import Server
from tests.fix_worker import (
    NEVER,
    Connection,
    GatedFake,
    RunningWorker,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import value

OURS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg_embed worker'"
SESSIONS = f"SELECT count(*) {OURS}"
LOCKS = {"idle": 1885695330, "alive": 1885695331}
TERMINATE = f"SELECT count(pg_terminate_backend(pid)) {OURS}"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with three rows that wait."""
    create_fake_model(db)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    insert_docs(db, "one", "two", "three")
    return db


def test_a_stop_finishes_what_is_in_hand_and_takes_no_more(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    worker = start_worker(dsn, model, live_slots=1)
    call = model.next_call()
    insert_docs(docs, "later")
    worker.ask_to_stop()
    call.go()
    model.open()
    worker.join()
    assert value(docs, "SELECT count(embedding) FROM docs") == 3
    assert docs.execute("SELECT n, worker, attempts FROM embed._queue").fetchall() == [(1, None, 0)]
    while value(docs, SESSIONS):
        pass
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_stop_of_an_idle_worker_is_at_once(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    worker = start_worker(dsn, poll=NEVER, busy_poll=NEVER)
    docs.execute("SELECT embed.wait('docs')")
    worker.stop()
    locks = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid IN (1885695330, 1885695331)"
    )
    while value(docs, locks):
        pass


def test_an_abort_loses_nothing(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(shut=True)
    worker = start_worker(dsn, model, lease=NEVER)
    model.next_call()
    worker.ask_to_abort()
    model.open()
    worker.join()
    assert value(docs, "SELECT count(embedding) FROM docs") == 0
    start_worker(dsn, lease=NEVER)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_an_abort_ends_a_stop_that_takes_too_long(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    worker = start_worker(dsn, model, lease=NEVER)
    model.next_call()
    worker.ask_to_stop()
    worker.ask_to_abort()
    model.open()
    worker.join()
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_worker_outlives_the_loss_of_all_its_sessions(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    for number in range(3):
        docs.execute("SELECT embed.wait('docs')")
        assert value(docs, TERMINATE) > 0
        insert_docs(docs, f"text {number}")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_worker_that_loses_its_sessions_in_the_middle_of_a_batch_loses_no_row(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model, lease=NEVER)
    call = model.next_call()
    docs.execute(TERMINATE)
    call.go()
    model.open()
    docs.execute("UPDATE docs SET body = body || '!' WHERE id = 1")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


@pytest.mark.parametrize("which", ["LISTEN", "advisory", "work_v1", "figures_v1"])
def test_a_worker_outlives_the_loss_of_some_sessions(
    docs: Connection, dsn: str, start_worker: StartWorker, which: str
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute(f"{TERMINATE} AND query LIKE %s", [f"%{which}%"])
    insert_docs(docs, "four")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_worker_waits_for_a_database_that_refuses_it(
    docs: Connection, server: Server, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    name = docs.info.dbname
    with server.connect() as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        assert value(docs, TERMINATE) > 0
        insert_docs(docs, "four")
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_database_without_pg_embed_is_an_error_with_a_hint(bare_dsn: str) -> None:
    worker = RunningWorker(bare_dsn, OneModel(lambda spec: GatedFake()), WorkerSettings())
    with pytest.raises(NotInstalled) as caught:
        worker.join()
    assert "pg-embed install" in str(caught.value.hint)


def test_a_stop_before_the_database_answers_ends_the_worker() -> None:
    settings = WorkerSettings()
    worker = RunningWorker("host=/nowhere dbname=none", OneModel(lambda spec: GatedFake()), settings)
    while worker._loop is None:
        pass
    worker.stop()


def test_an_uninstall_under_a_running_worker_ends_it_with_an_error(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    worker = start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    start_worker.expected = "."
    uninstall(dsn)
    with pytest.raises(NotInstalled):
        worker.join()
    worker.error = None
    assert value(docs, "SELECT count(embedding) FROM docs") == 3


def test_the_idle_lock_goes_with_its_worker(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    idle = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1885695330 AND objid = 1"
    first = start_worker(dsn, poll=0.01)
    docs.execute("SELECT embed.wait('docs')")
    while not value(docs, idle):
        pass
    second = start_worker(dsn, poll=0.01)
    first.stop()
    while not value(docs, idle):
        pass
    insert_docs(docs, "four")
    docs.execute("SELECT embed.wait('docs')")
    second.stop()
    while value(docs, idle):
        pass
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("LISTEN pg_embed_work")
        insert_docs(docs, "five")
        docs.execute("NOTIFY pg_embed_work, 'end'")
        assert [notice.payload for notice in listener.notifies(timeout=10, stop_after=1)] == ["end"]


def at_rest(db: Connection, than: int = 0) -> dict[str, int]:
    """The sessions that hold the locks of `LOCKS` when one worker waits for a call; `than` is none of them.

    Waits for that, and looks once: a call may wake the worker at any moment, and then it rests again.
    """
    while True:
        found = db.execute(
            "SELECT classid::bigint, pid, embed._workers() FROM pg_locks"
            " WHERE locktype = 'advisory' AND granted AND classid = ANY (%s)"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [list(LOCKS.values())],
        ).fetchall()
        held = {name: [pid for lock, pid, _ in found if lock == number] for name, number in LOCKS.items()}
        if all(len(pids) == 1 and pids != [than] for pids in held.values()) and {row[2] for row in found} == {
            1
        }:
            return {name: pid for name, (pid,) in held.items()}


@pytest.mark.parametrize("lock", ["idle", "alive"])
def test_an_idle_worker_connects_again_whose_session_was_ended(
    docs: Connection, dsn: str, start_worker: StartWorker, lock: str
) -> None:
    start_worker(dsn, poll=NEVER)
    docs.execute("SELECT embed.wait('docs')")
    pid = at_rest(docs)[lock]
    docs.execute("SELECT pg_terminate_backend(%s)", [pid])
    at_rest(docs, pid)
    insert_docs(docs, "four")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_worker_connects_again_whose_session_is_another_now(
    docs: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_alive, lost = Worker._be_alive, []

    async def lose(worker: Worker, connection: psycopg.AsyncConnection[Any]) -> int:
        number = await be_alive(worker, connection)
        if not lost:
            lost.append(number)
            await connection.execute("SELECT pg_advisory_unlock_all()")
        return number

    monkeypatch.setattr(Worker, "_be_alive", lose)
    start_worker(dsn, poll=NEVER)
    at_rest(docs)
    assert len(lost) == 1
