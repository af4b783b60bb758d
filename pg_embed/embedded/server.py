"""The embedded PostgreSQL: start it in a folder, share it between processes, leave nothing behind."""

from __future__ import annotations

import atexit
import hashlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

import platformdirs

from pg_embed.embedded import cluster, files
from pg_embed.embedded.account import Account, choose_account
from pg_embed.embedded.binaries import find_binaries, usable_binaries
from pg_embed.embedded.locks import FileLock
from pg_embed.embedded.postmaster import Postmaster, end_orphans, pid_file, read_postmaster
from pg_embed.errors import PgEmbedError

ROOT_DATA_DIR = Path("/var/lib/pg_embed")  # root's own folders are closed to the user that PostgreSQL runs as
START_TIMEOUT = 120.0  # seconds; recovery after a crash is part of a start
STOP_TIMEOUT = 60.0  # seconds
POLL_INTERVAL = 0.02  # seconds
DEFAULT_PORT = 5432  # names the socket file; nobody listens on it unless TCP is asked for
SOCKET_PATH_LIMIT = 100  # bytes; the smallest limit of the systems we know is 103
LOG_LIMIT = 10 << 20  # bytes; a longer log is put aside at the next start
LOG_TAIL = 2_000  # characters that an error shows


def default_data_dir() -> Path:
    """Where the embedded server lives unless told otherwise: the user's data folder, or /var/lib for root."""
    return ROOT_DATA_DIR if os.geteuid() == 0 else platformdirs.user_data_path("pg_embed")


