"""What `postmaster.pid` says about a running server, and whether it tells the truth."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil  # comes with the programs, so that a missing extra is told by whoever looks for those

LINES = 8  # pid, data folder, start, port, socket folder, listen address, shared memory, status


@dataclass(frozen=True)
class Postmaster:
    """A server process; `status` is PostgreSQL's own word: starting, ready, stopping."""

    pid: int
    port: int
    socket_dir: Path
    address: str
    status: str


def pid_file(cluster: Path) -> Path:
    """Where the server writes who it is."""
    return cluster / "postmaster.pid"


def read_postmaster(cluster: Path) -> Postmaster | None:
    """The server that lives in this cluster now, or None: gone, or its number belongs to another process."""
    try:
        lines = pid_file(cluster).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    if not lines or not _is_postmaster(int(lines[0]), cluster):
        return None
    lines += [""] * (LINES - len(lines))  # the file is written in two steps
    return Postmaster(
        pid=int(lines[0]),
        port=int(lines[3] or 0),
        socket_dir=Path(lines[4].strip()),
        address=lines[5].strip(),
        status=lines[7].strip() or "starting",
    )


def end_orphans(cluster: Path, *, timeout: float) -> None:
    """End what a killed server left: a busy backend may be slow to notice, and blocks the next."""
    import psutil

    orphans = [process for process in psutil.process_iter() if _belongs(process, cluster)]
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(orphans, timeout)


def _is_postmaster(pid: int, cluster: Path) -> bool:
    import psutil

    try:
        return _belongs(psutil.Process(pid), cluster)
    except psutil.NoSuchProcess:
        return False


def _belongs(process: psutil.Process, cluster: Path) -> bool:
    """Whether it is one of the cluster's: all of them work in its folder."""
    import psutil

    try:
        return process.name().startswith("postgres") and Path(process.cwd()) == cluster.resolve()
    except psutil.Error:  # gone, a zombie, or somebody else's
        return False
