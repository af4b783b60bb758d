"""Switches of vectorizers with chunks under searches and writers, with real workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fix_models import PATIENCE
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
    vector,
)
from tests.integration.worker.test_switch import BUSY, SIDECAR, SOON, WIDE, Loop, state, until
from tests.sql.helpers import value

ROWS = 100
FIND = """
CREATE OR REPLACE FUNCTION find(query text) RETURNS SETOF bigint STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT id FROM docs_chunks ORDER BY embedding <=> embed(query) LIMIT 5;
END $$
"""
SEARCHES = (
    "SELECT id, (source).title FROM docs_chunks ORDER BY embedding <=> embed(%s) LIMIT 5",
    "SELECT chunk FROM docs_chunks WHERE embedding <=> embed(%s, vectorizer => 'docs') < 3 LIMIT 5",
    "SELECT chunk FROM docs_embedding ORDER BY embedding <=> (SELECT embed(%s)) LIMIT 5",
    "SELECT (hit).id FROM embed.search(NULL::docs, %s, k => 5)",
    "SELECT (hit).id, chunk FROM embed.search_chunks(NULL::docs, %s, k => 5)",
    "SELECT * FROM find(%s)",
)


def body(number: int) -> str:
    return "\n\n".join(f"Paragraph {part} of the text that has number {number}." for part in range(3))


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 100 rows of several chunks, two models of different dimensions, and a sidecar for both."""
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=WIDE)
    db.execute(SIDECAR)
    db.execute(FIND)
    create_docs(db, *(body(number) for number in range(ROWS)))
    make(db)
    return db


def make(db: Connection, more: str = "") -> None:
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', storage => 'table',"
        f""" chunking => '{{"size": 16}}'{more})"""
    )


def wrong(db: Connection, table: str = "docs_embedding", dimensions: int = 4) -> list[Any]:
    """Chunks whose vector or text is not their row's, gaps, rows without chunks and chunks without rows."""
    found = db.execute(f"SELECT id, chunk, embedding::text FROM {table}".encode()).fetchall()
    bad = [
        row
        for row in found
        if not value(db, "SELECT %s::halfvec = %s::halfvec", row[2], vector(row[1], dimensions=dimensions))
    ]
    odd = db.execute(
        f"SELECT id FROM {table} GROUP BY id HAVING max(chunk_no) <> count(*) OR min(chunk_no) <> 1"
        f" UNION ALL SELECT c.id FROM {table} AS c LEFT JOIN docs AS d ON d.id = c.id"
        " WHERE position(c.chunk IN d.body) IS DISTINCT FROM NULLIF(position(c.chunk IN d.body), 0)"
        " OR d.id IS NULL"
        f" UNION ALL SELECT id FROM docs WHERE id NOT IN (SELECT id FROM {table})".encode()
    ).fetchall()
    return [*bad, *odd]


@contextmanager
def under_load(dsn: str) -> Iterator[Loop]:
    """Searches of every form, prepared ones among them, and writers; none of them may fail."""

    def search(connection: Connection, number: int) -> None:
        statement = SEARCHES[number % len(SEARCHES)]
        found = connection.execute(statement.encode(), [f"q{number}"], prepare=number >= len(SEARCHES))
        assert len(found.fetchall()) == 5

    def write(connection: Connection, number: int) -> None:
        connection.execute("UPDATE docs SET body = body || '.' WHERE id = 1 + (random() * 90)::int")
        insert_docs(connection, "another")
        connection.execute("DELETE FROM docs WHERE id > 95 AND random() < 0.1")
        time.sleep(0.02)

    searches, writers = Loop(dsn, search, 2 * len(SEARCHES)), Loop(dsn, write)
    try:
        yield searches
    finally:
        writers.end()
        searches.end()
    assert searches.errors == []
    assert writers.errors == []
    assert searches.done > 50


def settled(db: Connection) -> None:
    db.execute("SELECT embed.wait('docs', make_interval(secs => %s))", [3 * PATIENCE])
    until(lambda: value(db, "SELECT count(*) FROM embed._queue") == 0, "both spaces in step")


