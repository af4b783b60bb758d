"""Postgres itself as a victim: ways to end it, and its way back."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress

import psutil
import psycopg

from pg_embed.embedded import EmbeddedServer

PATIENCE = 45  # seconds; recovery synchronises every file, and the disk may be somebody else's too
START_TIMEOUT = 120  # seconds


def kill_one(server: EmbeddedServer, rng: random.Random) -> str:
    """Kill the postmaster, whose children then end, or one of them, upon which it starts all of them anew."""
    children = psutil.Process(server.pid).children()
    if children and rng.random() < 0.5:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(children).pid, signal.SIGKILL)
        return "child"
    end(server, signal.SIGKILL)
    return "postmaster"


def end(server: EmbeddedServer, number: signal.Signals) -> None:
    """Send the postmaster a signal that ends it, and wait: SIGINT shuts down fast, SIGQUIT immediately."""
    postmaster = psutil.Process(server.pid)
    with suppress(ProcessLookupError):
        os.kill(postmaster.pid, number)
    psutil.wait_procs([postmaster], timeout=START_TIMEOUT)


def state_of(server: EmbeddedServer) -> str:
    """What runs, and the end of the server's log."""
    running = [(process.pid, process.status(), process.name()) for process in psutil.process_iter()]
    return f"running: {running}, log:\n{server.log_file.read_text(errors='replace')[-5_000:]}"


def bring_up(server: EmbeddedServer, workers: int) -> None:
    """Wait until the server has recovered and has so many workers; start it if it has not survived.

    One that is long in coming back is killed once more, as its operator would do.
    """
    began = time.monotonic()
    patience = PATIENCE
    while True:
        try:
            if not psutil.pid_exists(server.pid):
                server.stop()
                server.start()
            with psycopg.connect(server.dsn(), autocommit=True, connect_timeout=5) as connection:
                while connection.execute("SELECT embed._workers() < %s", (workers,)).fetchone() == (True,):
                    assert time.monotonic() < began + START_TIMEOUT, "the workers do not come back"
                    time.sleep(0.01)
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > began + patience:
                print(f"not back after {patience} s: {error}; {state_of(server)}")
                assert patience < START_TIMEOUT, "the server does not come back"
                patience = START_TIMEOUT
                with suppress(ProcessLookupError):
                    os.kill(server.pid, signal.SIGKILL)
            time.sleep(0.01)
