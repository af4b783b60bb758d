"""Lets the server's process behind a connection give way to others, where that is the caller's to say."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

WAY = 3  # of niceness: half of what another process gets where all want the processor (sched(7))
PROC = Path("/proc")


def give_way(connection: psycopg.Connection[Any]) -> bool:
    """Lower the priority of the connection's backend for as long as it lives; whether that could be done.

    It can on Linux, over a Unix socket that leads to the server itself, for its own account and for root.
    """
    backend = connection.info.backend_pid
    with suppress(OSError, ValueError, struct.error):
        if _parent(backend) == _listener(connection.fileno()):
            os.setpriority(os.PRIO_PROCESS, backend, _lowered(os.getpriority(os.PRIO_PROCESS, backend)))
            with suppress(OSError):  # each backend is a session, and some kernels weigh sessions first
                session = PROC / str(backend) / "autogroup"
                session.write_text(str(_lowered(int(session.read_text().split()[-1]))))
            return True
    return False


def _lowered(niceness: int) -> int:
    return min(niceness + WAY, 19)


def _listener(connected: int) -> int | None:
    """The process that made the other end of a Unix socket: a server's first, or a pooler (unix(7))."""
    if sys.platform != "linux":
        return None
    with socket.socket(fileno=os.dup(connected)) as end:
        if end.family != socket.AF_UNIX:
            return None
        size = struct.calcsize("iII")  # struct ucred: process, user, group
        process, _, _ = struct.unpack("iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(process)


def _parent(process: int) -> int:
    """Of a process in our namespace (proc(5)); the number is of the server's, and may be anyone's in ours."""
    _, _, rest = (PROC / str(process) / "stat").read_text().rpartition(")")
    return int(rest.split()[1])
