"""The socket doors: length-framed JSON over a Unix socket, or over TCP behind a token."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import orjson

from pg_embed.errors import BadRequest, InvalidArgument, Overloaded, PgEmbedError, SidecarUnreachable
from pg_embed.serve import doors
from pg_embed.serve.requests import encode_error

MAX_FRAME = 64 * 1024 * 1024  # bytes
HEADER = 4  # bytes of the length
BACKLOG = 1024  # connections that wait to be accepted
TOKEN_TIMEOUT = 5.0  # seconds until a TCP connection must have shown its token
FRAME_TIMEOUT = 30.0  # seconds without a byte in the middle of a frame, or of its answer
IDLE_TIMEOUT = 3600.0  # seconds between requests; a backend connects anew when it needs to
SWEEP_INTERVAL = 1.0  # seconds between looks at overdue connections

Answer = Callable[[bytes], Awaitable[bytes]]


def frame(payload: bytes) -> bytes:
    """The payload with its length before it."""
    return len(payload).to_bytes(HEADER, "big") + payload


class Connection(asyncio.Protocol):
    """One connection: requests are answered in their order, and given up when the caller has gone."""

    def __init__(self, door: FramesDoor) -> None:
        self.door = door
        self.deadline = 0.0
        self.task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._authorised = door.token is None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        if not self.door.admit(self):
            self._send(encode_error(None, Overloaded("the sidecar has too many connections")))
            transport.close()
        self._wait(IDLE_TIMEOUT if self._authorised else TOKEN_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.task is not None:
            self.task.cancel()
        self._writable.set()
        self.door.forget(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def close(self) -> None:
        """Take no more requests; one in hand is still answered."""
        if self.task is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self.task is not None:  # the next request waits, here or in the kernel
            if len(self._buffer) > MAX_FRAME:
                self._transport.pause_reading()
            return
        request = self._take_frame()
        if request is None:
            if self._buffer:
                self._wait(FRAME_TIMEOUT if self._authorised else self.deadline - self.door.now())
        elif self._authorised:
            self.deadline = float("inf")  # the request has its own timeout
            self.task = asyncio.create_task(self._answer(request))
        else:
            self._authorise(request)

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < HEADER:
            return None
        end = HEADER + int.from_bytes(self._buffer[:HEADER], "big")
        if end - HEADER > (MAX_FRAME if self._authorised else 4096):
            self._refuse(BadRequest(f"a request may have {MAX_FRAME} bytes, this one has {end - HEADER}"))
            return None
        if len(self._buffer) < end:
            return None
        request = bytes(memoryview(self._buffer)[HEADER:end])
        del self._buffer[:end]
        return request

    def _authorise(self, request: bytes) -> None:
        try:
            shown = str(orjson.loads(request)["token"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            shown = ""
        if not hmac.compare_digest(shown.encode(), (self.door.token or "").encode()):
            self._refuse(SidecarUnreachable("the token was refused", hint="compare the two token files"))
            return
        self._authorised = True
        self._send(b'{"ok":true}')
        self._wait(IDLE_TIMEOUT)
        self._next()

    async def _answer(self, request: bytes) -> None:
        answer = await self.door.answer(request)
        if len(answer) > MAX_FRAME:
            answer = encode_error(None, BadRequest("the answer is too long", hint="send fewer texts at once"))
        self._wait(FRAME_TIMEOUT)
        self._send(answer)
        await self._writable.wait()
        self.task = None
        if self.door.is_closing:
            self.close()
        elif self._transport is not None:
            self._wait(IDLE_TIMEOUT)
            self._transport.resume_reading()
            self._next()

    def _refuse(self, error: PgEmbedError) -> None:
        self._send(encode_error(None, error))
        self._buffer.clear()
        if self._transport is not None:
            self._transport.close()

    def _send(self, payload: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame(payload))

    def _wait(self, seconds: float) -> None:
        self.deadline = self.door.now() + seconds


class FramesDoor:
    """Listens on a socket and holds its connections."""

    def __init__(
        self,
        answer: Answer,
        make_socket: Callable[[], socket.socket],
        *,
        token: str | None,
        max_connections: int,
    ) -> None:
        self.answer = answer
        self.token = token
        self.is_closing = False
        self.address = ""
        self._make_socket = make_socket
        self._max_connections = max_connections
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._socket_file: tuple[int, int] | None = None
        self._sweeper: asyncio.Task[None] | None = None

    def now(self) -> float:
        """The event loop's clock."""
        return asyncio.get_running_loop().time()

    def admit(self, connection: Connection) -> bool:
        """Take the connection in, if there is room for it."""
        if len(self._connections) >= self._max_connections:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""
        self._connections.discard(connection)

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        sock = self._make_socket()
        self.address = _spell(sock)
        self._socket_file = _identity(self.address)
        create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._server = await create(lambda: Connection(self), sock=sock, backlog=BACKLOG)
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self, grace: float) -> None:
        """Stop listening, answer what is in hand, close all connections."""
        self.is_closing = True
        self._remove_socket()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        await doors.finish({c.task for c in self._connections if c.task is not None}, grace)
        await doors.stop(self._sweeper)
        for connection in list(self._connections):
            connection.abort()

    def _remove_socket(self) -> None:
        """Before we stop listening, and only if it is ours: the next sidecar makes one of the same name."""
        if self._socket_file is not None and self._socket_file == _identity(self.address):
            Path(self.address).unlink(missing_ok=True)
        self._socket_file = None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = self.now()
            for connection in [c for c in self._connections if c.deadline < now]:
                connection.abort()


def unix_door(answer: Answer, path: Path, *, mode: int, max_connections: int) -> FramesDoor:
    """A door on a Unix socket; the file's mode says who may connect."""
    return FramesDoor(answer, lambda: _unix_socket(path, mode), token=None, max_connections=max_connections)


def tcp_door(answer: Answer, host: str, port: int, *, token: str | None, max_connections: int) -> FramesDoor:
    """A door on a TCP port; who shows the token may connect."""
    if token is None:
        raise InvalidArgument(
            "the TCP door needs a token", hint="name a file that has one, or use a Unix socket"
        )
    return FramesDoor(answer, lambda: listen(host, port), token=token, max_connections=max_connections)


def _unix_socket(path: Path, mode: int) -> socket.socket:
    _clear_stale_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777)  # nobody may connect before the mode is set
    try:
        sock.bind(str(path.resolve()))
    except OSError as exc:
        sock.close()
        raise InvalidArgument(f"the socket {path} cannot be made: {exc.strerror or exc}") from exc
    finally:
        os.umask(mask)
    path.chmod(mode)
    return sock


def _clear_stale_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise InvalidArgument(f"{path} is there and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
                raise InvalidArgument(f"another sidecar listens on {path}")
        path.unlink()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a TCP port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        said = (
            os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)
        )  # else with the address again
        hint = "choose another port, or an address of this host"
        raise InvalidArgument(f"cannot listen on {endpoint(host, port)}: {said}", hint=hint) from exc


def endpoint(host: str, port: int) -> str:
    """A host and its port in one word, as addresses on the web have them: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _spell(sock: socket.socket) -> str:
    name = sock.getsockname()
    return str(name) if sock.family == socket.AF_UNIX else endpoint(*name[:2])


def _identity(address: str) -> tuple[int, int] | None:
    """Which file a Unix socket is, whatever its name; None for TCP, and where it is gone."""
    try:
        status = os.lstat(address) if address.startswith("/") else None
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino)
