"""Installing: fresh and again, twenty at once, up and down, by hand, and away again."""

from __future__ import annotations

import hashlib
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pg_embed import install as installing
from pg_embed.embedded.binaries import find_binaries
from pg_embed.errors import InvalidArgument, NotInstalled
from pg_embed.install import migrate
from pg_embed.models import hashing
from pg_embed.records import ModelSpec
from pg_embed.resources import sql_dir
from tests.fix_pg import Server

Connection = psycopg.Connection[Any]
HERE = Path(__file__).parent
AT_ONCE = 20

# Everything of ours that a catalog holds, by what it is and how it is defined; no oids.
SHAPE = """
SELECT 'function', p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid)), COALESCE(p.proacl::text, '')
FROM pg_proc AS p WHERE p.pronamespace = 'embed'::regnamespace OR p.proname = 'embed'
UNION ALL
SELECT 'column', a.attrelid::regclass || '.' || a.attname,
    format_type(a.atttypid, a.atttypmod) || a.attnotnull,
    COALESCE(c.relacl::text, '')
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'embed'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint', c.conrelid::regclass || '.' || c.conname, pg_get_constraintdef(c.oid), ''
FROM pg_constraint AS c WHERE c.connamespace = 'embed'::regnamespace
UNION ALL
SELECT 'policy', p.polrelid::regclass || '.' || p.polname, pg_get_expr(p.polqual, p.polrelid), ''
FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid WHERE c.relnamespace = 'embed'::regnamespace
ORDER BY 1, 2, 3
"""


def shape(dsn: str) -> list[tuple[Any, ...]]:
    """What an installation looks like."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(SHAPE).fetchall()


def psql(dsn: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a DBA would."""
    program = find_binaries() / "bin" / "psql"
    return subprocess.run(
        [program, "-X", "-q", "-d", dsn], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def test_installing_again_changes_nothing(bare_dsn: str) -> None:
    first = installing.install(bare_dsn)
    before = shape(bare_dsn)
    again = installing.install(bare_dsn)
    assert shape(bare_dsn) == before
    assert again.revision == first.revision == migrate.head() == installing.installed_revision(bare_dsn)


def test_a_model_that_is_entered_has_the_size_of_each_output(bare_dsn: str, bare_db: Connection) -> None:
    options = {"dimensions": 4, "sparse_dimensions": 100, "multi_dimensions": 3}
    spec = ModelSpec("three", "fake", options)
    installing.install(bare_dsn, models=[(spec, hashing.load(spec).card)])
    query = "SELECT m.dimensions, m.sparse_dimensions, m.multi_dimensions FROM embed._model AS m"
    assert bare_db.execute(query).fetchall() == [(4, 100, 3)]


def test_twenty_installations_at_once_make_one(bare_dsn: str, dsn: str) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports = list(pool.map(lambda _: installing.install(bare_dsn), range(AT_ONCE)))
    assert {report.revision for report in reports} == {migrate.head()}
    assert shape(bare_dsn) == shape(dsn)


def test_the_printed_script_runs_in_psql_and_makes_the_same(bare_dsn: str, dsn: str) -> None:
    done = psql(bare_dsn, installing.install_sql())
    assert done.returncode == 0, done.stderr
    assert installing.installed_revision(bare_dsn) == migrate.head()
    assert shape(bare_dsn) == shape(dsn)


def test_the_printed_script_runs_twice_and_keeps_the_transport(bare_dsn: str, bare_db: Connection) -> None:
    text = installing.install_sql()
    assert psql(bare_dsn, text).returncode == 0
    installing.install(bare_dsn, transport="spool", settings={"directory": "/nowhere"})
    before = shape(bare_dsn)
    done = psql(bare_dsn, text)
    assert done.returncode == 0, done.stderr
    assert shape(bare_dsn) == before
    bare_db.execute("UPDATE embed._schema_version SET version_num = 'older'")
    done = psql(bare_dsn, text)
    assert done.returncode != 0
    assert "pg-embed upgrade --sql --from" in done.stderr


def test_an_upgrade_follows_a_script_run_by_hand(bare_dsn: str, dsn: str) -> None:
    assert psql(bare_dsn, installing.install_sql()).returncode == 0
    installing.install(bare_dsn)
    assert shape(bare_dsn) == shape(dsn)


def test_the_schema_goes_down_and_up_again(dsn: str) -> None:
    before = shape(dsn)
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.NullPool
    )
    with engine.begin() as connection:
        migrate.downgrade(connection)
        assert migrate.current(connection) is None
        tables = connection.execute(
            sa.text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'embed'::regnamespace AND relkind = 'r'"
            )
        )
        assert [row[0] for row in tables] == [migrate.VERSION_TABLE]
    installing.install(dsn)
    assert shape(dsn) == before


