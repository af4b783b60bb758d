"""Logical replication between two servers: either the publisher embeds, or the subscriber does for itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from pg_embed.embedded import EmbeddedServer
from tests.fix_models import PATIENCE
from tests.fix_pg import Server, fresh_database, installed_template, temporary_folder
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import queued, value
from tests.sql.test_postings import difference

pytestmark = pytest.mark.slow
CHANGES = """
    INSERT INTO docs (id, body) VALUES (10, 'four lamps'), (11, NULL);
    UPDATE docs SET body = 'changed fish' WHERE id = 1;
    UPDATE docs SET title = 'nothing to embed' WHERE id = 2;
    DELETE FROM docs WHERE id = 3;
    INSERT INTO essays VALUES (10, repeat('a green house ', 30));
    UPDATE essays SET body = 'before it all. ' || body WHERE id = 1;
    DELETE FROM essays WHERE id = 2;
"""
CHUNKS = "SELECT id, chunk_no, chunk, embedding::text FROM essays_embedding ORDER BY id, chunk_no"


@pytest.fixture(scope="module")
def publisher_server() -> Iterator[Server]:
    """A server of its own, that writes what logical replication needs."""
    with temporary_folder() as folder:
        embedded = EmbeddedServer(folder, fast=True)
        embedded.start()
        try:
            with psycopg.connect(embedded.dsn(), autocommit=True) as admin:
                admin.execute("ALTER SYSTEM SET wal_level = logical")
            embedded.stop()
            embedded.start()
            yield Server(embedded.dsn())
        finally:
            embedded.stop()


@pytest.fixture(scope="module")
def publisher_template(publisher_server: Server) -> Iterator[str]:
    """A database of it with our schema."""
    with installed_template(publisher_server) as name:
        yield name


@pytest.fixture
def publisher_dsn(publisher_server: Server, publisher_template: str) -> Iterator[str]:
    """The connection string of the publisher's database."""
    with fresh_database(publisher_server, publisher_template) as name:
        yield publisher_server.dsn(name)


@pytest.fixture
def publisher(publisher_dsn: str) -> Iterator[Connection]:
    """The publisher, with two tables that have rows."""
    with psycopg.connect(publisher_dsn, autocommit=True) as connection:
        make_tables(connection)
        insert_docs(connection, "one fish", "two fish", "three")
        connection.execute(
            "INSERT INTO essays SELECT i, repeat('a red fox ' || i || ' ', 20) FROM generate_series(1, 3) i"
        )
        yield connection


@pytest.fixture
def subscriber(db: Connection) -> Connection:
    """The other database, with the same tables."""
    make_tables(db)
    return db


def make_tables(db: Connection) -> None:
    create_fake_model(db)
    create_bm25_model(db)
    create_docs(db)
    db.execute("CREATE TABLE essays (id bigint PRIMARY KEY, body text)")


def make_vectorizers(db: Connection, *, backfill: bool = True, replication: str = "origin") -> None:
    with db.transaction():
        db.execute(
            "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25',"
            " backfill => %s)",
            [backfill],
        )
        db.execute(
            "SELECT embed.create_vectorizer('essays', 'body', model => 'fake', backfill => %s,"
            """ storage => 'table', chunking => '{"size": 20}')""",
            [backfill],
        )
        if replication != "origin":
            for table in ("docs", "essays"):
                db.execute("SELECT embed.set_replication(%s, %s)", [table, replication])


@contextmanager
def subscribed(subscriber: Connection, publisher: Connection, tables: str) -> Iterator[None]:
    """A publication of some tables, and a subscription to it that has copied what was there."""
    publisher.execute(f"CREATE PUBLICATION rows FOR TABLE {tables}")
    statement = sql.SQL("CREATE SUBSCRIPTION rows CONNECTION {} PUBLICATION rows WITH (slot_name = {})")
    slot = f"rows_{publisher.info.dbname}"
    subscriber.execute(statement.format(sql.Literal(publisher.info.dsn), sql.Literal(slot)))
    try:
        until(subscriber, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel", True)
        yield
    finally:
        subscriber.execute("DROP SUBSCRIPTION rows")


def until(db: Connection, statement: str, wanted: object) -> None:
    """Wait until a statement gives a value."""
    deadline = time.monotonic() + PATIENCE
    while (found := value(db, statement)) != wanted:
        assert time.monotonic() < deadline, f"{statement}: {found}"
        time.sleep(0.02)


def same(publisher: Connection, subscriber: Connection, statement: str) -> None:
    """Wait until both answer alike."""
    deadline = time.monotonic() + PATIENCE
    while (found := subscriber.execute(statement).fetchall()) != publisher.execute(statement).fetchall():
        assert time.monotonic() < deadline, f"{statement}: {found}"
        time.sleep(0.05)


def settled(db: Connection) -> None:
    db.execute("SELECT embed.wait('docs'), embed.wait('essays')")


def test_the_publisher_embeds(
    publisher: Connection, publisher_dsn: str, subscriber: Connection, start_worker: StartWorker
) -> None:
    make_vectorizers(publisher)
    make_vectorizers(subscriber, backfill=False)
    start_worker(publisher_dsn)
    settled(publisher)
    with subscribed(subscriber, publisher, "docs, essays, essays_embedding"):
        publisher.execute(CHANGES)
        settled(publisher)
        same(
            publisher,
            subscriber,
            "SELECT id, title, body, embedding::text, sparse::text FROM docs ORDER BY id",
        )
        same(publisher, subscriber, CHUNKS)
        for name in ("docs_embedding", "essays_embedding"):
            assert queued(subscriber, name) == [], "that would be embedded twice"
        assert broken_rows(subscriber) == []
        assert difference(subscriber, column="sparse") == 0, "postings are not replicated, and follow"
        publisher.execute("TRUNCATE docs")
        until(subscriber, "SELECT count(*) FROM docs", 0)
        assert difference(subscriber, column="sparse") == 0
        start_worker.end()


@pytest.mark.parametrize("replication", ["always", "replica"])
def test_the_subscriber_embeds(
    publisher: Connection, subscriber: Connection, dsn: str, start_worker: StartWorker, replication: str
) -> None:
    make_vectorizers(publisher)  # has no worker, and its columns are left out
    make_vectorizers(subscriber, replication=replication)
    start_worker(dsn)
    with subscribed(subscriber, publisher, "docs (id, title, body), essays"):
        settled(subscriber)
        assert value(subscriber, "SELECT count(embedding) FROM docs") == 3
        assert value(subscriber, "SELECT count(DISTINCT id) FROM essays_embedding") == 3
        publisher.execute(CHANGES)
        same(publisher, subscriber, "SELECT id, title, body FROM docs ORDER BY id")
        same(publisher, subscriber, "SELECT id, body FROM essays ORDER BY id")
        settled(subscriber)
        assert broken_rows(subscriber) == []
        assert difference(subscriber, column="sparse") == 0
        assert value(subscriber, "SELECT array_agg(DISTINCT id ORDER BY id) FROM essays_embedding") == [
            1,
            3,
            10,
        ]
        assert value(
            subscriber, "SELECT chunk FROM essays_embedding WHERE id = 1 AND chunk_no = 1"
        ).startswith("before")
        start_worker.end()
        insert_docs(subscriber, "written here")
        assert queued(subscriber) == (["12"] if replication == "always" else [])
    assert value(publisher, "SELECT count(embedding) FROM docs") == 0
