"""Locks between processes that end with their holder, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pg_embed.errors import PgEmbedError

POLL_INTERVAL = 0.02  # seconds


class FileLock:
    """A lock on a file, shared by many or held by one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take it if it is free; False if somebody else is in the way."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def acquire(self, *, timeout: float, shared: bool = False) -> None:
        """Wait for it, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire(shared=shared):
            if time.monotonic() > deadline:
                raise PgEmbedError(
                    f"another process holds {self._path} for more than {timeout:.0f} seconds",
                    hint="it is starting or stopping the embedded server; look into its log",
                )
            time.sleep(POLL_INTERVAL)

    def share(self) -> None:
        """Let others share what this object holds alone, without a moment in which nobody holds it."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let it go; nothing happens if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def hold(self, *, timeout: float) -> Iterator[None]:
        """Hold it alone for a block."""
        self.acquire(timeout=timeout)
        try:
            yield
        finally:
            self.release()
