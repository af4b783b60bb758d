"""A database that was dumped and restored: everything has other oids, and nobody's INSERT may fail."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pg_embed.embedded.binaries import find_binaries
from tests.fix_pg import Server, fresh_database
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import value
from tests.sql.test_postings import DIMENSIONS, difference, fill, make


@contextmanager
def restored(server: Server, dsn: str) -> Iterator[tuple[Connection, str]]:
    """A copy of a database, by its dump, and its DSN."""
    programs = find_binaries() / "bin"
    with fresh_database(server) as name:
        dump = subprocess.run([programs / "pg_dump", "-d", dsn], capture_output=True, check=True, timeout=60)
        with psycopg.connect(server.dsn(name), autocommit=True) as other:
            other.execute("CREATE TABLE so_that_oids_differ (id int PRIMARY KEY)")
            restore = [programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.dsn(name)]
            subprocess.run(restore, input=dump.stdout, capture_output=True, check=True, timeout=60)
            yield other, server.dsn(name)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, plain, and `parts`, partitioned, each with a vectorizer."""
    create_fake_model(db)
    create_docs(db, "one", "two")
    db.execute("CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE parts_1 PARTITION OF parts DEFAULT")
    for table in ("docs", "parts"):
        db.execute("SELECT embed.create_vectorizer(%s::regclass, 'body', filter => 'id < 100')", [table])
    return db


def test_a_restored_database_goes_on(
    docs: Connection, server: Server, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn).stop()
    with restored(server, dsn) as (other, other_dsn):
        insert_docs(other, "three")
        other.execute("INSERT INTO parts VALUES (1, 'one'); INSERT INTO parts_1 VALUES (2, 'two')")
        other.execute("UPDATE docs SET body = 'changed' WHERE id = 1; UPDATE parts SET body = body || '!'")
        start_worker(other_dsn)
        for table in ("docs", "parts"):
            other.execute("SELECT embed.wait(%s::regclass)", [table])
            assert broken_rows(other, table, vectorizer=f"{table}_embedding") == []
        assert value(other, "SELECT bool_and(state = 'active') FROM embed.vectorizers")
        start_worker.end()


@pytest.mark.parametrize("table", ["whole", "text", "partitioned"])
def test_postings_go_on_in_a_restored_database(db: Connection, server: Server, dsn: str, table: str) -> None:
    make(db, table)
    fill(db)
    db.execute("SELECT embed.create_postings('docs')")
    with restored(server, dsn) as (other, _):
        assert difference(other) == 0
        fill(other, 20, first=200)
        other.execute("DELETE FROM docs WHERE id::text LIKE '2%'")
        other.execute(f"UPDATE docs SET words = '{{4:1}}/{DIMENSIONS}'")
        assert difference(other) == 0
        assert value(other, "SELECT count(*) FROM embed._postings_1 WHERE term = 4") > 5


def test_both_models_go_on_in_a_restored_database(
    db: Connection, server: Server, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_bm25_model(db)
    create_docs(db, "one fish", "two fish")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25')")
    start_worker(dsn).stop()
    with restored(server, dsn) as (other, other_dsn):
        told = other.execute("SELECT model, sparse_model, columns, state FROM embed.vectorizers").fetchall()
        assert told == [("fake", "bm25", ["embedding", "sparse"], "active")]
        insert_docs(other, "three lamps")
        other.execute("UPDATE docs SET body = 'a lamp' WHERE id = 1")
        start_worker(other_dsn)
        other.execute("SELECT embed.wait('docs')")
        assert broken_rows(other) == []
        assert difference(other, column="sparse") == 0
        same = "SELECT count(DISTINCT t.term) FROM docs, embed._sparse_terms(sparse::text) AS t"
        assert value(other, same) == 4, "two, fish, three, lamp"
        start_worker.end()
