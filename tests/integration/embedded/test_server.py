"""The embedded server: starts, is shared, survives kills, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from pg_embed.embedded import EmbeddedServer, binaries, cluster
from pg_embed.embedded.account import choose_account
from pg_embed.embedded.postmaster import read_postmaster
from pg_embed.embedded.server import LOG_LIMIT, SOCKET_PATH_LIMIT
from pg_embed.errors import PgEmbedError
from tests.fix_pg import temporary_folder

WAIT = 30.0  # seconds

# A process that uses the server, tells its pid, and leaves when its standard input ends.
USER = """
import sys
from pathlib import Path
from pg_embed.embedded import EmbeddedServer
tcp_port = int(sys.argv[2]) if sys.argv[2:] else None
with EmbeddedServer(Path(sys.argv[1]), fast=True, tcp_port=tcp_port) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as path:
        yield path / "data"
        server = read_postmaster(path / "data" / "cluster")
        if server is not None:  # a failed test must not leave it either
            kill(server.pid)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody asked about yet does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def kill(pid: int) -> None:
    """Kill a process and wait for its end."""
    process = psutil.Process(pid)
    process.kill()
    process.wait(WAIT)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class User:
    """Another process that uses the server in a folder."""

    def __init__(self, folder: Path, tcp_port: int | None = None) -> None:
        command = [sys.executable, "-c", USER, str(folder), *([] if tcp_port is None else [str(tcp_port)])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.server_pid = int(self.process.stdout.readline())

    def leave(self, how: signal.Signals | None = None) -> None:
        if how is not None:
            self.process.send_signal(how)
        self.process.communicate(timeout=WAIT)


def test_start_makes_a_server_with_pgvector(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE EXTENSION vector")
        assert connection.info.server_version // 10_000 == 18
        assert connection.execute("SELECT lower('ÄÖ')").fetchone() == ("äö",)


def test_stop_leaves_no_process(folder: Path) -> None:
    server = EmbeddedServer(folder, fast=True)
    server.start()
    pid = server.pid
    server.stop()
    assert not alive(pid)
    with pytest.raises(PgEmbedError, match="not started"):
        server.dsn()


def test_start_and_stop_may_be_called_again(folder: Path) -> None:
    server = EmbeddedServer(folder, fast=True)
    for _ in range(2):
        server.start()
        server.start()
        server.stop()
        server.stop()


def test_data_stay_from_run_to_run(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_users_keep_crash_safety(folder: Path) -> None:
    with EmbeddedServer(folder) as server, psycopg.connect(server.dsn()) as connection:
        names = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums")
        assert [connection.execute(f"SHOW {name}").fetchone() for name in names] == [("on",)] * 4


def test_own_settings_win_over_ours(folder: Path) -> None:
    with (
        EmbeddedServer(folder, fast=True) as server,
        psycopg.connect(server.dsn(), autocommit=True) as connection,
    ):
        connection.execute("ALTER SYSTEM SET work_mem = '17MB'")
        connection.execute("ALTER SYSTEM SET max_connections = 33")
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("17MB",)
        assert connection.execute("SHOW max_connections").fetchone() == ("33",)


def test_last_one_out_stops_the_server(folder: Path) -> None:
    first = User(folder)
    with EmbeddedServer(folder, fast=True) as second:
        assert second.pid == first.server_pid
        first.leave()
        with psycopg.connect(second.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not alive(first.server_pid)


def test_two_objects_in_one_process_share_the_server(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as first:
        with EmbeddedServer(folder, fast=True) as second:
            assert second.pid == first.pid
        with psycopg.connect(first.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_many_starting_at_once_get_one_server(folder: Path) -> None:
    command = [sys.executable, "-c", USER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    users = [subprocess.Popen(command, text=True, **pipes) for _ in range(4)]
    pids = {user.stdout.readline() for user in users if user.stdout}
    for user in users:
        assert user.communicate(timeout=WAIT)[1] == ""
    assert len(pids) == 1
    assert not alive(int(pids.pop()))


def test_ctrl_c_stops_the_server(folder: Path) -> None:
    user = User(folder)
    user.leave(signal.SIGINT)
    assert not alive(user.server_pid)


def test_server_of_a_killed_starter_is_taken_over_and_stopped(folder: Path) -> None:
    user = User(folder)
    user.leave(signal.SIGKILL)
    assert alive(user.server_pid)
    with EmbeddedServer(folder, fast=True) as server:
        assert server.pid == user.server_pid
    assert not alive(user.server_pid)


def test_killed_server_comes_up_again(folder: Path) -> None:
    user = User(folder)
    kill(user.server_pid)
    user.leave(signal.SIGKILL)
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_server_killed_with_a_busy_backend_comes_up_again(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server, closing(psycopg.connect(server.dsn())) as busy:
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 100000000)")
        kill(server.pid)
        again = EmbeddedServer(folder, fast=True)
        with again, psycopg.connect(again.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_stale_pid_file_with_the_number_of_another_process_is_no_obstacle(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True):
        text = (folder / "cluster" / "postmaster.pid").read_text()
    stale = "\n".join([str(os.getpid()), *text.splitlines()[1:]])
    (folder / "cluster" / "postmaster.pid").write_text(stale + "\n")
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_interrupted_initdb_is_no_obstacle(folder: Path) -> None:
    half = folder / "cluster.unfinished"
    half.mkdir(parents=True)
    folder.chmod(0o711)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedServer(folder, fast=True) as server:
        assert server.pid
    assert not half.exists()


def test_initdb_that_outlives_its_killed_start_is_no_obstacle(folder: Path) -> None:
    user = subprocess.Popen([sys.executable, "-c", USER, str(folder)], stdin=subprocess.PIPE)
    deadline = time.monotonic() + WAIT
    while not list(folder.glob("cluster.unfinished*/PG_VERSION")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    user.kill()
    user.communicate(timeout=WAIT)
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_leftover_that_somebody_still_writes_into_is_no_obstacle(folder: Path) -> None:
    half, done = folder / "cluster.unfinished", threading.Event()

    def write() -> None:
        while not done.wait(0.001):
            with suppress(FileNotFoundError, FileExistsError):  # it is deleted between two looks
                half.mkdir(parents=True, exist_ok=True)
                (half / "PG_VERSION").write_text("18\n")

    folder.mkdir(mode=0o711)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        with EmbeddedServer(folder, fast=True) as server:
            assert server.pid
    finally:
        done.set()
        writer.join()
    with EmbeddedServer(folder, fast=True):
        assert not half.exists()


def test_cluster_of_another_major_version_is_refused(folder: Path) -> None:
    (folder / "cluster").mkdir(parents=True)
    folder.chmod(0o711)
    (folder / "cluster" / "PG_VERSION").write_text("14\n")
    with pytest.raises(PgEmbedError, match="made by PostgreSQL 14"):
        EmbeddedServer(folder).start()


def test_socket_moves_where_the_path_is_too_long(folder: Path) -> None:
    long = folder / ("long" * 30)
    with EmbeddedServer(long, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        socket_dir = Path(connection.info.host)
        assert len(str(socket_dir)) < 90
    assert not socket_dir.exists()


def test_a_folder_may_have_spaces_and_other_letters(folder: Path) -> None:
    with (
        EmbeddedServer(folder / "Meine Daten" / "ü+%", fast=True) as server,
        psycopg.connect(server.dsn()) as db,
    ):
        assert db.execute("SHOW unix_socket_directories").fetchone() == (str(server.data_dir / "run"),)


def test_a_path_is_as_long_as_its_bytes(folder: Path) -> None:
    data_dir = folder / ("ü" * (SOCKET_PATH_LIMIT - len(str(folder)) - 30))
    with EmbeddedServer(data_dir, fast=True) as server, psycopg.connect(server.dsn()) as db:
        assert db.execute("SELECT 1").fetchone() == (1,)


def test_a_port_that_is_taken_is_said(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PgEmbedError, match=f"port {port} of 127.0.0.1 cannot be used: Address already"):
            EmbeddedServer(folder, fast=True, tcp_port=port).start()
    assert read_postmaster(folder / "cluster") is None


@pytest.mark.parametrize("place", ["/proc/nothing", "/etc/passwd", "/dev/null/data"])
def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(place: str) -> None:
    with pytest.raises(PgEmbedError, match=f"the data folder {place} cannot be used: ") as raised:
        EmbeddedServer(Path(place)).start()
    assert raised.value.hint == "choose one that belongs to this user and may be written"


def test_a_folder_in_place_of_a_cluster_is_refused(folder: Path) -> None:
    (folder / "cluster").mkdir(parents=True)
    with pytest.raises(PgEmbedError, match="is no cluster of PostgreSQL"):
        EmbeddedServer(folder, fast=True).start()


def test_tcp_wants_the_password(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True, tcp_port=0) as server:
        with psycopg.connect(server.dsn(tcp=True)) as connection:
            assert connection.pgconn.used_password
            assert connection.info.host == "127.0.0.1"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.dsn(tcp=True), password="wrong")


def test_no_tcp_unless_asked_for(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        with pytest.raises(PgEmbedError, match="no TCP port"):
            server.dsn(tcp=True)


def test_server_left_without_tcp_is_started_anew_with_it(folder: Path) -> None:
    user = User(folder)
    user.leave(signal.SIGKILL)
    with EmbeddedServer(folder, fast=True, tcp_port=0) as server, psycopg.connect(server.dsn(tcp=True)):
        assert server.pid != user.server_pid
        assert not alive(user.server_pid)


def test_server_left_with_tcp_is_closed_or_moved_as_asked_for(folder: Path) -> None:
    left = User(folder, tcp_port=0)
    left.leave(signal.SIGKILL)
    with EmbeddedServer(folder, fast=True, tcp_port=0) as server:  # any port: the one it has
        assert server.pid == left.server_pid
    for port in (None, free_port()):
        left = User(folder, tcp_port=0)
        left.leave(signal.SIGKILL)
        with EmbeddedServer(folder, fast=True, tcp_port=port) as server:
            assert not alive(left.server_pid)
            with psycopg.connect(server.dsn()) as connection:
                assert connection.execute("SHOW listen_addresses").fetchone() == (
                    "127.0.0.1" if port else "",
                )
                assert connection.info.port == port or port is None


def test_tcp_of_a_server_in_use_is_not_changed(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as first:
        for port in (0, free_port()):
            with pytest.raises(PgEmbedError, match="on no TCP port, and others use it") as caught:
                EmbeddedServer(folder, fast=True, tcp_port=port).start()
            assert "without a port" in str(caught.value.hint)
        assert alive(first.pid)
    with EmbeddedServer(folder, fast=True, tcp_port=0) as first:
        with EmbeddedServer(folder, fast=True) as second, EmbeddedServer(folder, tcp_port=0) as third:
            assert first.pid == second.pid == third.pid
            assert third.dsn(tcp=True) == first.dsn(tcp=True)
        with pytest.raises(PgEmbedError, match="listens on port"):
            EmbeddedServer(folder, fast=True, tcp_port=free_port()).start()
        assert alive(first.pid)


def test_folders_are_closed_to_others(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server:
        for path in (server.spool_dir, server.cluster_dir, folder / "run"):
            assert path.stat().st_mode & 0o777 == 0o700
        assert server.password_file.stat().st_mode & 0o777 == 0o600


def test_server_and_we_exchange_files_in_the_spool(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        request, answer = server.spool_dir / "1.req", server.spool_dir / "1.ans"
        connection.execute(f"COPY (SELECT 'ask') TO '{request}'")
        assert request.read_text() == "ask\n"
        answer.write_text("told")
        answer.chmod(0o644)
        assert connection.execute("SELECT pg_read_file(%s)", [str(answer)]).fetchone() == ("told",)
        request.unlink()


def test_a_long_log_is_put_aside(folder: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server:
        pass
    with server.log_file.open("a") as file:
        file.truncate(LOG_LIMIT + 1)
    with server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert (folder / "postgres.log.1").stat().st_size > LOG_LIMIT
    assert 0 < server.log_file.stat().st_size < LOG_LIMIT


def test_environment_of_the_caller_does_not_move_the_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGHOST": "nowhere", "PGUSER": "nobody"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.info.user == "postgres"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_as_root_a_closed_folder_is_refused_with_a_hint(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o700)
    with pytest.raises(PgEmbedError, match="cannot enter") as caught:
        EmbeddedServer(folder / "data").start()
    assert "/var/lib/pg_embed" in str(caught.value.hint)


@pytest.fixture
def closed_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs are in a folder that only we may enter."""
    closed = folder.parent / "closed"
    closed.mkdir(mode=0o700)
    programs = binaries.find_binaries()
    package = programs.parent
    shutil.copytree(programs, closed / package.name / programs.name, symlinks=True)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, closed / libraries.name)
    monkeypatch.setattr(binaries, "find_binaries", lambda: closed / package.name / programs.name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_as_root_programs_in_a_closed_folder_are_copied(folder: Path, closed_programs: None) -> None:
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE EXTENSION vector")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_as_root_two_first_starts_at_once_copy_the_programs_once(folder: Path, closed_programs: None) -> None:
    (folder / "programs.unfinished-killed").mkdir(parents=True)
    folder.chmod(0o711)
    servers = [EmbeddedServer(folder, fast=True) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        for started in [pool.submit(server.start) for server in servers]:
            started.result(WAIT)
    assert len({server.pid for server in servers}) == 1
    assert len(list(folder.glob("programs*"))) == 1
    for server in servers:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes where another user may")
def test_as_root_links_of_the_other_user_are_not_followed(folder: Path, tmp_path: Path) -> None:
    with EmbeddedServer(folder, fast=True) as server:
        settings = server.cluster_dir / "pg_embed.conf"
        owner = settings.stat().st_uid
    victim = tmp_path / "victim"
    victim.write_text("root's")
    settings.unlink()
    settings.symlink_to(victim)
    os.chown(settings, owner, -1, follow_symlinks=False)
    with EmbeddedServer(folder, fast=True) as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SHOW shared_buffers").fetchone() == ("256MB",)
    assert (victim.read_text(), victim.stat().st_uid) == ("root's", 0)
    assert not settings.is_symlink()
    assert settings.stat().st_uid == owner


def test_links_in_place_of_our_files_and_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("mine")
    other.mkdir()
    before = [(path.stat().st_uid, path.stat().st_mode) for path in (file, other)]
    folder.mkdir(mode=0o711)
    for name, victim in (("spool", other), ("postgres.log", file), ("run", other)):
        (folder / name).symlink_to(victim)
        with pytest.raises(PgEmbedError, match="is a link"):
            EmbeddedServer(folder, fast=True).start()
        (folder / name).unlink()
    assert [(path.stat().st_uid, path.stat().st_mode) for path in (file, other)] == before


def test_a_link_in_a_fresh_cluster_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    fresh = tmp_path / "cluster"
    fresh.mkdir()
    for name in ("pg_hba.conf", "postgresql.conf"):
        (fresh / name).symlink_to(victim)
    with pytest.raises(PgEmbedError, match="is a link"):
        cluster.complete(fresh, choose_account(fresh))
    assert not (fresh / "pg_hba.conf").is_symlink()
    assert victim.read_text() == "mine"
