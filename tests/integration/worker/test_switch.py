"""Switches from one model to another under searches and writers, with real workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pg_embed.errors import InputRejected
from tests.fix_models import PATIENCE
from tests.fix_pg import MakeRole
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import refused, value
from tests.sql.test_postings import difference

WIDE = 7
SOON = {"index_every": 0.02, "switch_every": 0.02}
ROWS = 300
BUSY = "60 seconds"  # for a table that many search all the time: nobody is made to wait for a swap

# Stands for the sidecar: after some milliseconds, a vector of as many dimensions as the model has.
# The query "slow" waits, asked of the narrow model, until the test lets it go.
SIDECAR = """
CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asked jsonb := request::jsonb;
    dimensions int := asked #>> '{model,options,dimensions}';
BEGIN
    PERFORM pg_sleep(random() * 0.01);
    IF asked #>> '{texts,0}' = 'slow' AND dimensions < 7 THEN
        PERFORM pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1);
    END IF;
    RETURN jsonb_build_object('id', asked ->> 'id', 'tokens', 1, 'vectors',
        jsonb_build_array('[' || array_to_string(array_fill(1 + random(), ARRAY[dimensions]), ',') || ']'));
END $$;
CREATE FUNCTION find(query text) RETURNS SETOF bigint STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT id FROM docs ORDER BY embedding <=> embed(query) LIMIT 5;
END $$;
"""
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted"
SEARCHES = (
    "SELECT id FROM docs ORDER BY embedding <=> embed(%s) LIMIT 5",
    "SELECT id FROM docs WHERE embedding <=> embed(%s, vectorizer => 'docs') < 3 LIMIT 5",
    "SELECT (hit).id FROM embed.search(NULL::docs, %s, k => 5)",
    "SELECT * FROM find(%s)",
)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 300 rows, two models of different dimensions, and a sidecar that answers for both."""
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=WIDE)
    db.execute(SIDECAR)
    create_docs(db, *(f"text {number}" for number in range(ROWS)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
    return db


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 3 * PATIENCE  # some steps are tried again after many seconds
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def state(db: Connection) -> str | None:
    row = db.execute("SELECT state FROM embed.switches").fetchone()
    return row[0] if row else None


def wrong(
    db: Connection, vectorizer: str = "docs_embedding", column: str = "embedding", **options: Any
) -> int:
    return len(broken_rows(db, column=column, vectorizer=vectorizer, **options))


class Loop:
    """Runs something again and again in threads, each with a connection; keeps its errors and its number."""

    def __init__(self, dsn: str, step: Callable[[Connection, int], object], threads: int = 1) -> None:
        self.errors: list[str] = []
        self.done = 0
        self._dsn = dsn
        self._step = step
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._ended.is_set():
                try:
                    self._step(connection, number)
                    self.done += 1
                except psycopg.Error as exc:
                    self.errors.append(f"{number}: {exc}")

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)


@contextmanager
def under_load(dsn: str) -> Iterator[Loop]:
    """Searches of every form, prepared ones among them, and writers; none of them may fail."""

    def search(connection: Connection, number: int) -> None:
        statement = SEARCHES[number % len(SEARCHES)]
        found = connection.execute(statement, [f"q{number}"], prepare=number >= len(SEARCHES))
        assert len(found.fetchall()) == 5

    def write(connection: Connection, number: int) -> None:
        connection.execute("UPDATE docs SET body = body || '.' WHERE id = 1 + (random() * 290)::int")
        insert_docs(connection, "another")
        time.sleep(0.01)

    searches, writers = Loop(dsn, search, 2 * len(SEARCHES)), Loop(dsn, write)
    try:
        yield searches
    finally:
        writers.end()
        searches.end()
    assert searches.errors == []
    assert writers.errors == []
    assert searches.done > 50


def test_searches_never_fail_through_a_switch_and_back(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.create_index('docs', min_rows => 50)")
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: value(docs, "SELECT state FROM embed.indexes") == "valid", "an index")
    with under_load(dsn) as searches:
        docs.execute(f"SELECT embed.switch_model('docs', 'wide', auto => true, timeout => '{BUSY}')")
        until(lambda: state(docs) == "swapped", "a swap")
        told = docs.execute("SELECT model, index_state, overlap_at_10, compared FROM embed.switches")
        model, index_state, overlap, compared = told.fetchall()[0]
        assert (model, index_state) == ("wide", "valid")
        assert 0 <= overlap <= 1
        assert compared > 0
        for model in ("fake", "wide"):
            seen = searches.done
            until(lambda seen=seen: searches.done > seen + 20, "searches after the swap")
            docs.execute(f"SELECT embed.rollback_switch('docs', '{BUSY}')")
            until(
                lambda model=model: value(docs, "SELECT model FROM embed.switches") == model, "the way back"
            )
            until(lambda: state(docs) == "swapped", "the way back")
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: value(docs, "SELECT count(*) FROM embed._queue") == 0, "both spaces in step")
    assert wrong(docs, dimensions=WIDE) == 0
    assert wrong(docs, "docs_embedding_old", "embedding_old") == 0
    docs.execute("SELECT embed.forget_switch('docs')")
    assert value(docs, "SELECT columns FROM embed.vectorizers") == ["embedding"]