class EmbeddedServer:
    """A PostgreSQL with pgvector in a folder of its own.

    Any number of processes may use one folder: the first starts the server, the last one out stops it. A
    process that was killed counts as gone; a server that it left running is taken over by the next one. As
    root the server runs as the system user `postgres` (or `pg_embed`, made when there is none), which must be
    able to reach the folder.

    The Unix socket, its folder closed to everybody else, asks for no password; TCP (`tcp_port`: a number, or
    0 for any free port) listens on 127.0.0.1 only and wants the one in the file `password`. `fast` gives up
    crash safety; it is for tests. Settings are those of whoever started the server: a TCP port that it
    has not is refused while others use it; one that was left running is started anew to listen as asked.
    """

    def __init__(
        self, data_dir: Path | None = None, *, fast: bool = False, tcp_port: int | None = None
    ) -> None:
        self.data_dir = (data_dir or default_data_dir()).expanduser().absolute()
        self.cluster_dir = self.data_dir / "cluster"
        self.log_file = self.data_dir / "postgres.log"
        self.password_file = self.data_dir / "password"
        self.spool_dir = self.data_dir / "spool"  # for the server and us alone: requests and answers
        self._fast = fast
        self._tcp_port = tcp_port
        self._turn = FileLock(self.data_dir / "start.lock")  # held while somebody starts or stops
        self._users = FileLock(self.data_dir / "users.lock")  # shared by all who use the server
        self._postmaster: Postmaster | None = None

    def start(self) -> None:
        """Make the cluster if there is none, and bring the server up or join the one that runs."""
        if self._postmaster is not None:
            return
        find_binaries()  # a missing extra is told before a folder is made
        try:
            self._start()
        except OSError as exc:
            raise PgEmbedError(
                f"the data folder {self.data_dir} cannot be used: {exc.strerror} ({exc.filename})",
                hint="choose one that belongs to this user and may be written",
            ) from exc

    def _start(self) -> None:
        account = self._prepare_folder()
        atexit.register(self.stop)
        try:
            with self._turn.hold(timeout=START_TIMEOUT):
                programs = usable_binaries(self.data_dir, account) / "bin"
                alone = self._users.try_acquire()
                if not alone:
                    self._users.acquire(timeout=START_TIMEOUT, shared=True)
                self._ensure_cluster(account, programs)
                self._check_address(account, programs, alone=alone)
                self._postmaster = self._ensure_running(account, programs)
                self._users.share()
        except BaseException:  # Ctrl-C too: what was half started is stopped
            self.stop()
            raise

    def stop(self) -> None:
        """Leave; the last user stops the server. Nothing happens if this one was not started."""
        atexit.unregister(self.stop)
        self._postmaster = None
        if not self._users.held:
            return
        with self._turn.hold(timeout=START_TIMEOUT):
            self._users.release()
            if not self._users.try_acquire():
                return
            try:
                self._shut_down()
            finally:
                self._users.release()

    def dsn(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """A connection string for the superuser `postgres`, by the socket or by TCP with its password."""
        server = self._running()
        if not tcp:
            query = urlencode({"host": str(server.socket_dir), "port": server.port}, quote_via=quote)
            return f"postgresql://postgres@/{quote(database, safe='')}?{query}"
        if not server.address:
            raise PgEmbedError("the embedded server listens on no TCP port", hint="start it with a TCP port")
        password = quote(self.password_file.read_text(encoding="ascii").strip(), safe="")
        return f"postgresql://postgres:{password}@127.0.0.1:{server.port}/{quote(database, safe='')}"

    @property
    def pid(self) -> int:
        """The process of the server."""
        return self._running().pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> Postmaster:
        if self._postmaster is None:
            raise PgEmbedError("the embedded server is not started", hint="call start() first")
        return self._postmaster

    def _prepare_folder(self) -> Account:
        account = choose_account(self.cluster_dir)
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711 if account.other else 0o700)
        if not account.can_enter(self.data_dir):
            raise PgEmbedError(
                f"the user that PostgreSQL runs as (uid {account.uid}) cannot enter {self.data_dir}",
                hint=f"as root, choose a folder that others may pass through, such as {ROOT_DATA_DIR}",
            )
        files.private_folder(self.spool_dir, account)
        files.touch(self.log_file, account)
        return account

    def _ensure_cluster(self, account: Account, programs: Path) -> None:
        for left in self.data_dir.glob("cluster.unfinished*"):
            cluster.remove(left)
        if self.cluster_dir.exists():
            cluster.check_version(self.cluster_dir)
            return
        # The initdb of a killed start may still write into its own, which therefore may also still be there.
        unfinished = Path(tempfile.mkdtemp(prefix="cluster.unfinished-", dir=self.data_dir))
        account.own(unfinished)
        cluster.new_password(self.password_file, account)
        arguments = cluster.initdb_arguments(unfinished, self.password_file, fast=self._fast)
        self._run(account, [programs / "initdb", *arguments])
        cluster.complete(unfinished, account)
        unfinished.rename(self.cluster_dir)

    def _check_address(self, account: Account, programs: Path, *, alone: bool) -> None:
        """Of a server that runs already: one that nobody uses is ended if it listens elsewhere than asked."""
        if read_postmaster(self.cluster_dir) is None:
            return
        server = self._ensure_running(account, programs)  # before it is ready it does not tell its address
        if self._listens_as_asked(server):
            return
        if alone:
            self._shut_down()
        elif self._tcp_port is not None:
            listens = f"on port {server.port}" if server.address else "on no TCP port"
            raise PgEmbedError(
                f"the embedded server in {self.data_dir} listens {listens}, and others use it",
                hint="stop what uses it first, or start without a port and connect by the socket",
            )

    def _listens_as_asked(self, server: Postmaster) -> bool:
        if self._tcp_port is None:
            return not server.address
        return bool(server.address) and self._tcp_port in (0, server.port)

    def _ensure_running(self, account: Account, programs: Path) -> Postmaster:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            server = read_postmaster(self.cluster_dir)
            if server is None:
                self._launch(account, programs)
            elif server.status == "ready":
                return server
            time.sleep(POLL_INTERVAL)
        raise PgEmbedError(
            f"the embedded server is not ready after {START_TIMEOUT:.0f} seconds", hint=self._log_tail()
        )

    def _launch(self, account: Account, programs: Path) -> None:
        end_orphans(self.cluster_dir, timeout=STOP_TIMEOUT)
        socket_dir = self._socket_dir()
        files.private_folder(socket_dir, account)
        for stale in (pid_file(self.cluster_dir), *socket_dir.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)  # the number in it may be a zombie's, or another process's by now
        tcp = self._tcp_port is not None
        if self._tcp_port:
            _check_port(self._tcp_port)
        port = (self._tcp_port or _free_port()) if tcp else DEFAULT_PORT
        cluster.write_settings(self.cluster_dir, account, socket_dir, port, tcp=tcp, fast=self._fast)
        if self.log_file.stat().st_size > LOG_LIMIT:
            self.log_file.rename(self.log_file.with_suffix(".log.1"))
            files.touch(self.log_file, account)  # who runs the server may not make it here
        self._control(account, programs, "start", "--log", self.log_file, timeout=START_TIMEOUT)

    def _shut_down(self) -> None:
        server = read_postmaster(self.cluster_dir)
        if server is None:
            return
        account = choose_account(self.cluster_dir)
        programs = usable_binaries(self.data_dir, account) / "bin"
        try:
            self._control(account, programs, "stop", "--mode=fast", timeout=STOP_TIMEOUT)
        except PgEmbedError:  # a backend that does not listen: recovery will mend what this leaves
            self._control(account, programs, "stop", "--mode=immediate", timeout=STOP_TIMEOUT)
        with suppress(OSError):  # not empty: then something else lives there
            self._socket_dir().rmdir()

    def _control(self, account: Account, programs: Path, *arguments: str | Path, timeout: float) -> None:
        wait: list[str | Path] = [
            "--silent",
            "--wait",
            f"--timeout={timeout:.0f}",
            "--pgdata",
            self.cluster_dir,
        ]
        self._run(account, [programs / "pg_ctl", *wait, *arguments], timeout=timeout + 10)

    def _run(self, account: Account, arguments: Sequence[str | Path], timeout: float = START_TIMEOUT) -> None:
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            process = account.popen(arguments, cwd=self.data_dir, output=output.fileno())
            try:
                process.wait(timeout)
            except BaseException:  # let it finish, so that we know what there is to stop
                _finish(process)
                raise
            if process.returncode != 0:
                output.seek(0)
                program = Path(arguments[0]).name
                said = output.read().strip() or "no word"
                raise PgEmbedError(f"{program} failed: {said}", hint=self._log_tail())

    def _socket_dir(self) -> Path:
        """Beside the cluster; where that path is too long for a socket, in the system's temporary folder."""
        folder = self.data_dir / "run"
        if len(os.fsencode(folder / f".s.PGSQL.{DEFAULT_PORT}")) > SOCKET_PATH_LIMIT:
            name = hashlib.sha256(f"{os.getuid()} {self.data_dir}".encode()).hexdigest()[:12]
            folder = Path(tempfile.gettempdir()) / f"pg_embed-{name}"
        return folder

    def _log_tail(self) -> str:
        text = self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""
        return f"the end of {self.log_file}:\n{text[-LOG_TAIL:]}"


def _finish(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(STOP_TIMEOUT)
    finally:
        process.kill()
        process.wait()


def _check_port(port: int) -> None:
    """Refuse a port that cannot be had, before PostgreSQL does in a log full of other things."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise PgEmbedError(
                f"port {port} of 127.0.0.1 cannot be used: {exc.strerror}",
                hint="choose another, or 0 for any free one",
            ) from exc


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
