"""A throw-away PostgreSQL for a measurement, with settings that keep what is committed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.texts import rows
from pg_embed.embedded import EmbeddedServer
from pg_embed.embedded.account import choose_account
from pg_embed.embedded.binaries import find_binaries

Connection = psycopg.Connection[tuple[Any, ...]]

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",  # no checkpoint within a measurement
    "checkpoint_timeout": "30min",
}
SHOWN = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "max_locks_per_transaction")
DEBIAN = Path("/usr/lib/postgresql")
TIMEOUT = 600  # seconds that a program may take


@dataclass
class Server:
    """A running server: how to reach it, and the folder where a spool may lie."""

    prefix: str
    suffix: str
    spool: Path | None = None
    created: list[str] = field(default_factory=list)

    def dsn(self, database: str = "postgres") -> str:
        return f"{self.prefix}{database}{self.suffix}"

    def create_database(self, name: str = "bench") -> str:
        """A new database with pgvector in it; one of that name is dropped first."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            identifier = sql.Identifier(name)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        with psycopg.connect(self.dsn(name), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        return self.dsn(name)

    def conditions(self) -> dict[str, str]:
        """The settings that a figure depends on."""
        with psycopg.connect(self.dsn()) as connection:
            values = {name: one(connection, f"SHOW {name}") for name in SHOWN}
        return {"postgres": ", ".join(f"{name} = {value}" for name, value in values.items())}


@contextmanager
def postgres(**settings: str) -> Iterator[Server]:
    """The embedded server in a temporary folder that is removed at the end."""
    with _folder() as folder:
        embedded = EmbeddedServer(folder)
        with embedded, psycopg.connect(embedded.dsn(), autocommit=True) as connection:
            for name, value in {**SETTINGS, **settings}.items():
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value))
        with embedded:
            prefix, suffix = embedded.dsn("\n").split("%0A")
            yield Server(prefix, suffix, embedded.spool_dir)


@contextmanager
def second_postgres() -> Iterator[Server]:
    """A cluster of Debian's own PostgreSQL, which has plpython3u and dblink (scripts/second_server.sh)."""
    found = sorted(DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise SystemExit("there is no second PostgreSQL here: run scripts/second_server.sh as root")
    with _folder() as folder:
        cluster = folder / "cluster"
        account = choose_account(cluster)
        account.own(folder)

        def program(name: str, *arguments: str | Path) -> None:
            process = account.popen([found[-1] / name, *arguments], cwd=folder, output=subprocess.DEVNULL)
            if process.wait(TIMEOUT):
                raise RuntimeError(f"{name} failed: see {folder}")

        access = ("--auth-local=trust", "--auth-host=scram-sha-256")  # dblink comes by TCP with a password
        program("initdb", "--username=postgres", *access, "--encoding=UTF8", "--pgdata", cluster)
        port = str(free_port())
        lines = {
            **SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": str(folder),
        }
        with (cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        control = ("pg_ctl", "--wait", "--silent", "--pgdata", cluster)
        program(*control, "--log", folder / "log", "start")
        try:
            yield Server("postgresql://postgres@/", f"?host={folder}&port={port}")
        finally:
            program(*control, "--mode=immediate", "stop")


@contextmanager
def _folder() -> Iterator[Path]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    path = Path(tempfile.mkdtemp(prefix="pg_embed_bench_"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pgbench(dsn: str, script: str, clients: int, seconds: float, **variables: str) -> float:
    """Transactions a second of one script, without the time to connect."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        options = ["--no-vacuum", f"--client={clients}", f"--jobs={min(clients, 2)}", f"--time={seconds:.0f}"]
        options += [f"--define={name}={value}" for name, value in variables.items()]
        command = [str(find_binaries() / "bin" / "pgbench"), *options, "--file", file.name, dsn]
        report = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout
    line = next(line for line in report.splitlines() if line.startswith("tps = "))
    return float(line.split()[2])


def one(connection: Connection, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """The one value of a statement."""
    row = connection.execute(statement.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def create_table(connection: Connection, name: str = "docs", count: int = 0, first: int = 0) -> None:
    """The table of all measurements: a bigint identity key, a title, and a body of 450 characters."""
    table = sql.Identifier(name)
    connection.execute(
        sql.SQL(
            "CREATE TABLE {} (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, title text, body text)"
        ).format(table)
    )
    if count:
        copy_rows(connection, rows(count, first), name)
        connection.execute(sql.SQL("ANALYZE {}").format(table))


def copy_rows(connection: Connection, texts: Sequence[str], name: str = "docs") -> None:
    """COPY the texts into the table as bodies."""
    statement = sql.SQL("COPY {} (title, body) FROM STDIN").format(sql.Identifier(name))
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for text in texts:
            copy.write_row((text[:40], text))