def test_searches_never_fail_through_a_switch_of_chunks_and_back(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.create_index('docs', min_rows => 50)")
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: value(docs, "SELECT state FROM embed.indexes") == "valid", "an index")
    with under_load(dsn) as searches:
        docs.execute("""SELECT embed.switch_model('docs', 'wide', auto => true, chunking => '{"size": 8}')""")
        until(lambda: state(docs) == "swapped", "a swap")
        told = docs.execute("SELECT model, index_state, overlap_at_10, compared > 0 FROM embed.switches")
        model, index_state, overlap, compared = told.fetchall()[0]
        assert (model, index_state, compared) == ("wide", "valid", True)
        assert 0 <= overlap <= 1
        for model in ("fake", "wide"):
            seen = searches.done
            until(lambda seen=seen: searches.done > seen + 20, "searches after the swap")
            docs.execute(f"SELECT embed.rollback_switch('docs', '{BUSY}')")
            until(
                lambda model=model: value(docs, "SELECT model FROM embed.switches") == model, "the way back"
            )
            until(lambda: state(docs) == "swapped", "the way back")
    settled(docs)
    assert wrong(docs, dimensions=WIDE) == []
    assert wrong(docs, "docs_embedding_old") == []
    size = "SELECT max(length(chunk)) FROM {}"
    assert value(docs, size.format("docs_embedding")) < value(docs, size.format("docs_embedding_old"))
    docs.execute("SELECT embed.forget_switch('docs')")
    assert value(
        docs, "SELECT to_regclass('docs_embedding_old') IS NULL AND to_regclass('docs_chunks_old') IS NULL"
    )


def test_a_rollback_after_further_writes_has_the_right_chunks(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true, keep => 'frozen')")
    until(lambda: state(docs) == "swapped", "a swap")
    insert_docs(docs, "new")
    docs.execute("UPDATE docs SET body = 'changed' WHERE id < 20")
    docs.execute("DELETE FROM docs WHERE id = 30")
    docs.execute("SELECT embed.wait('docs')")
    assert wrong(docs, dimensions=WIDE) == []
    assert wrong(docs, "docs_embedding_old") != [], "they are kept as they were"
    docs.execute("SELECT embed.rollback_switch('docs')")
    until(lambda: value(docs, "SELECT model FROM embed.vectorizers") == "fake", "the way back")
    assert wrong(docs) == []
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
    settled(docs)
    assert wrong(docs) == []
    assert state(docs) is None


def test_a_late_result_finds_the_table_of_its_own_space(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    start_worker(dsn, {"fake": model}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.switch_model('docs', 'wide')")
    until(lambda: state(docs) == "ready", "a switch that is ready")
    model.shut()
    docs.execute("UPDATE docs SET body = 'while the names change' WHERE id = 7")
    call = model.next_call()
    docs.execute("SELECT embed.finish_switch('docs')")
    call.go()
    model.open()
    settled(docs)
    assert wrong(docs, dimensions=WIDE) == wrong(docs, "docs_embedding_old") == []


def test_postings_of_chunks_go_over(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_bm25_model(docs)
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    make(docs, ", sparse => 'bm25'")
    start_worker(dsn, {}, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    until(lambda: state(docs) == "swapped", "a swap")
    insert_docs(docs, "a lamp")
    docs.execute("UPDATE docs SET body = 'another lamp' WHERE id < 20")
    docs.execute("DELETE FROM docs WHERE id = 30")
    settled(docs)
    assert wrong(docs, dimensions=WIDE) == wrong(docs, "docs_embedding_old") == []
    docs.execute("SELECT embed.forget_switch('docs')")
    told = value(
        docs, "SELECT embed._search_legs_v1('docs'::regclass, NULL, NULL, false) #> '{legs,sparse,0}'"
    )
    assert (told["indexed"], told["chunks"]["table"]) == (True, "public.docs_embedding")
    terms = "SELECT sum(cardinality(string_to_array(sparse::text, ','))) FROM docs_embedding"
    assert value(docs, f"SELECT count(*) FROM embed._postings_{told['vectorizer']} WHERE term <> 0") == value(
        docs, terms
    )
