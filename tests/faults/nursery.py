"""Workers and sidecars that tests kill, forked from a process that has imported all: they start at once.

As a program it takes a JSON command a line and answers with one; when its input ends, it ends its children.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import uvloop

from pg_embed.engine import Engine, EngineSettings
from pg_embed.jobs.limits import Limits
from pg_embed.models.registry import Registry
from pg_embed.serve.directory import StaticDirectory
from pg_embed.serve.settings import ServeSettings
from pg_embed.serve.sidecar import Sidecar
from pg_embed.worker import Worker, WorkerSettings
from tests.faults.deadly import registry

ROOT = Path(__file__).parents[2]
END_TIMEOUT = 30.0  # seconds that a process is given to end by itself
SIGNALS = {signal.SIGTERM, signal.SIGUSR1}  # those that a child listens to
PATHS = ("socket", "spool", "tcp_token_file", "http_token_file")


class Nursery:
    """Starts, kills and stops processes by pid; one command at a time, whichever thread asks."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery", str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def worker(self, dsn: str, **settings: Any) -> int:
        """Start a worker; the pid comes back at once, the worker is ready soon."""
        return int(self._ask("worker", dsn=dsn, settings=settings))

    def sidecar(self, settings: dict[str, Any]) -> int:
        """Start a sidecar; the pid comes back when its doors are open."""
        return int(self._ask("sidecar", settings=settings))

    def kill(self, pid: int) -> None:
        """End a process with no chance to say goodbye; come back when it is gone."""
        self._ask("kill", pid=pid)

    def died(self, pid: int) -> bool:
        """Whether a process has ended by itself."""
        return bool(self._ask("died", pid=pid))

    def stop(self, pid: int) -> int:
        """Ask a process to stop; its exit code."""
        return int(self._ask("stop", pid=pid))

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal."""
        self._ask("signal", pid=pid, number=int(number))

    def jump(self, wall: float, monotonic: float) -> None:
        """Move the clocks of all children by so many seconds; the monotonic one must not go back."""
        self._ask("jump", wall=wall, monotonic=monotonic)

    def close(self) -> None:
        """End all that is left."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def _ask(self, command: str, **words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(json.dumps({"command": command, **words}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, f"the nursery is gone: {self.log.read_text(encoding='utf-8')[-2000:]}"
        return json.loads(answer)


@contextmanager
def nursery(log: Path) -> Iterator[Nursery]:
    """A nursery whose processes end with the block."""
    opened = Nursery(log)
    try:
        yield opened
    finally:
        opened.close()


class Clocks:
    """What the clocks of all children are ahead of this machine's, in memory that they share."""

    def __init__(self) -> None:
        self._ahead = mmap.mmap(-1, 16)  # of the wall clock and of the monotonic one, seconds
        self._read = (time.time, time.monotonic)

    def jump(self, wall: float, monotonic: float) -> None:
        """Move them."""
        self._ahead[:] = struct.pack("dd", self._of(0) + wall, self._of(1) + monotonic)

    def wear(self) -> None:
        """Let this process see them; what a library bound at its import stays as it is."""
        wall, monotonic = self._read
        time.time = lambda: wall() + self._of(0)
        time.monotonic = lambda: monotonic() + self._of(1)

    def _of(self, place: int) -> float:
        return float(struct.unpack_from("d", self._ahead, 8 * place)[0])


def _work(dsn: str, settings: dict[str, Any], registry: Registry) -> None:
    async def main() -> None:
        limits = Limits(dsn)
        engine = Engine(registry, EngineSettings(), throttle=limits)
        worker = Worker(dsn, engine, WorkerSettings(**settings), limits)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_tasks)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            await limits.open()
            await worker.run()
        finally:
            await engine.close()
            await limits.close()

    uvloop.run(main())


def _tell_tasks() -> None:
    """Write what each task waits for into the log."""
    told = io.StringIO()
    for task in asyncio.all_tasks():
        task.print_stack(file=told)
    logging.getLogger("pg_embed").warning("asked what it does:\n%s", told.getvalue())


def _serve(settings: dict[str, Any], registry: Registry, ready: int) -> None:
    words: dict[str, Any] = {
        name: Path(value) if name in PATHS and value is not None else value
        for name, value in settings.items()
    }

    async def main() -> None:
        engine = Engine(registry, EngineSettings())
        sidecar = Sidecar(engine, ServeSettings(**words), directory=StaticDirectory([]))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            await sidecar.start()
            os.write(ready, b"1")
            await stop.wait()
            await sidecar.stop()
        finally:
            await engine.close()

    uvloop.run(main())


class _Parent:
    """The process behind a `Nursery`."""

    def __init__(self) -> None:
        self._registry = registry()
        self._children: set[int] = set()
        self._clocks = Clocks()

    def run(self, commands: TextIO, answers: TextIO) -> None:
        try:
            for line in commands:
                words = json.loads(line)
                answer = getattr(self, "_" + words.pop("command"))(**words)
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
        finally:
            for pid in list(self._children):
                self._kill(pid)

    def _worker(self, dsn: str, settings: dict[str, Any]) -> int:
        return self._fork(lambda: _work(dsn, settings, self._registry))

    def _sidecar(self, settings: dict[str, Any]) -> int:
        opened, ready = os.pipe()
        pid = self._fork(lambda: _serve(settings, self._registry, ready))
        os.close(ready)
        os.read(opened, 1)  # nothing, when it ended before it was ready: then its first call will tell
        os.close(opened)
        return pid

    def _fork(self, task: Any) -> int:
        # a child that is asked to stop before it listens must not die of it
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._children.add(pid)
            return pid
        code = 1
        try:
            with Path(os.devnull).open("r+b") as nothing:
                os.dup2(nothing.fileno(), 0)
                os.dup2(nothing.fileno(), 1)
            logging.raiseExceptions = False  # a full disk holds no log, either
            self._clocks.wear()
            task()
            code = 0
        except BaseException:
            logging.getLogger("pg_embed").exception("process %s failed", os.getpid())
        finally:
            os._exit(code)

    def _kill(self, pid: int) -> int:
        if pid in self._children:
            self._children.discard(pid)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return 0

    def _died(self, pid: int) -> bool:
        if pid in self._children and os.waitpid(pid, os.WNOHANG)[0] == pid:
            self._children.discard(pid)
        return pid not in self._children

    def _stop(self, pid: int) -> int:
        self._children.discard(pid)
        os.kill(pid, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _signal(self, pid: int, number: int) -> int:
        os.kill(pid, number)
        return 0

    def _jump(self, wall: float, monotonic: float) -> int:
        self._clocks.jump(wall, monotonic)
        return 0


def main(log: str) -> None:
    """Serve the test that started us."""
    logging.basicConfig(
        filename=log, level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for every call
    _Parent().run(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
