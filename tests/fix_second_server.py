"""The second server: the distribution's PostgreSQL with plpython3u, dblink and pgvector."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest

from pg_embed.embedded.account import Account, choose_account
from tests.fix_pg import (
    LOGS,
    MakeRole,
    Server,
    fresh_database,
    installed_template,
    role_maker,
    temporary_folder,
)

PROGRAMS = Path("/usr/lib/postgresql")
EXTENSIONS = Path("/usr/share/postgresql")
NEEDED = ("plpython3u", "dblink", "vector")
HOW_TO_GET_IT = "run `sudo scripts/second_server.sh`, or set PG_EMBED_TEST_PG15_DSN"
CONTROL_TIMEOUT = 60.0  # seconds

# The superuser comes in by the socket as it is; everybody else, and everybody by TCP, has a password: dblink
# lets an ordinary role connect only where a password was really asked for.
HBA = """\
local   all  postgres                trust
local   all  all                     scram-sha-256
host    all  all       127.0.0.1/32  scram-sha-256
"""
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "listen_addresses": "'127.0.0.1'",
}


@dataclass(frozen=True)
class SecondServer(Server):
    """The second server; `password` is the superuser's, for TCP."""

    port: int = 5432
    password: str = ""
    log_file: Path = field(default=Path(os.devnull))

    @property
    def tcp(self) -> dict[str, str]:
        """The words of a connection string that lead to it by TCP."""
        return {"host": "127.0.0.1"}

    def tcp_dsn(self, database: str = "postgres") -> str:
        """A connection string by TCP, with the password."""
        return self.dsn(database, password=self.password, **self.tcp)


@pytest.fixture(scope="session")
def server15(pytestconfig: pytest.Config) -> Iterator[SecondServer]:
    """A server with plpython3u and dblink; skips where the machine has none."""
    given = os.environ.get("PG_EMBED_TEST_PG15_DSN")
    if given:
        with psycopg.connect(given) as connection:
            info = connection.info
            yield SecondServer(given, port=info.port, password=info.password)
        return
    programs = find_programs()
    with temporary_folder() as folder:
        account = choose_account(folder / "cluster")
        account.own(folder)
        found = make_cluster(folder, programs, account)
        pytestconfig.stash[LOGS]["server15"] = found.log_file
        with started(found, programs, account):
            yield found


@pytest.fixture(scope="session")
def template_db15(server15: SecondServer) -> Iterator[str]:
    """The name of a database on the second server with pgvector and our schema, to be copied."""
    with installed_template(server15) as name:
        yield name


@pytest.fixture
def dsn15(server15: SecondServer, template_db15: str) -> Iterator[str]:
    """The connection string of a fresh database with our schema on the second server."""
    with fresh_database(server15, template_db15) as name:
        yield server15.dsn(name)


@pytest.fixture
def db15(dsn15: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An autocommit connection of the superuser to the test's database on the second server."""
    with psycopg.connect(dsn15, autocommit=True) as connection:
        yield connection


@pytest.fixture
def bare_dsn15(server15: SecondServer) -> Iterator[str]:
    """The connection string of a fresh, empty database on the second server."""
    with fresh_database(server15) as name:
        yield server15.dsn(name)


@pytest.fixture
def bare_db15(bare_dsn15: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An autocommit connection to an empty database on the second server."""
    with psycopg.connect(bare_dsn15, autocommit=True) as connection:
        yield connection


@pytest.fixture
def make_role15(dsn15: str) -> Iterator[MakeRole]:
    """`make_role` on the second server."""
    with role_maker(dsn15) as make:
        yield make


def find_programs() -> Path:
    """The newest installed server that has all extensions, or skip."""
    missing = "no PostgreSQL server"
    for folder in sorted(PROGRAMS.glob("*/bin/postgres"), key=lambda path: -int(path.parts[-3])):
        controls = EXTENSIONS / folder.parts[-3] / "extension"
        absent = [name for name in NEEDED if not (controls / f"{name}.control").exists()]
        if not absent:
            return folder.parent
        missing = f"PostgreSQL {folder.parts[-3]} has no {', '.join(absent)}"
    pytest.skip(f"second server: {missing}; {HOW_TO_GET_IT}")


@contextmanager
def started(server: SecondServer, programs: Path, account: Account) -> Iterator[None]:
    """Run a cluster that was made, for a block."""
    folder = server.log_file.parent
    control = [programs / "pg_ctl", "-w", "-s", "-D", folder / "cluster"]
    run(account, folder, [*control, "-l", server.log_file, "start"])
    try:
        yield
    finally:
        run(account, folder, [*control, "-m", "immediate", "stop"])


def make_cluster(
    folder: Path,
    programs: Path,
    account: Account,
    *,
    hba: str = HBA,
    others: Mapping[str, str] = MappingProxyType({}),
) -> SecondServer:
    """A new cluster in the folder, configured but not started; `others` are more settings."""
    password, port = secrets.token_hex(16), free_port()
    password_file = folder / "password"
    password_file.write_text(password, encoding="ascii")
    password_file.chmod(0o600)
    account.own(password_file)
    cluster = folder / "cluster"
    options = ["--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256"]
    options += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", f"--pgdata={cluster}"]
    run(account, folder, [programs / "initdb", *options])
    settings = {**SETTINGS, **others, "port": str(port), "unix_socket_directories": f"'{folder}'"}
    with (cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = {value}\n" for name, value in settings.items())
    (cluster / "pg_hba.conf").write_text(hba, encoding="utf-8")
    conninfo = f"host={folder} port={port} user=postgres dbname=postgres"
    return SecondServer(conninfo, port=port, password=password, log_file=folder / "postgres.log")


def run(
    account: Account, folder: Path, arguments: list[str | Path], timeout: float = CONTROL_TIMEOUT
) -> None:
    """Run one of the server's programs as the user that owns the cluster."""
    output = folder / "programs.log"
    with output.open("a") as file:
        process = account.popen(arguments, cwd=folder, output=file.fileno())
        status = process.wait(timeout)
    assert status == 0, f"{arguments[0]} failed:\n{output.read_text(errors='replace')}"


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
