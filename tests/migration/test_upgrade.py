"""Upgrades to an imagined next version, while workers of this one embed what others write."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pg_embed import install as installing
from pg_embed.errors import DatabaseError, PgEmbedError, VersionMismatch
from pg_embed.install import doctor
from pg_embed.jobs import store
from pg_embed.serve.mailbox import MailboxDoor
from pg_embed.worker import worker as worker_module
from tests.acceptance.command import pg_embed
from tests.fix_next import NextVersion
from tests.fix_pg import Server, fresh_database
from tests.fix_worker import (
    NEVER,
    Connection,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.migration.test_installing import psql, shape
from tests.sql.helpers import queued, value

UPGRADES = 4  # one after the other, under load
PATIENCE = 60.0  # seconds
MORE = """
ALTER TABLE embed._vectorizer ADD COLUMN colour text NOT NULL DEFAULT 'none';
ALTER TABLE embed._queue ADD COLUMN shade integer;
CREATE TABLE embed._colour (name text PRIMARY KEY);
COMMENT ON TABLE embed._colour IS 'Imagined.';
"""
LESS = """
DROP TABLE embed._colour;
ALTER TABLE embed._queue DROP COLUMN shade;
ALTER TABLE embed._vectorizer DROP COLUMN colour;
"""
CHUNKS = """
SELECT count(*) FROM docs AS d FULL JOIN docs_embedding AS c ON c.id = d.id
WHERE COALESCE(d.body, '') <> COALESCE(c.chunk, '') OR (c.chunk IS NOT NULL) <> (c.embedding IS NOT NULL)
"""


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a vectorizer into a column and one into a table of chunks."""
    create_fake_model(db)
    create_docs(db, *(f"text {number}" for number in range(40)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', storage => 'table', name => 'chunks')")
    return db


class Writer(threading.Thread):
    """Changes rows of its own, one transaction after the other, until it is stopped; keeps errors."""

    def __init__(self, dsn: str, number: int) -> None:
        super().__init__(name=f"writer {number}")
        self.errors: list[Exception] = []
        self.longest = 0.0  # seconds that a transaction took
        self._dsn, self._number = dsn, number
        self._ending = threading.Event()

    def run(self) -> None:
        chance = random.Random(self._number)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._ending.is_set():
                id = 1_000 * self._number + chance.randrange(30)
                body = f"text {chance.randrange(1_000)}"
                started = time.monotonic()
                try:
                    with connection.transaction():
                        connection.execute("DELETE FROM docs WHERE id = %s", [id + 1])
                        connection.execute(
                            "INSERT INTO docs (id, body) VALUES (%s, %s) ON CONFLICT (id)"
                            " DO UPDATE SET body = excluded.body",
                            [id, body],
                        )
                except psycopg.Error as exc:
                    self.errors.append(exc)
                self.longest = max(self.longest, time.monotonic() - started)
                time.sleep(0.01)

    def stop(self) -> None:
        """Write no more."""
        self._ending.set()
        self.join()


@contextmanager
def writing(dsn: str) -> Iterator[list[Writer]]:
    """Two writers for a block; none has met an error, not even a deadlock."""
    writers = [Writer(dsn, number) for number in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()
    assert [str(error) for writer in writers for error in writer.errors] == []


def check_all_embedded(db: Connection) -> None:
    """Nothing was lost: both vectorizers have what their rows want, and no row was given up."""
    db.execute("SELECT embed.wait('docs', '90 seconds')")
    assert broken_rows(db) == []
    assert value(db, CHUNKS) == 0
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
    assert db.execute("SELECT name, reason FROM embed.vectorizers WHERE reason IS NOT NULL").fetchall() == []


def functions(db: Connection, *names: str) -> set[str]:
    """The overloads of some functions of ours."""
    found = db.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p"
        " WHERE p.pronamespace = 'embed'::regnamespace AND p.proname = ANY (%s)",
        [list(names)],
    )
    return {row[0] for row in found}


def test_workers_go_on_through_upgrades_and_nothing_is_lost(
    docs: Connection, dsn: str, start_worker: StartWorker, next_version: NextVersion
) -> None:
    next_version.add_revision(MORE, LESS)
    next_version.rename("_prune_v1", "_prune_v2")
    next_version.replace(
        "50_queue.sql",
        ("FUNCTION embed._rescue_v1()\n", "FUNCTION embed._rescue_v1(gently boolean DEFAULT false)\n"),
        ("FUNCTION embed._rescue_v1() IS", "FUNCTION embed._rescue_v1(boolean) IS"),
    )
    next_version.replace("90_grants.sql", ("embed._rescue_v1()", "embed._rescue_v1(boolean)"))
    workers = [start_worker(dsn, tend_every=0.05) for _ in range(2)]
    with writing(dsn):
        for _ in range(UPGRADES):
            assert installing.install(dsn, patience=PATIENCE).revision == "0002"
            time.sleep(0.2)
    check_all_embedded(docs)
    assert functions(docs, "_rescue_v1", "_prune_v1", "_prune_v2") == {
        "embed._rescue_v1(boolean)",
        "embed._prune_v1(integer,integer)",
        "embed._prune_v2(integer,integer)",
    }, "workers of this version call _prune_v1"
    for worker in workers:
        worker.stop()


def test_a_breaking_upgrade_ends_older_workers_and_newer_ones_take_over(
    docs: Connection,
    dsn: str,
    start_worker: StartWorker,
    next_version: NextVersion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    next_version.add_revision(MORE + next_version.raise_generation())
    next_version.rename("_take_v1", "_take_v2")
    start_worker.expected = "_take_v1"  # it may have called once more before it looked
    old = [start_worker(dsn, tend_every=NEVER) for _ in range(2)]
    with writing(dsn):
        installing.install(dsn, patience=PATIENCE)
        for worker in old:
            with pytest.raises(VersionMismatch, match="of generation 1, and the database serves 2") as caught:
                worker.join()
            assert "pip install --upgrade" in (caught.value.hint or "")
        with pytest.raises(VersionMismatch, match="too old"):
            start_worker(dsn).join()
        start_worker.forget_errors()
    assert functions(docs, "_take_v1", "_take_v2") == {
        "embed._take_v2(integer,integer,integer,integer,interval,bigint)"
    }
    assert queued(docs, "docs_embedding")
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0
    assert docs.execute("SELECT reason FROM embed.vectorizers").fetchall() == [(None,), (None,)]
    monkeypatch.setattr(worker_module, "GENERATION", 2)
    monkeypatch.setitem(store.SQL, "take", store.SQL["take"].replace("_take_v1", "_take_v2"))
    start_worker(dsn, tend_every=0.05)
    check_all_embedded(docs)


def test_a_worker_that_is_too_new_says_what_to_do(
    docs: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "GENERATION", 2)
    with pytest.raises(VersionMismatch, match="the database is too old") as caught:
        start_worker(dsn).join()
    assert caught.value.hint == "run: pg-embed upgrade DSN"
    start_worker.forget_errors()


def test_commands_and_sidecars_are_refused_like_workers(docs: Connection, dsn: str) -> None:
    docs.execute("UPDATE embed._generation SET oldest = 2")
    done = pg_embed("worker", dsn)
    assert done.returncode == 1
    assert "this pg_embed is too old for the database" in done.stderr
    assert "pip install --upgrade pg-embed" in done.stderr

    async def attend() -> None:
        async def answer(request: bytes) -> bytes:
            return request

        await MailboxDoor(answer, dsn, max_requests=1).open()

    with pytest.raises(VersionMismatch, match="too old"):
        asyncio.run(attend())


def test_an_upgrade_of_functions_waits_for_no_transaction(docs: Connection, dsn: str) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("INSERT INTO docs (id, body) VALUES (0, 'written, and not committed')")
        other.execute("LOCK TABLE embed._vectorizer, embed._queue, embed._failure IN ROW EXCLUSIVE MODE")
        installing.install(dsn, patience=0.1)


def test_a_long_transaction_keeps_an_upgrade_out_and_nobody_else(
    docs: Connection, dsn: str, next_version: NextVersion
) -> None:
    next_version.add_revision(MORE)
    before = shape(dsn)
    told: list[str] = []
    with psycopg.connect(dsn, application_name="a long one") as other:
        other.execute("INSERT INTO docs (id, body) VALUES (0, 'written, and not committed')")
        with writing(dsn) as writers, pytest.raises(DatabaseError) as caught:
            installing.install(dsn, patience=2.0, tell=told.append)
        assert told == ["tables of pg_embed are in use; they are tried again for up to 2 s"]
        assert f"pid {other.info.backend_pid} (a long one, idle in transaction)" in str(caught.value)
        assert "nothing was changed" in (caught.value.hint or "")
        assert shape(dsn) == before
        assert all(writer.longest > 0 for writer in writers)
    assert installing.install(dsn, patience=PATIENCE).revision == "0002"
    assert shape(dsn) != before


def test_an_upgrade_that_fails_changes_nothing(dsn: str, next_version: NextVersion) -> None:
    next_version.add_revision(MORE)
    next_version.replace("90_grants.sql", ("REVOKE ALL ON SCHEMA embed FROM PUBLIC;", "SELECT 1 / 0;"))
    before = shape(dsn)
    with pytest.raises(PgEmbedError, match="division by zero"):
        installing.install(dsn)
    assert shape(dsn) == before
    assert installing.installed_revision(dsn) == "0001"


def test_fresh_and_upgraded_are_alike(server: Server, dsn: str, next_version: NextVersion) -> None:
    next_version.add_revision(MORE, LESS)
    next_version.rename("_pack_v1", "_pack_v2")
    text = installing.upgrade_sql("0001")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("DROP FUNCTION embed._pack_v1")
    with fresh_database(server) as name:
        installing.install(server.dsn(name))
        done = psql(dsn, text)
        assert done.returncode == 0, done.stderr
        assert sorted(row for row in shape(dsn) if row[0] != "column") == sorted(
            row for row in shape(server.dsn(name)) if row[0] != "column"
        )


def test_a_database_of_a_newer_version_is_left_alone_and_serves(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("UPDATE embed._schema_version SET version_num = '0007'")
    before = shape(dsn)
    for refused in (installing.install, installing.uninstall):
        with pytest.raises(VersionMismatch, match="revision 0007 of a newer pg_embed") as caught:
            refused(dsn)
        assert "upgrade the package" in (caught.value.hint or "")
    assert shape(dsn) == before
    (check,) = (found for found in doctor.examine(dsn) if found.name == "schema")
    assert (check.state, "still serves" in check.found) == ("warning", True)
    start_worker(dsn)
    check_all_embedded(docs)
    docs.execute("UPDATE embed._generation SET oldest = 2")
    (check,) = (found for found in doctor.examine(dsn) if found.name == "schema")
    assert (check.state, "too old" in check.found) == ("failed", True)


def test_functions_that_are_gone_go_and_those_of_others_stay(bare_dsn: str, bare_db: Connection) -> None:
    installing.install(bare_dsn)
    made = {
        "_fail(integer)": False,  # an overload of one that is there
        "_claim_v1(integer)": False,
        "search(text)": False,
        "_former(text)": False,
        "_former_v1()": True,  # workers may call it
        "_needed()": True,
        "_enqueue_7()": True,  # made for a vectorizer
        "mine()": True,
    }
    for signature in made:
        bare_db.execute(f"CREATE FUNCTION embed.{signature} RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    bare_db.execute("CREATE VIEW needs AS SELECT embed._needed()")
    report = installing.install(bare_dsn)
    there = {name: value(bare_db, "SELECT to_regprocedure(%s) IS NOT NULL", f"embed.{name}") for name in made}
    assert there == made
    assert any("_needed()" in notice and "stays" in notice for notice in report.notices)
    bare_db.execute("DROP VIEW needs; UPDATE embed._generation SET oldest = 0")
    installing.install(bare_dsn)
    assert value(bare_db, "SELECT to_regprocedure('embed._needed()')") is None


def test_uninstalling_waits_for_writers_briefly_too(docs: Connection, dsn: str) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("INSERT INTO docs (id, body) VALUES (0, 'x')")
        with pytest.raises(DatabaseError, match="were in use"):
            installing.uninstall(dsn, patience=1.0)
    installing.uninstall(dsn)
    insert_docs(docs, "no trigger is in the way")
    assert value(docs, "SELECT to_regnamespace('embed')") is None
