"""A real PostgreSQL for every test: one embedded server a run, one template, one fresh database a test."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pg_embed.embedded import EmbeddedServer
from pg_embed.errors import MissingExtra

LOG_TAIL = 6_000  # characters of the server's log that a failed test shows
LOGS = pytest.StashKey[dict[str, Path]]()


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL and its superuser's connection string."""

    conninfo: str

    def dsn(self, database: str = "postgres", **other: str | int) -> str:
        """A connection string for one of its databases, with `other` words replaced."""
        return make_conninfo(self.conninfo, dbname=database, **other)

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """An autocommit connection of the superuser."""
        return psycopg.connect(self.dsn(database), autocommit=True)


@dataclass(frozen=True)
class Role:
    """An ordinary role that may log in to the test's database."""

    name: str
    password: str
    dsn: str


MakeRole = Callable[..., Role]


def pytest_configure(config: pytest.Config) -> None:
    """Clear what a developer's shell may hold; only PG_EMBED_TEST_* is ours to read."""
    for name in list(os.environ):
        if name.startswith("PG") and not name.startswith("PG_EMBED_TEST_"):
            del os.environ[name]
    config.stash[LOGS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        for name, path in item.config.stash[LOGS].items():
            if name in getattr(item, "fixturenames", ()) and path.exists():
                text = path.read_text(encoding="utf-8", errors="replace")
                report.sections.append((f"end of the log of {name}", text[-LOG_TAIL:]))
    return report


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The default server: embedded, or the one that PG_EMBED_TEST_DSN names."""
    given = os.environ.get("PG_EMBED_TEST_DSN")
    if given:
        yield Server(given)
        return
    with temporary_folder() as folder:
        embedded = EmbeddedServer(folder, fast=True)
        try:
            embedded.start()
        except MissingExtra as error:
            pytest.exit(f"no server to test with: {error} ({error.hint})", returncode=3)
        pytestconfig.stash[LOGS]["server"] = embedded.log_file
        try:
            yield Server(embedded.dsn())
        finally:
            embedded.stop()


@pytest.fixture(scope="session")
def template_db(server: Server) -> Iterator[str]:
    """The name of a database with pgvector and our schema, to be copied."""
    with installed_template(server) as name:
        yield name


@pytest.fixture
def dsn(server: Server, template_db: str) -> Iterator[str]:
    """The connection string of a fresh database with our schema."""
    with fresh_database(server, template_db) as name:
        yield server.dsn(name)


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An autocommit connection of the superuser to the test's database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def bare_dsn(server: Server) -> Iterator[str]:
    """The connection string of a fresh database with nothing installed."""
    with fresh_database(server) as name:
        yield server.dsn(name)


@pytest.fixture
def bare_db(bare_dsn: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An autocommit connection to a database with nothing installed."""
    with psycopg.connect(bare_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def make_role(server: Server, dsn: str) -> Iterator[MakeRole]:
    """Make ordinary roles: `make_role("embed_reader", …)` is a new login role with these memberships."""
    with role_maker(dsn) as make:
        yield make


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that other users may pass through, as a server that does not run as root has to."""
    folder = Path(tempfile.mkdtemp(prefix="pg_embed-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def installed_template(server: Server) -> Iterator[str]:
    """A database with our schema, closed to connections."""
    from pg_embed.install import install  # not before a test asks for a database

    with fresh_database(server) as name:
        install(server.dsn(name))
        with server.connect() as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        yield name


@contextmanager
def fresh_database(server: Server, template: str = "template0") -> Iterator[str]:
    """A new database by name, dropped at the end whoever is still connected."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    words = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    with server.connect() as admin:
        admin.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**words))
    try:
        yield name
    finally:
        with server.connect() as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(**words))


@contextmanager
def role_maker(dsn: str) -> Iterator[MakeRole]:
    """A function that makes login roles for one database; they go with all that is theirs."""
    made: list[sql.Identifier] = []
    with psycopg.connect(dsn, autocommit=True) as admin:

        def make(*memberships: str, name: str | None = None) -> Role:
            role = Role(name or f"role_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex, dsn)
            identifier = sql.Identifier(role.name)
            made.append(identifier)
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            admin.execute(statement.format(identifier, sql.Literal(role.password)))
            for membership in memberships:
                admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(membership), identifier))
            their_dsn = make_conninfo(dsn, user=role.name, password=role.password)
            return Role(role.name, role.password, their_dsn)

        try:
            yield make
        finally:
            for identifier in made:
                admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(identifier))
                admin.execute(sql.SQL("DROP ROLE {}").format(identifier))
