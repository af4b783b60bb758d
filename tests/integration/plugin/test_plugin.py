"""The plugin for our users' tests, in runs of pytest of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib

import pytest

from pg_embed.errors import MissingExtra
from pg_embed.pytest_plugin import servers
from pg_embed.resources import PACKAGE
from tests.fix_pg import Server

pytest_plugins = ["pytester"]
PLUGIN = ("-p", "pg_embed.pytest_plugin")

USED = """
    import psycopg, pytest
    from pg_embed.errors import WaitTimeout
    from pgvector import SparseVector
    from sqlalchemy import create_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
    from sqlalchemy.pool import NullPool

    def test_rows_are_embedded_and_found(pg_embed_db, pg_embed_fake):
        pg_embed_db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        assert pg_embed_fake.vectorize("docs", "body") == "docs_embedding"
        pg_embed_db.execute("INSERT INTO docs VALUES (1, 'red fox'), (2, 'green dog')")
        pg_embed_fake.wait("docs", timeout=30)
        assert [hit.row["id"] for hit in pg_embed_fake.search("docs", "green dog", k=1)] == [2]
        (row,) = pg_embed_db.execute("SELECT id FROM docs ORDER BY embedding <=> embed('red fox') LIMIT 1")
        assert row == (1,)

    @pytest.mark.pg_embed_fake(dimensions=5, sparse_dimensions=100)
    def test_each_has_a_database_of_its_own(pg_embed_db, pg_embed_fake, pg_embed_dsn):
        assert pg_embed_fake.status() == []
        assert pg_embed_fake.embed(["x"]).shape == (1, 5)
        assert len(pg_embed_fake.embed(["x"], output="sparse")) == 1
        pg_embed_db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        pg_embed_db.execute("INSERT INTO docs VALUES (1, 'red fox')")
        pg_embed_fake.vectorize("docs", "body", sparse_column="words")
        pg_embed_fake.wait("docs", timeout=30)
        row = pg_embed_db.execute("SELECT embedding IS NOT NULL, words IS NOT NULL FROM docs").fetchone()
        assert row == (True, True)
        with psycopg.connect(pg_embed_dsn) as connection:
            assert connection.info.dbname == pg_embed_db.info.dbname

    @pytest.mark.pg_embed_fake(models=["bge-m3", "of our own"], dimensions=6)
    def test_it_stands_in_for_the_models_of_a_program(pg_embed_url, pg_embed_fake):
        from pg_embed.sqlalchemy import embedded, search

        class Base(DeclarativeBase): ...

        class Doc(Base):
            __tablename__ = "docs"
            id: Mapped[int] = mapped_column(primary_key=True)
            body: Mapped[str]
            embedding: Mapped[list[float] | None] = embedded("{body}", model="bge-m3")
            words: Mapped[SparseVector | None] = embedded("{body}", model="bge-m3", output="sparse")

        engine = create_engine(pg_embed_url, poolclass=NullPool)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add_all([Doc(body="red fox"), Doc(body="green dog")])
            session.commit()
            pg_embed_fake.wait("docs", timeout=30)
            found = session.scalars(search(Doc, "green dog", k=1)).one()
            assert (found.body, len(found.embedding)) == ("green dog", 1024)
        assert pg_embed_fake.embed(["x"], "of our own").shape == (1, 6)

    @pytest.mark.pg_embed_fake(models="bge-reranker-v2-m3")
    def test_a_reranker(pg_embed_fake):
        pass

    @pytest.mark.pg_embed_fake(sizes=5)
    def test_an_option_that_is_none(pg_embed_fake):
        pass

    def test_without_a_worker(pg_embed_db):
        assert pg_embed_db.execute("SELECT count(*) FROM embed.models").fetchone() == (0,)
"""

UNUSED = """
    import sys

    HEAVY = ("numpy", "psycopg", "httpx", "sqlalchemy", "pydantic", "starlette", "pgserver", "testcontainers")

    def test_nothing_else_is_imported():
        assert "pg_embed.pytest_plugin" in sys.modules
        ours = {name for name in sys.modules if name.partition(".")[0] == "pg_embed"}
        assert ours == {"pg_embed", "pg_embed.pytest_plugin"}
        assert [name for name in HEAVY if name in sys.modules] == []
"""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin but those that are named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))


@pytest.mark.timeout(400)
def test_fixtures_on_the_embedded_server(pytester: pytest.Pytester, alone: None) -> None:
    pytester.makepyfile(USED)
    result = pytester.runpytest_subprocess(*PLUGIN, "--strict-markers")
    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(["*InvalidArgument: *reranker*", "*InvalidArgument: *sizes*"])


@pytest.mark.timeout(400)
def test_fixtures_on_a_server_that_is_there(pytester: pytest.Pytester, alone: None, server: Server) -> None:
    pytester.makepyfile(USED.replace("(row,) = ", "return\n        (row,) = "))
    pytester.makeini(f"[pytest]\npg_embed_server = {server.dsn()}")
    result = pytester.runpytest_subprocess(*PLUGIN, "-k", "own or without")
    result.assert_outcomes(passed=2, deselected=4)
    with server.connect() as admin:
        left = admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'pg\\_embed\\_test\\_%'")
        assert left.fetchall() == [], "the databases are gone"


@pytest.mark.dblink
@pytest.mark.timeout(400)
def test_fixtures_by_way_of_dblink(pytester: pytest.Pytester, alone: None, server15: Server) -> None:
    pytester.makepyfile(USED)
    result = pytester.runpytest_subprocess(*PLUGIN, f"--pg-embed-server={server15.dsn()}")
    result.assert_outcomes(passed=4, errors=2)


def test_a_run_that_does_not_use_it_is_left_alone(pytester: pytest.Pytester, alone: None) -> None:
    pytester.makepyfile(UNUSED)
    result = pytester.runpytest_subprocess(*PLUGIN, "-W", "error", "--strict-config")
    result.assert_outcomes(passed=1)


def test_pytest_finds_it_by_its_entry_point(pytester: pytest.Pytester, alone: None) -> None:
    project = PACKAGE.parent / "pyproject.toml"
    points = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"]["pytest11"]
    folder = pytester.mkdir("pg_embed_plugin-1.dist-info")
    lines = "\n".join(f"{name} = {module}" for name, module in points.items())
    (folder / "entry_points.txt").write_text(f"[pytest11]\n{lines}\n", encoding="utf-8")
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: pg-embed-plugin\nVersion: 1\n")
    pytester.makepyfile(UNUSED)
    environment = {"PYTHONPATH": f"{PACKAGE.parent}:{pytester.path}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:anyio"]
    done = subprocess.run(
        command, cwd=pytester.path, env=environment, capture_output=True, text=True, check=False
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_docker_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers", None)
    monkeypatch.setitem(sys.modules, "testcontainers.postgres", None)
    with pytest.raises(MissingExtra, match="testcontainers") as caught, servers.running("docker"):
        pass
    assert "pg-embed[docker]" in (caught.value.hint or "")


def _docker_runs() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fixtures_in_a_container(pytester: pytest.Pytester, alone: None) -> None:
    pytest.importorskip("testcontainers")
    if not _docker_runs():
        pytest.skip("Docker does not run here")
    pytester.makepyfile(USED)
    result = pytester.runpytest_subprocess(*PLUGIN, "--pg-embed-server=docker")
    result.assert_outcomes(passed=4, errors=2)
