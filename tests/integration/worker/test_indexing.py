"""Workers that build indexes: after the backfill, one at a time, anew after an interruption."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_embed.errors import PgEmbedError
from pg_embed.jobs import IndexBuild
from tests.faults.proxy import proxy
from tests.fix_models import PATIENCE
from tests.fix_pg import MakeRole, Role
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

SOON = {"index_every": 0.02}


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 60 rows, and a vectorizer that is to have an index."""
    create_fake_model(db)
    create_docs(db, *(f"text {number}" for number in range(60)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("SELECT embed.create_index('docs', min_rows => 50)")
    return db


def state(db: Connection) -> tuple[Any, ...]:
    row = db.execute("SELECT state, explanation, error FROM embed.indexes").fetchone()
    assert row is not None
    return row


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def count_indexes(db: Connection) -> tuple[int, int]:
    """HNSW indexes on docs: all of them, and the invalid."""
    row = db.execute(
        "SELECT count(*), count(*) FILTER (WHERE NOT i.indisvalid) FROM pg_index AS i"
        " JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam AND a.amname = 'hnsw'"
    ).fetchone()
    assert row is not None
    return row


@contextmanager
def held_up(dsn: str) -> Iterator[None]:
    """A transaction that has written to docs: CREATE INDEX CONCURRENTLY waits for its end."""
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET title = 'x' WHERE id = 1")
        try:
            yield
        finally:
            writer.rollback()


class Background:
    """A build in a thread, and how it ended."""

    def __init__(self, dsn: str) -> None:
        self.build = IndexBuild(dsn, "docs_embedding")
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.build.run()
        except BaseException as exc:
            self.error = exc

    def end(self) -> BaseException | None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.error


def embed_all(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    """Embed every row, and leave the index to others."""
    worker = start_worker(dsn, index_every=NEVER)
    db.execute("SELECT embed.wait('docs')")
    worker.stop()
    db.execute("DROP INDEX IF EXISTS docs_embedding_hnsw")


def test_the_index_comes_after_the_backfill_and_not_before(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model, **SOON)
    model.next_call()
    until(lambda: state(docs)[:2] == ("planned", "after the backfill"), "a look that counts the rows")
    time.sleep(0.2)  # ten looks
    assert count_indexes(docs) == (0, 0)
    assert state(docs)[:2] == ("planned", "after the backfill")
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: state(docs)[0] == "valid", "a valid index")
    assert count_indexes(docs) == (1, 0)
    assert broken_rows(docs) == []


def test_rows_are_embedded_while_an_index_is_built(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, **SOON)
    docs.execute("SELECT embed.wait('docs')")
    until(lambda: state(docs)[0] == "valid", "a valid index")
    with held_up(dsn):
        docs.execute("SELECT embed.create_index('docs', 'hnsw', m => 5)")
        until(lambda: count_indexes(docs) == (2, 1), "a build")
        assert state(docs)[:2] == ("building", "hnsw is being built")
        waits = "SELECT phase LIKE 'waiting for%' FROM embed.indexes"
        until(lambda: value(docs, waits), "a build that waits for the writer")
        insert_docs(docs, "another")
        docs.execute("SELECT embed.wait('docs')")
    until(lambda: state(docs)[0] == "valid", "the other index")
    assert count_indexes(docs) == (1, 0)
    assert broken_rows(docs) == []


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_what_an_interrupted_build_leaves_is_removed_and_built_anew(
    docs: Connection, dsn: str, start_worker: StartWorker, how: str
) -> None:
    embed_all(docs, dsn, start_worker)
    with held_up(dsn):
        build = Background(dsn)
        until(lambda: count_indexes(docs) == (1, 1), "a build")
        assert state(docs)[0] == "building"
        docs.execute(
            f"SELECT {how}(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'".encode()
        )
        assert isinstance(build.end(), psycopg.OperationalError)
    until(lambda: state(docs)[0] == "invalid", "an end of the build")
    assert state(docs)[1].startswith("a build was interrupted; what it left is removed, and the index built")
    assert state(docs)[2]
    assert count_indexes(docs) == (1, 1)
    start_worker(dsn, **SOON)
    until(lambda: state(docs)[0] == "valid", "a valid index")
    assert count_indexes(docs) == (1, 0)
    assert state(docs)[2] is None


@pytest.mark.skipif("PG_EMBED_TEST_DSN" in os.environ, reason="a server that may have no Unix socket")
def test_a_build_is_cut_off_though_the_network_is_silent(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    embed_all(docs, dsn, start_worker)
    words = conninfo_to_dict(dsn)
    with held_up(dsn), proxy(f"{words['host']}/.s.PGSQL.{words['port']}") as link:
        build = Background(make_conninfo(dsn, host="127.0.0.1", port=link.port))
        until(lambda: count_indexes(docs) == (1, 1), "a build")
        link.stall(random.Random(1), 1.0)
        link.lead("/nowhere")
        build.build.cancel()
        assert isinstance(build.end(), psycopg.OperationalError)


def test_a_worker_that_stops_cuts_its_build_off_and_the_next_begins_it_again(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    embed_all(docs, dsn, start_worker)
    with held_up(dsn):
        worker = start_worker(dsn, **SOON)
        until(lambda: count_indexes(docs) == (1, 1), "a build")
        started = time.monotonic()
        worker.stop()
        assert time.monotonic() - started < PATIENCE / 2
    assert state(docs)[0] == "invalid"
    assert state(docs)[2] is None
    start_worker(dsn, **SOON)
    until(lambda: state(docs)[0] == "valid", "a valid index")
    assert count_indexes(docs) == (1, 0)


def test_one_is_built_at_a_time(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    embed_all(docs, dsn, start_worker)
    with held_up(dsn):
        build = Background(dsn)
        until(lambda: count_indexes(docs) == (1, 1), "a build")
        assert not IndexBuild(dsn, "docs").run()
        start_worker(dsn, **SOON)
        time.sleep(0.2)  # ten looks
        assert count_indexes(docs) == (1, 1)
    assert build.end() is None
    assert count_indexes(docs) == (1, 0)


def test_one_that_is_built_by_hand_is_left_alone(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    embed_all(docs, dsn, start_worker)
    (statement, *_) = value(docs, "SELECT statements FROM embed._index_todo()")

    def by_hand() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    thread = threading.Thread(target=by_hand)
    with held_up(dsn):
        thread.start()
        until(lambda: count_indexes(docs) == (1, 1), "a build")
        assert state(docs)[:2] == ("building", "somebody builds it by hand")
        start_worker(dsn, **SOON)
        time.sleep(0.2)  # ten looks
        assert count_indexes(docs) == (1, 1)
    thread.join(PATIENCE)
    until(lambda: state(docs)[0] == "valid", "a valid index")
    assert count_indexes(docs) == (1, 0)


def test_an_error_is_told_and_tried_again(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    embed_all(docs, dsn, start_worker)
    docs.execute("CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS"
                 " $$ BEGIN RAISE EXCEPTION 'not on a Sunday'; END $$")  # fmt: skip
    docs.execute("CREATE EVENT TRIGGER refusing ON ddl_command_start WHEN TAG IN ('CREATE INDEX')"
                 " EXECUTE FUNCTION refuse()")  # fmt: skip
    start_worker(dsn, **SOON)
    until(lambda: value(docs, "SELECT failures FROM embed._index") >= 2, "two attempts")
    assert state(docs)[0] in ("failed", "building")
    assert state(docs)[2] == "not on a Sunday"
    docs.execute("DROP EVENT TRIGGER refusing")
    until(lambda: state(docs)[0] == "valid", "a valid index")


@pytest.fixture
def owner(db: Connection, make_role: MakeRole) -> Role:
    """A member of embed_owner that owns docs in its schema `mine`."""
    role = make_role("embed_owner")
    create_fake_model(db)
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
        connection.execute("INSERT INTO mine.docs SELECT g, 'text ' || g FROM generate_series(1, 60) AS g")
        connection.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
        connection.execute("SELECT embed.create_index('mine.docs', min_rows => 50)")
    return role


def test_a_worker_that_is_not_the_owner_tells_what_the_owner_runs(
    db: Connection, owner: Role, make_role: MakeRole, start_worker: StartWorker
) -> None:
    worker = make_role("embed_worker")
    start_worker(worker.dsn, **SOON)
    db.execute("SELECT embed.wait('mine.docs')")
    until(lambda: value(db, "SELECT needs_owner FROM embed._index"), "the worker's word")
    found, explanation, error = state(db)
    assert (found, error) == ("planned", None)
    assert f"{owner.name} must build it: run pg-embed index docs_embedding as that role, or: " in explanation
    assert "CREATE INDEX CONCURRENTLY docs_embedding_hnsw ON mine.docs USING hnsw" in explanation
    assert count_indexes(db) == (0, 0)
    with pytest.raises(PgEmbedError, match="only the owner of the table may build the index") as caught:
        IndexBuild(worker.dsn, "docs_embedding").run()
    assert "CREATE INDEX CONCURRENTLY" in str(caught.value.hint)
    assert IndexBuild(owner.dsn, "docs_embedding").run()
    assert state(db)[0] == "valid"
    assert (
        value(db, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'docs_embedding_hnsw'")
        == owner.name
    )


def test_a_worker_that_is_a_member_of_the_owner_builds_it(
    db: Connection, owner: Role, make_role: MakeRole, start_worker: StartWorker
) -> None:
    start_worker(make_role("embed_worker", owner.name).dsn, **SOON)
    db.execute("SELECT embed.wait('mine.docs')")
    until(lambda: state(db)[0] == "valid", "a valid index")
    assert (
        value(db, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'docs_embedding_hnsw'")
        == owner.name
    )


def test_nobody_asks_for_an_index_on_another_s_table(
    db: Connection, owner: Role, make_role: MakeRole
) -> None:
    stranger = make_role("embed_owner")
    with psycopg.connect(stranger.dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT embed.create_index('docs_embedding', 'none')")
        connection.execute("SELECT embed._index_done_v1(vectorizer_id, 'a lie', false) FROM embed._index")
        connection.execute("SELECT embed._index_done_v1(1, 'a lie', false)")
        assert connection.execute("UPDATE embed._index SET error = 'a lie'").rowcount == 0
    assert db.execute("SELECT kind, error FROM embed._index").fetchall() == [("auto", None)]
