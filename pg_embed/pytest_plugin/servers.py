"""Servers for tests: the embedded one, a container, or one that is there; and their databases."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import URL

from pg_embed import db
from pg_embed.embedded import EmbeddedServer
from pg_embed.errors import MissingExtra
from pg_embed.install import install

IMAGE = "pgvector/pgvector:pg17"
KEYWORDS = ("embedded", "docker")


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL: a superuser's connection string, and the folder of spooled questions if any."""

    conninfo: str
    spool: Path | None = None

    def dsn(self, database: str) -> str:
        """The connection string of one of its databases."""
        return make_conninfo(self.conninfo, dbname=database)


def url(dsn: str) -> URL:
    """A connection string as SQLAlchemy writes it; what is not its own goes to the driver as it is."""
    told = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    own = {"username": "user", "password": "password", "database": "dbname"}
    parts: dict[str, Any] = {name: told.pop(word, None) for name, word in own.items()}
    return URL.create("postgresql+psycopg", **parts, query=told)


@contextmanager
def running(told: str) -> Iterator[Server]:
    """The server that the option names."""
    if told == "embedded":
        with _folder() as folder, EmbeddedServer(folder, fast=True) as server:
            yield Server(server.dsn(), server.spool_dir)
    elif told == "docker":
        with _container() as dsn:
            yield Server(dsn)
    else:
        yield Server(db.checked(told))


@contextmanager
def template(server: Server) -> Iterator[str]:
    """A database with the schema, closed to connections."""
    with database(server) as name:
        # The transport of a copy is set up where it is needed: dblink's belongs to one database.
        spool = {"transport": "spool", "settings": {"directory": server.spool}}
        install(server.dsn(name), **(spool if server.spool else {"transport": "none"}))
        with db.connect(server.conninfo) as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        yield name


@contextmanager
def database(server: Server, template: str = "template0") -> Iterator[str]:
    """A new database by name, dropped at the end whoever is still connected."""
    name = f"pg_embed_test_{uuid.uuid4().hex[:12]}"
    words = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    _run(server, sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**words))
    try:
        yield name
    finally:
        _run(server, sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(**words))


def _run(server: Server, statement: sql.Composed) -> None:
    with db.connect(server.conninfo) as admin, db.translated():
        admin.execute(statement)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that other users may pass through, as a server that does not run as root has to."""
    folder = Path(tempfile.mkdtemp(prefix="pg_embed-pytest-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _container() -> Iterator[str]:
    try:
        from testcontainers.postgres import PostgresContainer
    except ImportError as exc:
        raise MissingExtra(
            "testcontainers is not installed",
            hint="pip install 'pg-embed[docker]', or test with --pg-embed-server=embedded",
        ) from exc
    with PostgresContainer(IMAGE, driver=None) as container:
        yield str(container.get_connection_url())
