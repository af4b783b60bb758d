"""What a worker outlives: time limits of its role, upgrades, errors without end, tables that stay locked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from pg_embed.jobs import Store
from pg_embed.worker.dispatcher import is_passing
from tests.fix_models import PATIENCE
from tests.fix_worker import (
    NEVER,
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import value

SESSIONS = (
    "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'pg_embed worker'"
)
# What stands in front of the function that a worker looks at the queue with, and fails now and then.
WORK = """
CREATE FUNCTION embed._work_v1() RETURNS {result} LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF {condition} THEN
        RAISE EXCEPTION 'relation "embed._gone" does not exist' USING ERRCODE = {code};
    END IF;
    RETURN QUERY SELECT * FROM embed._work();
END $$
"""


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a row that waits."""
    create_fake_model(db)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    insert_docs(db, "one")
    return db


class Waits(logging.Handler):
    """For how many seconds a worker meant to wait each time that it lost the database."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if getattr(record, "event", "") == "worker_disconnected":
            self.seconds.append(vars(record)["pg_embed_retry_in"])


@pytest.fixture
def waits() -> Iterator[Waits]:
    """Those of this test."""
    handler, logger = Waits(), logging.getLogger("pg_embed.worker")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def until(holds: Callable[[], object], what: str) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def stand_before_work(db: Connection, condition: str, code: str) -> None:
    """Let looks at the queue fail on a condition; `nextval('looks')` in it counts them, failed ones too."""
    result = value(db, "SELECT pg_get_function_result('embed._work_v1'::regproc)")
    parts = {"result": sql.SQL(result), "condition": sql.SQL(condition), "code": sql.Literal(code)}
    with db.transaction():
        db.execute("CREATE SEQUENCE looks")
        db.execute("ALTER FUNCTION embed._work_v1() RENAME TO _work")
        db.execute(sql.SQL(WORK).format(**parts))


def limit(db: Connection, name: str, to: str) -> None:
    """Let a time limit hold for whoever connects from now on."""
    names = sql.Identifier(db.info.dbname), sql.Identifier(name)
    db.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(*names, sql.Literal(to)))


def test_sessions_are_not_ended_for_being_idle(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    limit(docs, "idle_session_timeout", "1s")
    start_worker(dsn, GatedFake(), poll=NEVER, tend_every=NEVER, figures_every=NEVER, connections=1)
    docs.execute("SELECT embed.wait('docs')")
    before = value(docs, SESSIONS)
    assert before
    docs.execute("SELECT pg_sleep(1.5)")
    assert set(before) <= set(value(docs, SESSIONS) or [])


def test_a_limit_of_the_role_does_not_end_what_a_worker_writes(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    if docs.info.server_version < 170_000:
        pytest.skip("such a limit came with PostgreSQL 17")
    docs.execute(
        "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN new.title := current_setting('transaction_timeout'); RETURN new; END $$"
    )
    docs.execute("CREATE TRIGGER note BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION public.note()")
    limit(docs, "transaction_timeout", "1min")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT title FROM docs") == "0"


@pytest.mark.parametrize("name", ["idle_in_transaction_session_timeout", "transaction_timeout"])
def test_a_session_that_a_limit_ends_says_nothing_of_a_table(db: Connection, dsn: str, name: str) -> None:
    if not value(db, "SELECT count(*) FROM pg_settings WHERE name = %s", name):
        pytest.skip("such a limit came with PostgreSQL 17")
    with psycopg.connect(dsn) as limited:
        limited.execute("SELECT set_config(%s, '10ms', false)", [name])
        with pytest.raises(psycopg.Error) as caught:
            ask_until_it_ends(limited)
    assert is_passing(caught.value)


def ask_until_it_ends(connection: Connection) -> None:
    while True:
        connection.execute("SELECT 1")
        time.sleep(0.02)


def test_a_worker_outlives_one_upgrade_after_the_other(
    docs: Connection, dsn: str, start_worker: StartWorker, waits: Waits
) -> None:
    worker = start_worker(dsn, GatedFake(), poll=0.02)
    docs.execute("SELECT embed.wait('docs')")
    stand_before_work(docs, "nextval('looks') IN (2, 5, 8)", "42P01")
    until(lambda: value(docs, "SELECT last_value FROM looks") > 8 or worker.error, "no looks came")
    assert worker.error is None
    assert len(waits.seconds) == 3
    insert_docs(docs, "two")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_worker_that_fails_again_and_again_waits_longer_and_longer(
    docs: Connection, dsn: str, start_worker: StartWorker, waits: Waits
) -> None:
    start_worker(dsn, GatedFake(), poll=0.02)
    docs.execute("SELECT embed.wait('docs')")
    stand_before_work(docs, "nextval('looks') > 0", "42501")
    until(lambda: len(waits.seconds) >= 3, "the worker did not try again")
    first, second, third = waits.seconds[:3]
    assert first < second < third


def test_leases_are_kept_while_the_pool_waits_for_a_locked_table(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    docs.execute("CREATE TABLE locked (id bigint PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('locked', 'body', model => 'fake', backfill => false)")
    start_worker(dsn, model, connections=1, lease=1.0, poll=0.05)
    start_worker.expected = "lock timeout"
    call = model.next_call()
    held = (
        "SELECT array_agg((id, available_at)::text) FROM embed._queue WHERE worker IS NOT NULL"
        " AND vectorizer_id = (SELECT id FROM embed._vectorizer WHERE name = 'docs_embedding')"
    )
    waiting = (
        "SELECT min((pid, query_start)::text) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'pg_embed worker' AND wait_event_type = 'Lock'"
    )
    docs.execute("SELECT embed.pause('locked')")  # until it is locked, or its row may be in hand by then
    docs.execute("INSERT INTO locked VALUES (1, 'x')")
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE locked")
        docs.execute("SELECT embed.resume('locked')")
        until(lambda: renewed_while(docs, held, waiting), "no lease was renewed while the pool waited")
    call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs'), embed.wait('locked')")
    assert broken_rows(docs) == []


def test_an_error_that_nobody_expects_is_told_and_not_met_again_at_once(
    docs: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    async def take(*arguments: object) -> None:
        calls.append(arguments)
        raise ValueError("a bug")

    monkeypatch.setattr(Store, "take", take)
    start_worker.expected = "a bug"
    start_worker(dsn, repair_wait=NEVER)
    until(lambda: start_worker.errors, "the error was not told")
    insert_docs(docs, "two")
    docs.execute("SELECT pg_sleep(0.2)")  # four looks of a busy worker
    assert len(calls) == 1


def renewed_while(db: Connection, held: str, waiting: str) -> bool:
    """Whether leases are others than before, and one statement waited all the while."""
    statement, leases = value(db, waiting), value(db, held)
    while statement is not None and value(db, waiting) == statement:
        if value(db, held) != leases:
            return value(db, waiting) == statement
        time.sleep(0.01)
    return False