def test_uninstall_leaves_columns_and_rows_and_nothing_else(dsn: str, db: Connection) -> None:
    card = '{"dimensions": 3, "metric": "cosine", "space_id": "s", "max_tokens": 9}'
    db.execute("SELECT embed.create_model('fake', 'fake', card => %s)", [card])
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("INSERT INTO docs VALUES (1, 'text', '[1,2,3]')")
    installing.uninstall(dsn)
    assert db.execute("SELECT id, embedding::text FROM docs").fetchall() == [(1, "[1,2,3]")]
    assert db.execute("SELECT to_regnamespace('embed')").fetchone() == (None,)
    assert db.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'docs'::regclass").fetchall() == []
    assert db.execute("SELECT oid FROM pg_proc WHERE proname = 'embed'").fetchall() == []
    db.execute("INSERT INTO docs VALUES (2, 'no trigger is in the way')")
    with pytest.raises(NotInstalled):
        installing.uninstall(dsn)


def test_uninstall_removes_what_dropping_the_schema_leaves(dsn: str, db: Connection) -> None:
    db.execute("DROP SCHEMA embed CASCADE")
    assert db.execute("SELECT to_regproc('public.embed') IS NOT NULL").fetchone() == (True,)
    installing.uninstall(dsn)
    left = db.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'embed%'").fetchall()
    assert left == []
    with pytest.raises(NotInstalled):
        installing.uninstall(dsn)


def test_the_printed_removal_runs_in_psql(dsn: str, db: Connection) -> None:
    done = psql(dsn, installing.uninstall_sql())
    assert done.returncode == 0, done.stderr
    assert db.execute("SELECT to_regnamespace('embed')").fetchone() == (None,)


def test_a_failed_installation_leaves_nothing(bare_dsn: str, bare_db: Connection) -> None:
    with pytest.raises(Exception, match="cannot be set up"):
        installing.install(bare_dsn, transport="plpython", settings={"socket": "/nowhere"})
    assert bare_db.execute("SELECT to_regnamespace('embed')").fetchone() == (None,)


def test_a_database_without_an_encoding_is_refused(server: Server) -> None:
    options = "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
    with server.connect() as admin:
        admin.execute(f"CREATE DATABASE test_without_encoding {options}".encode())
        try:
            with pytest.raises(InvalidArgument, match="SQL_ASCII") as refused:
                installing.install(server.dsn("test_without_encoding"))
            assert "ENCODING 'UTF8'" in str(refused.value.hint)
        finally:
            admin.execute("DROP DATABASE test_without_encoding WITH (FORCE)")


@pytest.mark.parametrize("home", ["extensions", "My Schema", 'quo"ted'])
def test_pgvector_may_stand_in_any_schema(bare_dsn: str, bare_db: Connection, home: str) -> None:
    quoted = psycopg.sql.Identifier(home)
    bare_db.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(quoted))
    bare_db.execute(psycopg.sql.SQL("CREATE EXTENSION vector SCHEMA {}").format(quoted))
    report = installing.install(bare_dsn)
    assert report.query_schema == home
    card = '{"dimensions": 3, "metric": "cosine", "space_id": "s", "max_tokens": 9}'
    bare_db.execute("SELECT embed.create_model('fake', 'fake', card => %s)", [card])
    bare_db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    bare_db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    kind = bare_db.execute("SELECT column_type FROM embed.vectorizers").fetchone()
    assert kind is not None
    assert kind[0].endswith("halfvec(3)")


def test_files_of_a_released_schema_are_frozen() -> None:
    for line in (HERE / "frozen.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        digest, name = line.split()
        assert hashlib.sha256((sql_dir() / "schema" / name).read_bytes()).hexdigest() == digest, name


def test_every_revision_has_its_way_up_and_its_way_down() -> None:
    names = {path.name for path in (sql_dir() / "schema").glob("*.sql")}
    stems = {name.removesuffix(".up.sql") for name in names if name.endswith(".up.sql")}
    assert stems
    assert names == {f"{stem}.{way}.sql" for stem in stems for way in ("up", "down")}


def test_what_workers_call_is_there_by_its_number(db: Connection) -> None:
    called: set[str] = set()
    for path in (sql_dir() / "queries").glob("*.sql"):
        called |= set(re.findall(r"embed\.(_\w+_v\d+)\(", path.read_text(encoding="utf-8")))
    assert called
    there = {
        row[0] for row in db.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'embed'::regnamespace")
    }
    assert called <= there


def test_pgvector_may_move_to_another_schema(dsn: str, db: Connection) -> None:
    wrappers = (
        "SELECT pronamespace::regnamespace::text FROM pg_proc"
        " WHERE proname = 'embed' AND prosrc LIKE '%(query, model, vectorizer)'"
    )
    db.execute("CREATE SCHEMA extensions; ALTER EXTENSION vector SET SCHEMA extensions")
    db.execute("CREATE VIEW needed AS SELECT public.embed('x')")
    report = installing.install(dsn)
    assert any("stays" in notice for notice in report.notices)
    assert set(db.execute(wrappers)) == {("public",), ("extensions",)}
    db.execute("DROP VIEW needed")
    installing.install(dsn)
    assert set(db.execute(wrappers)) == {("extensions",)}
    db.execute("ALTER EXTENSION vector SET SCHEMA public")
    installing.uninstall(dsn)
    assert db.execute("SELECT oid FROM pg_proc WHERE proname = 'embed'").fetchall() == []