@pytest.mark.parametrize("storage", ["column", "table"])
def test_a_search_that_waited_through_a_whole_switch_mixes_nothing(
    docs: Connection, dsn: str, start_worker: StartWorker, storage: str
) -> None:
    if storage == "table":
        docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'table')")
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    errors: list[str | None] = []
    search = "search" if storage == "column" else "search_chunks"
    statement = f"SELECT (hit).id FROM embed.{search}(NULL::docs, 'slow', k => 5)"

    def ask() -> None:
        with psycopg.connect(dsn, autocommit=True) as session, pytest.raises(psycopg.Error) as raised:
            session.execute(statement)
        errors.append(raised.value.sqlstate)

    docs.execute("SELECT pg_advisory_lock(1)")
    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: value(docs, WAITING) == 1, "a search that waits")
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    until(lambda: state(docs) == "swapped", "a swap")
    docs.execute("SELECT pg_advisory_unlock(1)")
    asking.join(PATIENCE)
    assert errors == ["40001"]
    assert len(docs.execute(statement).fetchall()) == 5


def test_a_switch_outlives_its_workers(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    start_worker.end()
    model = GatedFake(shut=True, dimensions=WIDE)
    doomed = start_worker(dsn, {"wide": model}, **SOON)
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    model.next_call()
    insert_docs(docs, "while it is filled")
    doomed.abort()
    assert state(docs) == "filling"
    start_worker(dsn, {}, tend_every=0.05, **SOON)
    until(lambda: state(docs) == "swapped", "a swap")
    docs.execute("SELECT embed.wait('docs')")  # the swap does not wait for rows of the last seconds
    assert wrong(docs, dimensions=WIDE) == 0


def test_a_rollback_after_further_writes_has_the_right_vectors(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true, keep => 'frozen')")
    until(lambda: state(docs) == "swapped", "a swap")
    insert_docs(docs, "new")
    docs.execute("UPDATE docs SET body = 'changed' WHERE id < 20")
    docs.execute("DELETE FROM docs WHERE id = 30")
    docs.execute("SELECT embed.wait('docs')")
    assert wrong(docs, dimensions=WIDE) == 0
    assert wrong(docs, "docs_embedding_old", "embedding_old") == 20, "they are kept as they were"
    docs.execute("SELECT embed.rollback_switch('docs')")
    until(lambda: value(docs, "SELECT model FROM embed.vectorizers") == "fake", "the way back")
    assert wrong(docs) == 0
    assert state(docs) == "swapped"


def test_an_aborted_switch_leaves_nothing(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(shut=True, dimensions=WIDE)
    start_worker(dsn, {"wide": model}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    model.next_call()
    docs.execute("SELECT embed.abort_switch('docs')")
    model.open()
    insert_docs(docs, "after")
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: value(docs, "SELECT count(*) FROM embed._queue") == 0, "an empty queue")
    assert wrong(docs) == 0
    assert state(docs) is None


def test_a_paused_switch_goes_on(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    docs.execute("SELECT embed.pause('docs_embedding_next')")
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    assert state(docs) == "paused"
    assert value(docs, "SELECT count(embedding_next) FROM docs") == 0
    docs.execute("SELECT embed.resume('docs_embedding_next')")
    until(lambda: state(docs) == "swapped", "a swap")
    assert wrong(docs, dimensions=WIDE) == 0


def test_a_switch_has_one_batch_in_hand(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(shut=True, dimensions=WIDE, concurrency=4)
    start_worker(dsn, {"wide": model}, page_rows=400, batch_rows=32, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.switch_model('docs', 'wide')")
    first = model.next_call()
    assert first.texts[0].startswith("text")
    insert_docs(docs, "new")
    assert model.next_call().texts == ["new"], (
        "there is no second batch of the backfill, though there are rows"
    )
    model.open()
    until(lambda: state(docs) == "ready", "a switch that is ready")
    until(lambda: value(docs, "SELECT count(*) FROM embed._queue") == 0, "the row that is new, too")
    assert wrong(docs, "docs_embedding_next", "embedding_next", dimensions=WIDE) == 0


def test_most_rows_stay_on_their_page_and_out_of_the_old_index(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("UPDATE docs SET body = repeat(body || ' ', 20)")
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    start_worker.end()
    docs.execute("VACUUM FULL docs")  # pages without room
    before = hot_updates(docs)
    docs.execute("SELECT embed.switch_model('docs', 'wide')")
    start_worker(dsn, {}, **SOON)
    until(lambda: state(docs) == "ready", "a switch that is ready")
    start_worker.end()
    assert hot_updates(docs) - before > ROWS / 2
    assert wrong(docs, "docs_embedding_next", "embedding_next", dimensions=WIDE) == 0


def hot_updates(db: Connection) -> int:
    """How many updates left a row on its page; sessions tell the statistics at the latest when they end."""
    others = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
    until(lambda: value(db, others) == 0, "the end of the worker's sessions")
    return int(value(db, "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'docs'"))


def test_rows_that_are_locked_or_refused_do_not_keep_the_others_of_a_switch(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    with docs.transaction():  # or the worker might fill some rows before the pause
        docs.execute("SELECT embed.switch_model('docs', 'wide')")
        docs.execute("SELECT embed.pause('docs_embedding_next')")
    docs.execute("UPDATE docs SET body = body || '!' WHERE id % 100 = 1")
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'not this one' USING ERRCODE = '23514'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE OF embedding_next ON docs FOR EACH ROW
        WHEN (NEW.id % 100 = 7) EXECUTE FUNCTION refuse()""")
    waits = "SELECT count(*) FROM docs WHERE embedding_next IS NULL"
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM docs WHERE id IN (5, 105, 205) FOR UPDATE")
        docs.execute("SELECT embed.resume('docs_embedding_next')")
        until(lambda: value(docs, waits) == 6, "all rows but those that are locked or refused")
        assert state(docs) == "filling"
    until(lambda: state(docs) == "ready", "a switch that is ready")
    failed = docs.execute("SELECT key, code FROM embed.failures ORDER BY key").fetchall()
    assert failed == [("107", "23514"), ("207", "23514"), ("7", "23514")]
    docs.execute("DROP TRIGGER refuse ON docs")
    docs.execute("SELECT embed.retry('docs_embedding_next')")
    until(lambda: value(docs, waits) == 0, "vectors of all rows")
    assert wrong(docs, "docs_embedding_next", "embedding_next", dimensions=WIDE) == 0


def test_rows_that_only_the_new_model_refuses_stop_the_swap(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(dimensions=WIDE)
    model.refuse = lambda texts: InputRejected("no") if "text 7" in texts else None
    start_worker(dsn, {"wide": model}, **SOON)
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    until(lambda: state(docs) == "ready", "a switch that is ready")
    assert value(docs, "SELECT explanation FROM embed.switches").startswith("1 rows failed, and 0 before")
    time.sleep(0.2)  # ten looks
    assert state(docs) == "ready"
    model.refuse = lambda texts: None
    model.shut()
    docs.execute("SELECT embed.retry('docs_embedding_next')")
    assert model.next_call().texts == ["text 7"]
    assert state(docs) == "filling", "the row is not there yet"
    time.sleep(0.2)
    assert state(docs) == "filling"
    model.open()
    until(lambda: state(docs) == "swapped", "a swap")
    assert wrong(docs, dimensions=WIDE) == 0


def test_a_worker_that_is_not_the_owner_leaves_the_swap_to_him(
    docs: Connection, dsn: str, make_role: MakeRole, start_worker: StartWorker
) -> None:
    worker = make_role("embed_worker")
    start_worker(worker.dsn, {}, **SOON)
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    until(lambda: value(docs, "SELECT needs_owner FROM embed._switch"), "the worker's word")
    told = docs.execute("SELECT state, explanation, compared > 0 FROM embed.switches").fetchall()
    assert told == [("ready", "the table's owner must end it with embed.finish_switch", True)]
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        assert refused(connection, "SELECT embed.finish_switch('docs')")[0] == "42501"
    docs.execute("SELECT embed.finish_switch('docs')")
    assert state(docs) == "swapped"
    insert_docs(docs, "after")
    docs.execute("SELECT embed.wait('docs')")
    assert wrong(docs, dimensions=WIDE) == 0


def test_a_pair_keeps_its_sparse_vectors_and_their_postings(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_bm25_model(docs)
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25')")
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    until(lambda: state(docs) == "swapped", "a swap")
    insert_docs(docs, "a lamp")
    docs.execute("UPDATE docs SET body = 'another lamp' WHERE id < 20")
    docs.execute("DELETE FROM docs WHERE id = 30")
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: value(docs, "SELECT count(*) FROM embed._queue") == 0, "both spaces in step")
    assert wrong(docs, dimensions=WIDE) == wrong(docs, "docs_embedding_old", "embedding_old") == 0
    docs.execute("SELECT embed.forget_switch('docs')")
    found = docs.execute("SELECT model, sparse_model, columns FROM embed.vectorizers").fetchall()
    assert found == [("wide", "bm25", ["embedding", "sparse"])]
    assert difference(docs, column="sparse") == 0
