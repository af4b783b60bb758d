"""How far a backend lets its priority be lowered by whoever is connected to it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from threading import Thread

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pg_embed.jobs.niceness import WAY, _listener, give_way
from tests.fix_worker import Connection
from tests.sql.helpers import value

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness of others is Linux's")


@pytest.fixture
def may_renice(db: Connection) -> None:
    """Only root, and the account of the server, may."""
    if os.geteuid() not in (0, Path(f"/proc/{db.info.backend_pid}").stat().st_uid):
        pytest.skip("the server runs under another account")


def niceness(process: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, process)


@pytest.mark.usefixtures("may_renice")
def test_the_backend_of_a_connection_gives_way_and_no_other(dsn: str, db: Connection) -> None:
    before = niceness(db.info.backend_pid)
    with psycopg.connect(dsn) as connection:
        assert give_way(connection)
        assert niceness(connection.info.backend_pid) == min(before + WAY, 19)
        assert niceness(db.info.backend_pid) == before
        assert value(connection, "SELECT 1") == 1


def test_behind_a_pooler_nobody_is_touched(dsn: str, db: Connection, tmp_path: Path) -> None:
    port = str(value(db, "SELECT current_setting('port')"))
    folder = conninfo_to_dict(dsn)["host"]
    relayed = relay(tmp_path / f".s.PGSQL.{port}", f"{folder}/.s.PGSQL.{port}")
    with relayed, psycopg.connect(dsn, host=str(tmp_path)) as connection:
        before = niceness(connection.info.backend_pid)
        assert not give_way(connection)
        assert niceness(connection.info.backend_pid) == before


def test_over_the_network_nobody_is_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as end:
        assert _listener(end.fileno()) is None


@contextmanager
def relay(door: Path, server: str) -> Iterator[None]:
    """A Unix socket that hands one connection's bytes on to the server's, as a pooler does."""
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as behind:
        listening.bind(str(door))
        listening.listen(1)
        behind.connect(server)

        def answer() -> None:
            with listening.accept()[0] as before:
                ends = {before: behind, behind: before}
                while True:
                    for end in select([*ends], [], [])[0]:
                        read = end.recv(1 << 16)
                        if not read:
                            return
                        ends[end].sendall(read)

        thread = Thread(target=answer)
        thread.start()
        yield
        thread.join()
