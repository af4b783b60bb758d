"""embed.set_replication: which changes a vectorizer's triggers queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_docs, create_fake_model, insert_docs
from tests.sql.helpers import clear_queue, queued, refused, value
from tests.sql.test_postings import DIMENSIONS, difference, fill, make


@contextmanager
def applying(db: Connection) -> Iterator[None]:
    """As the apply worker of a subscription does its work."""
    db.execute("SET session_replication_role = replica")
    try:
        yield
    finally:
        db.execute("RESET session_replication_role")


@pytest.fixture(params=["plain", "partitioned"])
def docs(db: Connection, request: pytest.FixtureRequest) -> Connection:
    """`docs` with two rows and a vectorizer, and nothing in the queue."""
    create_fake_model(db)
    if request.param == "plain":
        create_docs(db)
    else:
        db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text) PARTITION BY RANGE (id)")
        db.execute("CREATE TABLE docs_1 PARTITION OF docs DEFAULT")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    insert_docs(db, "one", "two")
    clear_queue(db)
    return db


@pytest.mark.parametrize(
    ("replication", "local", "applied"),
    [("origin", ["3", "1"], []), ("replica", [], ["4", "2"]), ("always", ["3", "1"], ["4", "2"])],
)
def test_what_is_queued(docs: Connection, replication: str, local: list[str], applied: list[str]) -> None:
    docs.execute("SELECT embed.set_replication('docs', %s)", [replication])
    insert_docs(docs, "three")
    docs.execute("UPDATE docs SET body = 'changed' WHERE id = 1; UPDATE docs SET title = 'other'")
    assert queued(docs) == local
    clear_queue(docs)
    with applying(docs):
        insert_docs(docs, "four")
        docs.execute("UPDATE docs SET body = 'changed' WHERE id = 2; UPDATE docs SET title = 'another'")
    assert queued(docs) == applied
    assert value(docs, "SELECT replication FROM embed.vectorizers") == replication
    assert value(docs, "SELECT embed._problem(v) FROM embed._vectorizer AS v") is None


def test_rows_that_went_by_are_looked_at(docs: Connection) -> None:
    docs.execute("SELECT embed.set_replication('docs', 'origin')")
    assert value(docs, "SELECT count(*) FROM embed._backfill") == 0, "nothing has changed"
    docs.execute("SELECT embed.set_replication('docs', 'always')")
    assert value(docs, "SELECT mode FROM embed._backfill") == "all"


def test_what_it_refuses(docs: Connection) -> None:
    code, message, hint = refused(docs, "SELECT embed.set_replication('docs', 'both')")
    assert (code, message) == ("PE003", "there is no replication 'both'")
    assert "'always'" in hint
    assert refused(docs, "SELECT embed.set_replication('docs', NULL)")[0] == "PE003"


def test_triggers_that_were_enabled_another_way_stop_it(docs: Connection) -> None:
    docs.execute("SELECT embed.set_replication('docs', 'always')")
    docs.execute("ALTER TABLE docs ENABLE TRIGGER USER")  # as pg_restore --disable-triggers leaves them
    docs.execute("SELECT embed._tend_v1()")
    assert value(docs, "SELECT state FROM embed.vectorizers") == "stopped"
    docs.execute("SELECT embed.set_replication('docs', 'always')")
    docs.execute("SELECT embed.resume('docs')")
    with applying(docs):
        insert_docs(docs, "three")
    assert queued(docs) == ["3"]


def test_both_models_of_a_switch_follow(db: Connection) -> None:
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
    db.execute("SELECT embed.set_replication('docs', 'always')")
    db.execute("SELECT embed.switch_model('docs', 'wide')")
    code, message, _ = refused(db, "SELECT embed.set_replication('docs_embedding_next', 'origin')")
    assert (code, message) == ("PE003", "vectorizer 'docs_embedding_next' belongs to a switch")
    with applying(db):
        insert_docs(db, "one")
    assert (queued(db), queued(db, "docs_embedding_next")) == (["1"], ["1"])
    db.execute("SELECT embed.set_replication('docs', 'replica')")
    insert_docs(db, "two")
    assert (queued(db), queued(db, "docs_embedding_next")) == (["1"], ["1"])


@pytest.mark.parametrize("table", ["whole", "text", "partitioned"])
def test_postings_follow_whoever_writes(db: Connection, table: str) -> None:
    make(db, table)
    fill(db)
    db.execute("SELECT embed.create_postings('docs')")
    with applying(db):
        fill(db, 20, first=200)
        db.execute("DELETE FROM docs WHERE id::text LIKE '2%'")
        db.execute("UPDATE docs SET words = NULL WHERE id::text LIKE '1%'")
        assert difference(db) == 0
        db.execute("TRUNCATE docs")
        assert difference(db) == 0


def test_the_owner_of_the_table_decides(db: Connection, make_role: MakeRole) -> None:
    create_fake_model(db, sparse_dimensions=DIMENSIONS)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', sparse_column => 'words')")
    owner = make_role("embed_owner")
    setting = "SELECT embed.set_replication('docs', 'always')"
    with psycopg.connect(owner.dsn, autocommit=True) as theirs:
        assert refused(theirs, setting)[0] == "42501"
        db.execute(f'ALTER TABLE docs OWNER TO "{owner.name}"')
        db.execute("SELECT embed._tend_v1()")
        theirs.execute(setting)
        theirs.execute("SELECT embed.create_postings('docs')")
    with applying(db):
        insert_docs(db, "one")
        db.execute(f"UPDATE docs SET words = '{{2:1}}/{DIMENSIONS}'")
    assert queued(db) == ["1"]
    assert difference(db) == 0
