"""Running `pg-embed` as a person does: in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from pg_embed.embedded.binaries import find_binaries

COMMAND = str(Path(sys.executable).with_name("pg-embed"))
TIMEOUT = 110.0  # seconds


def pg_embed(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=_environment(environment),
    )


def succeeds(*arguments: str | Path, **environment: str) -> str:
    """Its standard output; a failure fails the test."""
    done = pg_embed(*arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def as_json(*arguments: str | Path) -> Any:
    """What it prints with `--json`."""
    return json.loads(succeeds(*arguments, "--json"))


def _environment(changes: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "COLUMNS": "200", **changes}


def psql(dsn: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run a script; its first error ends it."""
    program = shutil.which("psql") or str(find_binaries() / "bin" / "psql")
    command = [program, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", dsn]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)


class Running:
    """One that runs until it is stopped."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(environment),
            preexec_fn=_hear_interrupts,
        )
        self._told: SimpleQueue[tuple[str, str | None]] = SimpleQueue()
        self.said: list[str] = []
        for name in ("stdout", "stderr"):
            threading.Thread(target=self._read, args=(name,), daemon=True).start()

    def wait_for(self, words: str, stream: str = "stderr") -> str:
        """The next line with these words; the test fails if the stream ends first."""
        while True:
            try:
                name, line = self._told.get(timeout=TIMEOUT)
            except Empty:
                raise AssertionError(f"nobody said {words!r}: {self.said}") from None
            if line is None and name == stream:
                raise AssertionError(f"it ended without {words!r}: {self.said}")
            if line is not None:
                self.said.append(line)
                if name == stream and words in line:
                    return line

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and wait for the exit status."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)

    def _read(self, name: str) -> None:
        stream = getattr(self.process, name)
        with stream:
            for line in stream:
                self._told.put((name, line))
        self._told.put((name, None))


@contextmanager
def running(*arguments: str | Path, **environment: str) -> Iterator[Running]:
    """A process for a block, killed at the end if it is still there."""
    process = Running(*arguments, **environment)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait(TIMEOUT)


def _hear_interrupts() -> None:
    """A shell that runs the tests in the background lets its children ignore SIGINT; a terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
