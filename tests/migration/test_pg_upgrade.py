"""pg_upgrade: nothing of ours is in its way, and what it keeps and what it does not is known."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pg_embed.embedded import EmbeddedServer, cluster
from pg_embed.embedded.account import choose_account
from pg_embed.embedded.binaries import usable_binaries
from pg_embed.install import install
from tests.fix_pg import temporary_folder
from tests.fix_second_server import free_port, run
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_fake_model,
)
from tests.sql.helpers import value
from tests.sql.test_postings import difference

UPGRADE_TIMEOUT = 300.0  # seconds
# Their oids change, and pg_upgrade refuses a cluster that has them in a column, in whatever nesting of types.
REFUSED = """
    WITH RECURSIVE kinds AS (
        SELECT t.oid, t.typname::text AS name FROM pg_type AS t
        WHERE t.typname IN ('regproc', 'regprocedure', 'regoper', 'regoperator', 'regconfig', 'regdictionary',
            'regnamespace', 'regcollation') AND t.typnamespace = 'pg_catalog'::regnamespace
        UNION ALL
        SELECT t.oid, k.name FROM kinds AS k JOIN pg_type AS t ON t.typbasetype = k.oid OR t.typelem = k.oid
            OR t.typrelid IN (SELECT a.attrelid FROM pg_attribute AS a
                JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind = 'c' WHERE a.atttypid = k.oid)
    )
    SELECT a.attrelid::regclass::text, a.attname, k.name
    FROM kinds AS k JOIN pg_attribute AS a ON a.atttypid = k.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'm', 'i', 'c')
    WHERE c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""


CATALOG = """
    SELECT name, key_columns, input_columns, template, target_columns, numbered[:2] FROM embed._vectorizer
    ORDER BY name
"""


def fill(db: Connection) -> None:
    """A table that has lost a column, one with chunks, and one of partitions, each with a vectorizer."""
    create_fake_model(db)
    create_bm25_model(db)
    db.execute(
        "CREATE TABLE docs (gone int, id bigint PRIMARY KEY, body text);"
        "ALTER TABLE docs DROP COLUMN gone;"
        "CREATE TABLE essays (id bigint PRIMARY KEY, body text);"
        "CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);"
        "CREATE TABLE parts_1 PARTITION OF parts DEFAULT;"
        "INSERT INTO docs VALUES (1, 'one'), (2, 'two');"
        "INSERT INTO essays SELECT i, repeat('a fox ' || i || ' ', 20) FROM generate_series(1, 3) AS i;"
        "INSERT INTO parts VALUES (1, 'first'), (2, 'second')"
    )
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25')")
    db.execute("SELECT embed.create_vectorizer('parts', 'body', model => 'fake')")
    db.execute(
        "SELECT embed.create_vectorizer('essays', 'body', model => 'fake', storage => 'table',"
        """ chunking => '{"size": 20}')"""
    )


def settled(db: Connection) -> None:
    db.execute("SELECT embed.wait('docs'), embed.wait('parts'), embed.wait('essays')")


def test_no_column_has_a_type_that_is_refused(db: Connection) -> None:
    fill(db)
    assert db.execute(REFUSED).fetchall() == []
    db.execute("CREATE TABLE refused (named regproc[])")
    assert db.execute(REFUSED).fetchall() == [("refused", "named", "regproc")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_upgraded_server_goes_on(start_worker: StartWorker) -> None:
    # To the same version: what pg_upgrade does is the same. From the second server's it is not to be had, for
    # Debian's build of PostgreSQL 15 notes an option of its own (pg_attver) with every column, of any table.
    with temporary_folder() as folder:
        server = EmbeddedServer(folder, fast=True)
        server.start()
        try:
            install(server.dsn())
            with psycopg.connect(server.dsn(), autocommit=True) as db:
                fill(db)
                start_worker(server.dsn())
                settled(db)
                start_worker.end()
                catalog = db.execute(CATALOG).fetchall()
            server.stop()
            upgrade(server)
            server.start()
            with psycopg.connect(server.dsn(), autocommit=True) as db:
                assert db.execute(CATALOG).fetchall() == catalog, "the numbers of columns are kept"
                goes_on(db, server.dsn(), start_worker)
                install(server.dsn())  # as after every upgrade of a server
                goes_on(db, server.dsn(), start_worker)
        finally:
            server.stop()


def upgrade(server: EmbeddedServer) -> None:
    """Put a new cluster in the place of a server's, with all that it had."""
    folder, old, new = server.data_dir, server.cluster_dir, server.data_dir / "new"
    account = choose_account(old)
    account.own(folder)
    programs = usable_binaries(folder, account) / "bin"
    run(
        account,
        folder,
        [programs / "initdb", *cluster.initdb_arguments(new, server.password_file, fast=True)],
    )
    cluster.complete(new, account)
    places: list[str | Path] = ["-b", programs, "-B", programs, "-d", old, "-D", new, "-s", folder]
    ports = ["-p", str(free_port()), "-P", str(free_port())]
    run(account, folder, [programs / "pg_upgrade", "-U", "postgres", *places, *ports], UPGRADE_TIMEOUT)
    old.rename(folder / "old")
    new.rename(old)


def goes_on(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    """New rows are embedded, and no others."""
    number = value(db, "SELECT max(id) FROM docs") + 1
    db.execute("INSERT INTO docs VALUES (%s, %s)", [number, f"doc {number}"])
    db.execute("INSERT INTO parts VALUES (%s, %s)", [number, f"part {number}"])
    db.execute("DELETE FROM essays WHERE id = 2")
    model = GatedFake()
    start_worker(dsn, {"fake": model}, tend_every=0.05)
    settled(db)
    assert sorted(model.texts) == [f"doc {number}", f"part {number}"]
    for table in ("docs", "parts"):
        assert broken_rows(db, table, vectorizer=f"{table}_embedding") == []
    assert difference(db, column="sparse") == 0
    assert value(db, "SELECT array_agg(DISTINCT id ORDER BY id) FROM essays_embedding") == [1, 3]
    assert value(db, "SELECT bool_and(state = 'active') FROM embed.vectorizers")
    start_worker.end()
