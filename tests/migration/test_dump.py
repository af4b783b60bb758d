"""A database that was dumped and restored: everything has other oids, and nobody's INSERT may fail."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pg_embed.embedded.binaries import find_binaries
from pg_embed.errors import InvalidArgument
from pg_embed.install import install
from tests.fix_models import PATIENCE
from tests.fix_pg import MakeRole, Server, fresh_database
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
from tests.sql.helpers import queued, tend, value
from tests.sql.test_postings import DIMENSIONS, difference, fill, make


@contextmanager
def restored(server: Server, dsn: str, *options: str) -> Iterator[tuple[Connection, str]]:
    """A copy of a database, by its dump, and its DSN."""
    programs = find_binaries() / "bin"
    with fresh_database(server) as name:
        dump = subprocess.run(
            [programs / "pg_dump", *options, "-d", dsn], capture_output=True, check=True, timeout=60
        )
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


def test_a_switch_goes_on_in_a_restored_database(
    db: Connection, server: Server, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    create_docs(db, "one", "two")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
    start_worker(dsn).stop()
    db.execute("SELECT embed.switch_model('docs', 'wide')")
    with restored(server, dsn) as (other, other_dsn):
        assert value(other, "SELECT state FROM embed.switches") == "filling"
        insert_docs(other, "three")
        other.execute("UPDATE embed._switch SET auto = true")
        start_worker(other_dsn, switch_every=0.02)
        deadline = time.monotonic() + PATIENCE
        while value(other, "SELECT state FROM embed.switches") != "swapped":
            assert time.monotonic() < deadline, "it was never swapped"
            time.sleep(0.02)
        assert value(other, "SELECT model FROM embed.vectorizers") == "wide"
        other.execute("SELECT embed.wait('docs')")
        assert broken_rows(other, dimensions=7) == []
        start_worker.end()
        other.execute("DROP TABLE so_that_oids_differ")
        with restored(server, other_dsn) as (third, _):
            # what counts swaps is a function and a table, and both were dumped
            third.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert value(third, "SELECT (embed._query_model('dense', NULL)).name") == "wide"
            third.execute("COMMIT")
            assert value(third, "SELECT embed.rollback_switch('docs')").startswith("swapped")
            assert broken_rows(third) == []


@pytest.fixture
def dropped(db: Connection) -> Connection:
    """Tables that have lost columns: their restored copies number those that are left anew."""
    create_fake_model(db)
    create_bm25_model(db)
    db.execute(
        "CREATE TABLE docs"
        " (gone int, title text, id bigint PRIMARY KEY, gone_2 int, draft boolean, body text)"
    )
    db.execute("CREATE TABLE essays (gone int, id bigint PRIMARY KEY, body text)")
    for table in ("docs", "essays"):
        db.execute(f"ALTER TABLE {table} DROP COLUMN gone")
    db.execute(
        "INSERT INTO docs (id, title, body) VALUES (1, 'first', 'one fish'), (2, 'second', 'two fish')"
    )
    db.execute(
        "INSERT INTO essays SELECT i, repeat('a red fox ' || i || ' ', 20) FROM generate_series(1, 3) i"
    )
    db.execute(
        "SELECT embed.create_vectorizer('docs', template => '{title}: {body}', filter => 'draft IS NOT TRUE',"
        " model => 'fake', sparse => 'bm25')"
    )
    db.execute(
        "SELECT embed.create_vectorizer('essays', 'body', model => 'fake', sparse => 'bm25',"
        """ storage => 'table', chunking => '{"size": 20}')"""
    )
    db.execute("ALTER TABLE docs DROP COLUMN gone_2")
    return db


TEMPLATE = "title || ': ' || body"
COLUMNS = "SELECT name, key, template, filter, columns, state FROM embed.vectorizers ORDER BY name"


def legs(db: Connection, table: str) -> dict[str, object]:
    """What a search reads of a table, by output: the key, the column and the text."""
    found = value(db, "SELECT embed._search_legs_v1(%s::regclass, NULL, NULL, true) -> 'legs'", table)
    return {output: (leg[0]["keys"], leg[0]["column"], leg[0]["input"]) for output, leg in found.items()}


def test_columns_that_were_dropped_before_are_not_counted(
    dropped: Connection, server: Server, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    dropped.execute("SELECT embed.wait('docs'), embed.wait('essays')")
    start_worker.end()
    with restored(server, dsn) as (other, other_dsn):
        numbers = (
            "SELECT array_agg(attnum ORDER BY attnum) FROM pg_attribute"
            " WHERE attrelid = 'docs'::regclass AND attnum > 0"
        )
        assert value(other, numbers) == [1, 2, 3, 4, 5, 6], "the numbers are others"
        assert other.execute(COLUMNS).fetchall() == dropped.execute(COLUMNS).fetchall()
        for table in ("docs", "essays"):
            assert legs(other, table) == legs(dropped, table)
        assert value(other, "SELECT state FROM embed.why('docs', 1)") == "embedded"
        # writers come before the first worker
        other.execute("INSERT INTO docs (id, title, body) VALUES (3, 'third', 'three'), (4, 'draft', 'four')")
        other.execute(
            "UPDATE docs SET draft = true WHERE id = 4; UPDATE docs SET body = 'changed' WHERE id = 1"
        )
        other.execute("DELETE FROM essays WHERE id = 2; UPDATE docs SET sparse = NULL WHERE id = 2")
        assert queued(other) == ["3", "4", "4", "1"]
        assert queued(other, "essays_embedding") == ["2"]
        model = GatedFake()
        start_worker(other_dsn, {"fake": model})
        other.execute("SELECT embed.wait('docs'), embed.wait('essays')")
        assert sorted(model.texts) == ["first: changed", "third: three"], "nothing is embedded twice"
        assert difference(other, column="sparse") == 0
        other.execute("INSERT INTO docs (id, title, body) VALUES (5, 'fifth', 'five')")
        other.execute("SELECT embed.wait('docs')")
        text = f"CASE WHEN draft IS NOT TRUE THEN {TEMPLATE} END"
        assert broken_rows(other, text=text) == []
        assert value(other, "SELECT array_agg(DISTINCT id ORDER BY id) FROM essays_embedding") == [1, 3]
        assert other.execute(COLUMNS).fetchall() == dropped.execute(COLUMNS).fetchall()
        start_worker.end()


def test_a_vectorizer_is_altered_before_a_worker_has_come(
    dropped: Connection, server: Server, dsn: str
) -> None:
    with restored(server, dsn) as (other, _):
        other.execute("SELECT embed.alter_vectorizer('docs', 'title')")
        told = other.execute(COLUMNS).fetchone()
        assert told == (
            "docs_embedding",
            ["id"],
            "{title}",
            "(draft IS NOT TRUE)",
            ["embedding", "sparse"],
            "active",
        )


def test_a_column_that_was_renamed_is_dumped_by_its_new_name(
    dropped: Connection, server: Server, dsn: str
) -> None:
    dropped.execute("ALTER TABLE docs RENAME title TO head; ALTER TABLE docs RENAME body TO title")
    dropped.execute("SELECT embed._tend_v1()")  # what a worker does every ten seconds
    with restored(server, dsn) as (other, _):
        assert legs(other, "docs") == legs(dropped, "docs")


@pytest.mark.parametrize("first", ["worker", "owner"])
def test_partitions_are_not_embedded_again(
    docs: Connection, server: Server, dsn: str, start_worker: StartWorker, first: str
) -> None:
    docs.execute("INSERT INTO parts VALUES (1, 'one'), (2, 'two')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs'), embed.wait('parts')")
    start_worker.end()
    with restored(server, dsn) as (other, other_dsn):
        if first == "owner":
            other.execute("SELECT embed.alter_vectorizer('parts', max_attempts => 5)")
        model = GatedFake()
        start_worker(other_dsn, model, tend_every=0.05)
        tend(other)
        other.execute("INSERT INTO parts VALUES (3, 'three')")
        other.execute("SELECT embed.wait('docs'), embed.wait('parts')")
        assert model.texts == ["three"]
        start_worker.end()


def test_what_is_embedded_of_replicated_changes_is_kept(docs: Connection, server: Server, dsn: str) -> None:
    for table in ("docs", "parts"):
        docs.execute("SELECT embed.set_replication(%s, 'always')", [table])
    with restored(server, dsn) as (other, _):
        other.execute("SELECT embed._arrive_v1(), embed._tend_v1()")
        other.execute("SET session_replication_role = replica")  # as an apply worker does
        insert_docs(other, "three")
        other.execute("INSERT INTO parts VALUES (1, 'one'); INSERT INTO parts_1 VALUES (2, 'two')")
        assert queued(other) == ["3"]
        assert queued(other, "parts_embedding") == ["1", "2"]
        assert value(other, "SELECT bool_and(state = 'active') FROM embed.vectorizers")


def test_a_schema_without_its_data_is_in_nobodys_way(dropped: Connection, server: Server, dsn: str) -> None:
    with restored(server, dsn, "--schema-only") as (other, other_dsn):
        other.execute("INSERT INTO docs (id, title, body, sparse) VALUES (1, 'a', 'b', '{1:1}/1000000000')")
        other.execute("UPDATE docs SET body = 'changed'; DELETE FROM docs; TRUNCATE docs")
        assert value(other, "SELECT count(*) FROM embed._queue") == 0
        with pytest.raises(InvalidArgument, match="without what they held") as caught:
            install(other_dsn)
        other.execute((caught.value.hint or "").split(",")[0])
        install(other_dsn)
        insert_docs(other, "one")
        create_fake_model(other)
        other.execute("SELECT embed.create_vectorizer('docs', 'body')")
        assert value(other, "SELECT mode FROM embed._backfill") == "all"


def test_a_parallel_restore_by_another_owner(
    dropped: Connection,
    server: Server,
    dsn: str,
    make_role: MakeRole,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    start_worker(dsn)
    dropped.execute("SELECT embed.wait('docs'), embed.wait('essays')")
    start_worker.end()
    owner, programs = make_role(), find_binaries() / "bin"
    folder = tmp_path / "dump"
    run(programs / "pg_dump", "-Fd", "-j2", "-f", folder, "-d", dsn)
    with fresh_database(server) as name:
        other_dsn = make_conninfo(owner.dsn, dbname=name)
        with server.connect(name) as admin:
            admin.execute(f'ALTER DATABASE "{name}" OWNER TO "{owner.name}"')
            admin.execute("CREATE EXTENSION vector")
            admin.execute(f'GRANT CREATE ON SCHEMA public TO "{owner.name}"')
        listed = run(programs / "pg_restore", "-l", folder).splitlines()
        kept = tmp_path / "list"  # what is a superuser's, and there already
        kept.write_text(
            "\n".join(line for line in listed if "EXTENSION" not in line and "SCHEMA - public" not in line)
        )
        run(
            programs / "pg_restore",
            "--no-owner",
            "--exit-on-error",
            "-j3",
            "-L",
            kept,
            "-d",
            other_dsn,
            folder,
        )
        with psycopg.connect(other_dsn, autocommit=True) as other:
            rights = (
                "SELECT p.oid::regprocedure::text, has_function_privilege('embed_reader', p.oid, 'EXECUTE')"
            )
            rights += ", has_function_privilege('embed_worker', p.oid, 'EXECUTE') FROM pg_proc AS p"
            rights += " WHERE p.pronamespace = 'embed'::regnamespace ORDER BY 1"
            assert other.execute(rights).fetchall() == dropped.execute(rights).fetchall()
            kept_vectors = "SELECT count(*) FROM embed._reuse"
            assert value(other, kept_vectors) == value(dropped, kept_vectors)
            other.execute("INSERT INTO docs (id, title, body) VALUES (3, 'third', 'three')")
            model = GatedFake()
            start_worker(other_dsn, {"fake": model})
            other.execute("SELECT embed.wait('docs')")
            assert model.texts == ["third: three"]
            assert difference(other, column="sparse") == 0
            start_worker.end()


def run(*arguments: str | Path) -> str:
    """Run a program of Postgres; what it printed."""
    done = subprocess.run([str(part) for part in arguments], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
