"""PgBouncer before the second server, for tests of what a pooler breaks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_embed.embedded.account import choose_account
from tests.fix_pg import temporary_folder
from tests.fix_second_server import SecondServer, free_port
from tests.fix_tls import TlsServer

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
HOW_TO_GET_IT = "run `sudo scripts/second_server.sh`"
BACKENDS = 2  # connections to the server, whoever connects
START_TIMEOUT = 30.0  # seconds

# Who may connect is the server's business: the pooler passes the names and passwords of its list on.
CONFIGURATION = """\
[databases]
* = host={server_host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = {mode}
default_pool_size = {backends}
"""
TLS = """\
client_tls_sslmode = require
client_tls_cert_file = {certificate}
client_tls_key_file = {key}
server_tls_sslmode = verify-full
server_tls_ca_file = {root}
"""

StartPooler = Callable[..., str]


@pytest.fixture
def start_pooler(server15: SecondServer) -> Iterator[StartPooler]:
    """`start_pooler(dsn, "transaction")` gives a DSN that leads to the same database through a pooler."""
    with ExitStack() as stack:
        yield lambda dsn, mode, backends=BACKENDS: stack.enter_context(_pooler(server15, dsn, mode, backends))


@pytest.fixture
def start_tls_pooler(tls_server: TlsServer) -> Iterator[StartPooler]:
    """The same before the server that demands TLS; the pooler demands it, too, and checks the server."""
    with ExitStack() as stack:
        yield lambda dsn, mode, backends=BACKENDS: stack.enter_context(
            _pooler(tls_server, dsn, mode, backends)
        )


@contextmanager
def _pooler(server: SecondServer, dsn: str, mode: str, backends: int) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip(f"there is no pgbouncer; {HOW_TO_GET_IT}")
    with temporary_folder() as folder:
        account = choose_account(folder / "nowhere")
        words = conninfo_to_dict(dsn)
        port, users = free_port(), folder / "users"
        users.write_text(f'"{words["user"]}" "{words["password"]}"\n', encoding="ascii")
        configuration = folder / "pgbouncer.ini"
        host = server.tcp["host"]
        told = {
            "server_host": host, "server_port": server.port, "port": port, "users": users, "mode": mode,
            "backends": backends,
        }  # fmt: skip
        text = CONFIGURATION.format(**told)
        if isinstance(server, TlsServer):
            text += TLS.format(certificate=server.certificate, key=server.key, root=server.root)
        configuration.write_text(text, encoding="ascii")
        for path in (folder, users, configuration):
            account.own(path)
        with (folder / "log").open("w") as log:
            process = account.popen([PROGRAM, configuration], cwd=folder, output=log.fileno())
        try:
            through = make_conninfo(dsn, host=host, port=port)
            _wait(through, folder / "log")
            yield through
        finally:
            process.kill()
            process.wait(START_TIMEOUT)


def _wait(dsn: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not _answers(dsn):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True
