"""From chunks to a column under searches and writers, with real workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.fix_models import PATIENCE
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.integration.worker.test_switch import BUSY, SIDECAR, SOON, WAITING, Loop, until
from tests.integration.worker.test_switch_chunks import body, wrong
from tests.sql.helpers import value

ROWS, STAY = 100, 90  # rows up to STAY are changed, and never deleted
FIND = """
CREATE OR REPLACE FUNCTION find(query text) RETURNS SETOF bigint STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT (hit).id FROM embed.search(NULL::docs, query, k => 1000);
END $$
"""
SEARCHES = (
    "SELECT (hit).id FROM embed.search(NULL::docs, %s, k => 1000)",
    "SELECT * FROM find(%s)",
)
OVER_CHUNKS = (
    "SELECT DISTINCT id FROM (SELECT id FROM docs_chunks ORDER BY embedding <=> embed(%s) LIMIT 5000) AS c",
)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 100 rows, every other one of several chunks, and a sidecar."""
    create_fake_model(db)
    db.execute(SIDECAR)
    db.execute(FIND)
    create_docs(db, *(body(number) if number % 2 else f"text {number}" for number in range(ROWS)))
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', storage => 'table',"
        """ chunking => '{"size": 16}')"""
    )
    return db


@contextmanager
def under_load(dsn: str, statements: tuple[str, ...] = SEARCHES) -> Iterator[Loop]:
    """Searches, prepared ones among them, each of which finds every row that is older; and writers."""
    missed: list[set[int]] = []

    def search(connection: Connection, number: int) -> None:
        statement = statements[number % len(statements)]
        found = connection.execute(statement.encode(), [f"q{number}"], prepare=number >= len(statements))
        lost = set(range(1, STAY + 1)) - {row[0] for row in found.fetchall()}
        if lost:
            missed.append(lost)

    def write(connection: Connection, number: int) -> None:
        connection.execute("UPDATE docs SET body = body || '.' WHERE id = 1 + (random() * 98)::int")
        insert_docs(connection, "another")
        connection.execute("DELETE FROM docs WHERE id > %s AND random() < 0.1", [STAY])
        time.sleep(0.02)

    searches, writers = Loop(dsn, search, 2 * len(statements)), Loop(dsn, write)
    try:
        yield searches
    finally:
        writers.end()
        searches.end()
    assert searches.errors == []
    assert writers.errors == []
    assert missed == []
    assert searches.done > 20


def settled(db: Connection) -> None:
    db.execute("SELECT embed.wait('docs', make_interval(secs => %s))", [3 * PATIENCE])
    until(lambda: value(db, "SELECT count(*) FROM embed._queue") == 0, "an empty queue")


def goes_on(searches: Loop) -> None:
    seen = searches.done
    until(lambda: searches.done > seen + 5, "further searches")


def stored(db: Connection) -> str:
    return str(value(db, "SELECT storage FROM embed.vectorizers"))


def test_searches_find_every_row_while_chunks_become_a_column(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.create_index('docs', min_rows => 50)")
    start_worker(dsn, {}, page_rows=20, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: value(docs, "SELECT state FROM embed.indexes") == "valid", "an index")
    with under_load(dsn) as searches:
        docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'column')")
        until(lambda: stored(docs) == "column", "a swap")
        goes_on(searches)
    settled(docs)
    assert broken_rows(docs) == []
    assert value(docs, "SELECT state FROM embed.indexes") == "valid"
    assert value(docs, "SELECT to_regclass('docs_embedding') IS NULL")


def test_chunks_that_are_kept_are_searched_all_the_time(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, {}, page_rows=20, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    with under_load(dsn, SEARCHES + OVER_CHUNKS) as searches:
        docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'column', keep_chunks => true)")
        until(lambda: stored(docs) == "column", "a swap")
        for storage in ("table", "column"):
            goes_on(searches)
            docs.execute(f"SELECT embed.rollback_switch('docs', '{BUSY}')")
            until(lambda storage=storage: stored(docs) == storage, f"the way back to the {storage}")
        goes_on(searches)
    settled(docs)
    assert broken_rows(docs) == wrong(docs) == []


def test_a_search_that_waited_through_the_whole_change_is_told_to_begin_again(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    errors: list[str | None] = []
    statement = "SELECT (hit).id FROM embed.search(NULL::docs, 'slow', k => 5)"

    def ask() -> None:
        with psycopg.connect(dsn, autocommit=True) as session, pytest.raises(psycopg.Error) as raised:
            session.execute(statement)
        errors.append(raised.value.sqlstate)

    docs.execute("SELECT pg_advisory_lock(1)")
    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: value(docs, WAITING) == 1, "a search that waits")
    docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'column')")
    until(lambda: stored(docs) == "column", "a swap")
    docs.execute("SELECT pg_advisory_unlock(1)")
    asking.join(PATIENCE)
    assert errors == ["40001"]
    assert len(docs.execute(statement.encode()).fetchall()) == 5


def test_a_late_result_goes_to_its_own_place(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake()
    start_worker(dsn, {"fake": model}, index_every=0.02, switch_every=3_600.0)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'column', keep_chunks => true)")
    until(lambda: value(docs, "SELECT state FROM embed.switches") == "ready", "a switch that is ready")
    model.shut()
    docs.execute("UPDATE docs SET body = 'while the places change' WHERE id = 7")
    call = model.next_call()
    docs.execute("SELECT embed.finish_switch('docs')")
    call.go()
    model.open()
    settled(docs)
    assert stored(docs) == "column"
    assert broken_rows(docs) == wrong(docs) == []
