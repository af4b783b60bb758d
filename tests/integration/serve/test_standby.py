"""Queries on a hot standby: nothing can be written there, and embed() works all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pg_embed.embedded.account import choose_account
from tests.fix_pg import temporary_folder
from tests.fix_second_server import SecondServer, find_programs, free_port, run
from tests.fix_serve import Place, call, failure, request, spool_place, unix_place, with_transport

pytestmark = [pytest.mark.plpython, pytest.mark.slow]


@contextmanager
def standby_of(server: SecondServer) -> Iterator[str]:
    """A standby's connection string without a database."""
    with server.connect() as admin:
        hba = admin.execute("SHOW hba_file").fetchone()
        assert hba is not None
        with Path(str(hba[0])).open("a", encoding="utf-8") as file:
            file.write("local replication postgres trust\n")
        admin.execute("SELECT pg_reload_conf()")
    programs, port = find_programs(), free_port()
    with temporary_folder() as folder:
        account = choose_account(folder / "cluster")
        account.own(folder)
        copy = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D", folder / "cluster"]
        run(account, folder, [programs / "pg_basebackup", "-d", server.conninfo, *copy])
        control = [programs / "pg_ctl", "-w", "-s", "-D", folder / "cluster"]
        options = f"-p {port} -k {folder}"
        run(account, folder, [*control, "-l", folder / "log", "-o", options, "start"])
        try:
            yield make_conninfo(server.conninfo, host=str(folder), port=port)
        finally:
            run(account, folder, [*control, "-m", "immediate", "stop"])


def replayed(primary: psycopg.Connection[Any], standby: psycopg.Connection[Any]) -> None:
    """Wait until the standby has what the primary has now, written out yet or not."""
    row = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    assert row is not None
    for _ in range(3000):
        if standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone() == (True,):
            return
        standby.execute("SELECT pg_sleep(0.01)")
    pytest.fail("the standby lags behind")


def test_embedding_works_on_a_standby(server15: SecondServer, dsn15: str, serve_folder: Path) -> None:
    if "PG_EMBED_TEST_PG15_DSN" in os.environ:
        pytest.skip("the second server is not ours to copy")
    places: list[Place] = [spool_place(dsn15, serve_folder), unix_place(dsn15, serve_folder)]
    with standby_of(server15) as conninfo, places[0].connect() as primary:
        dsn = make_conninfo(conninfo, dbname=primary.info.dbname)
        with psycopg.connect(dsn, autocommit=True) as session:
            for place in places:
                with with_transport(place):
                    replayed(primary, session)
                    assert failure(session, request(["x"])).code == "PE010"
                    with place.sidecar():
                        assert "vectors" in call(session, request(["x"]))
