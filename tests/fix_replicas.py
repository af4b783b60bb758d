"""Copies of servers: hot standbys by pg_basebackup, of the second server and of the embedded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pg_embed.embedded.account import Account, choose_account
from pg_embed.embedded.binaries import usable_binaries
from tests.fix_pg import Server, temporary_folder
from tests.fix_second_server import CONTROL_TIMEOUT, find_programs, free_port, run


@dataclass(frozen=True)
class Standby(Server):
    """A hot standby; `promote` makes it a primary."""

    folder: Path
    programs: Path
    account: Account

    def promote(self) -> None:
        """Come back when it takes writes."""
        arguments = ["promote", "-w", "-s", "-t", f"{CONTROL_TIMEOUT:.0f}", "-D", self.folder / "cluster"]
        run(self.account, self.folder, [self.programs / "pg_ctl", *arguments])


def programs_of(server: Server, folder: Path, account: Account) -> Path:
    """The programs of a server of ours, where the account can run them."""
    with server.connect() as admin:
        if admin.info.server_version // 10000 >= 18:
            return usable_binaries(folder, account) / "bin"
    return find_programs()


@contextmanager
def standby_of(server: Server) -> Iterator[Standby]:
    """A hot standby of a server, streaming from it."""
    with server.connect() as admin:
        hba = admin.execute("SHOW hba_file").fetchone()
        assert hba is not None
        with Path(str(hba[0])).open("a", encoding="utf-8") as file:
            file.write("local replication postgres trust\n")
        admin.execute("SELECT pg_reload_conf()")
    port = free_port()
    with temporary_folder() as folder:
        account = choose_account(folder / "cluster")
        account.own(folder)
        programs = programs_of(server, folder, account)
        copy = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D", folder / "cluster"]
        run(account, folder, [programs / "pg_basebackup", "-d", server.conninfo, *copy])
        control = [programs / "pg_ctl", "-w", "-s", "-D", folder / "cluster"]
        options = f"-p {port} -k {folder} -c listen_addresses="
        run(account, folder, [*control, "-l", folder / "log", "-o", options, "start"])
        try:
            conninfo = make_conninfo(server.conninfo, host=str(folder), port=port)
            yield Standby(conninfo, folder, programs, account)
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
