"""The spool door: requests are files in a private folder, answers are files beside them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from pg_embed import log
from pg_embed.errors import InvalidArgument
from pg_embed.serve import doors
from pg_embed.serve.frames import Answer
from pg_embed.serve.requests import log_failure

HEARTBEAT_INTERVAL = 1.0  # seconds; the transport takes 5 s without one for an absent sidecar
ANSWER_LIFETIME = 60.0  # seconds after which a sidecar that starts takes a request for given up
IDLE_LIFETIME = 600.0  # seconds after which the files of an ended session are removed
POLL_INTERVAL = 0.002  # seconds, where the system does not tell of new files
POLLED_AGE = 5.0  # seconds since its last change for which a file is looked at
ALIVE = "alive"
REQUEST = ".req"
ANSWER = ".ans"
SESSION_FILES = {REQUEST, ANSWER, ".tmp"}
LOCK = "lock"

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ID = re.compile(rb'"id": ?"([^"]*)"')
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}

logger = log.logger("serve")


def decode_copy(line: bytes) -> bytes:
    """The text of a one-column, one-row file in COPY's text format."""
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), line.removesuffix(b"\n"))


class SpoolDoor:
    """Watches a folder, as the only sidecar that does.

    A session of the database writes its requests to `<process>.req`, one over the other, and reads answers in
    `<process>.ans`. A new request therefore means that nobody waits for the answer to the one before.
    """

    def __init__(self, answer: Answer, folder: Path, *, max_requests: int, watch: bool = True) -> None:
        self.address = str(folder)
        self._answer = answer
        self._folder = folder
        self._watch = watch and sys.platform == "linux"
        self._in_hand = doors.InHand(max_requests)
        self._current: dict[str, asyncio.Task[None]] = {}  # by session
        self._tasks: list[asyncio.Task[None]] = []
        self._lock: IO[str] | None = None

    async def open(self) -> None:
        """Clean the folder, then answer what waits there and what comes."""
        self._prepare()
        listening = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen(listening)), asyncio.create_task(self._live())]
        await asyncio.wait_for(listening.wait(), timeout=10)

    async def close(self, grace: float) -> None:
        """Take no new requests; finish those in hand, and only then stop giving signs of life."""
        listener, life = self._tasks or (None, None)
        await doors.stop(listener)
        await self._in_hand.drain(grace)
        await doors.stop(life)
        self._be_gone()

    def _prepare(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_folder()
            self._take_lock()
            self._sweep()
            self._beat()
        except OSError as exc:
            raise InvalidArgument(f"the spool folder {self._folder} cannot be used: {exc.strerror}") from exc

    def _check_folder(self) -> None:
        status = self._folder.stat()
        if status.st_mode & 0o007:
            raise InvalidArgument(
                f"the spool folder {self._folder} is open to everybody", hint=f"chmod 700 {self._folder}"
            )
        self._owner = (status.st_uid, status.st_gid)
        self._mode = status.st_mode & 0o660

    def _take_lock(self) -> None:
        lock = os.fdopen(self._open_own(LOCK, 0o600), "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.close()
            raise InvalidArgument(
                f"another sidecar serves the spool folder {self._folder}",
                hint="queries are answered already; pg-embed worker embeds rows alone",
            ) from exc
        self._lock = lock

    async def _listen(self, listening: asyncio.Event) -> None:
        while True:
            try:
                async for name in self._notified(listening) if self._watch else self._polled(listening):
                    await self._take(name)
            except OSError:
                logger.exception("the spool folder cannot be watched", extra={"event": "door_failed"})
                await asyncio.sleep(HEARTBEAT_INTERVAL)

    async def _notified(self, listening: asyncio.Event) -> AsyncIterator[str]:
        from asyncinotify import Inotify, Mask

        with Inotify() as inotify:
            inotify.add_watch(self._folder, Mask.CLOSE_WRITE)
            listening.set()
            for name in self._unanswered():
                yield name
            async for event in inotify:
                if event.mask & Mask.IGNORED:
                    raise FileNotFoundError(f"the folder {self._folder} is gone")
                if event.mask & Mask.Q_OVERFLOW:
                    for name in self._unanswered():
                        yield name
                elif event.name is not None:
                    yield str(event.name)

    async def _polled(self, listening: asyncio.Event) -> AsyncIterator[str]:
        listening.set()
        for name in self._unanswered():
            yield name
        known = {path.name: self._read(path.name) for path in self._folder.glob(f"*{REQUEST}")}
        while True:
            for path in self._folder.glob(f"*{REQUEST}"):
                if _age(path) < POLLED_AGE and (request := self._read(path.name)) != known.get(path.name):
                    known[path.name] = request
                    yield path.name
            await asyncio.sleep(POLL_INTERVAL)

    def _unanswered(self) -> list[str]:
        """Requests that may still be waited for."""
        names = [path.name for path in self._folder.glob(f"*{REQUEST}") if _age(path) < ANSWER_LIFETIME]
        return [name for name in names if not self._is_answered(name)]

    def _is_answered(self, name: str) -> bool:
        request = _ID.search(self._read(name))
        return request is not None and request[1] in self._read(_answer_name(name))[:64]

    def _read(self, name: str) -> bytes:
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return b""
        except OSError as exc:  # a link, or somebody else's file: no request of ours
            logger.warning(
                "%s is passed over: %s", exc.filename, exc.strerror, extra={"event": "request_failed"}
            )
            return b""
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    async def _take(self, name: str) -> None:
        if not name.endswith(REQUEST):
            return
        request = self._read(name)
        if not request.endswith(b"\n"):
            return  # its writer was cancelled, or is not done and will be told of again
        if (before := self._current.get(name)) is not None:
            before.cancel()
        self._current[name] = await self._in_hand.start(self._serve(name, decode_copy(request)))

    async def _serve(self, name: str, request: bytes) -> None:
        try:
            self._write(_answer_name(name), await self._answer(request) + b"\n")
        except OSError as exc:
            log_failure(exc)
        finally:
            if self._current.get(name) is asyncio.current_task():
                del self._current[name]

    def _write(self, name: str, answer: bytes) -> None:
        path = self._folder / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._create(path, answer)
        else:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(answer)

    def _create(self, path: Path, answer: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            if os.geteuid() == 0:  # the database, which owns the folder, is to read it
                os.fchown(descriptor, *self._owner)
            os.fchmod(descriptor, self._mode)
            file.write(answer)
        temporary.rename(path)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            try:
                self._beat()
                await asyncio.to_thread(self._sweep)
            except OSError:
                logger.exception("the spool folder cannot be used", extra={"event": "door_failed"})

    def _beat(self) -> None:
        descriptor = self._open_own(ALIVE, 0o644)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)

    def _open_own(self, name: str, mode: int) -> int:
        """Open a file of ours, made if need be; a link that the folder's owner put there is not followed."""
        return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, mode)

    def _be_gone(self) -> None:
        if self._lock is not None:
            (self._folder / ALIVE).unlink(missing_ok=True)
            self._lock.close()

    def _sweep(self) -> None:
        """Remove the files of sessions that have ended, or asked nothing for long."""
        for path in self._folder.iterdir():
            if path.suffix in SESSION_FILES and _age(path) > IDLE_LIFETIME and not _lives(path.stem):
                path.unlink(missing_ok=True)


def _answer_name(name: str) -> str:
    return name.removesuffix(REQUEST) + ANSWER


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    return True


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
