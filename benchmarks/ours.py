"""pg_embed as the side that is measured: installed by its command, worked by its own processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from benchmarks.postgres import Connection, Server, one
from pg_embed.records import Card, ModelSpec

COMMAND = Path(sys.executable).with_name("pg-embed")
DIMENSIONS = 384
MINILM = {"checkpoint": "sentence-transformers/all-MiniLM-L6-v2"}
IDLE_LOCK = "1885695330, 1"  # the advisory lock of an idle worker: sql/functions/30_triggers.sql
CHANNEL = "pg_embed_work"
TIMEOUT = 300.0  # seconds
START_TIMEOUT = 30.0  # seconds
STOP_TIMEOUT = 30.0  # seconds
POLL_INTERVAL = 0.01  # seconds


def install(dsn: str, transport: str | None = "none", settings: Mapping[str, Any] | None = None) -> None:
    """What `pg-embed install` does."""
    from pg_embed.install.installer import install

    install(dsn, transport=transport, settings=settings)


def create_fake(connection: Connection, name: str = "fake", dimensions: int = DIMENSIONS) -> None:
    """The deterministic model that costs next to nothing."""
    create_model(connection, name, "fake", {"dimensions": dimensions})


def create_model(connection: Connection, name: str, family: str, options: Mapping[str, Any]) -> None:
    """A model with the card that its family gives; no sidecar is asked."""
    described = json.dumps(card(family, options).as_dict())
    connection.execute(
        "SELECT embed.create_model(%s, %s, %s, card => %s)", (name, family, json.dumps(options), described)
    )


def card(family: str, options: Mapping[str, Any]) -> Card:
    """The card of a model, which is loaded for it and let go."""
    from pg_embed.models.registry import default_registry

    model = default_registry().load(ModelSpec("model", family, options))
    try:
        return model.card
    finally:
        model.close()


def vectorize(connection: Connection, table: str, model: str = "fake") -> None:
    """A vectorizer of the table's bodies."""
    connection.execute(
        "SELECT embed.create_vectorizer(%s::regclass, 'body'::text, model => %s)", (table, model)
    )


@contextmanager
def worker(dsn: str) -> Iterator[subprocess.Popen[bytes]]:
    """`pg-embed worker`."""
    with _running("worker", dsn) as process:
        yield process


@contextmanager
def sidecar(server: Server, dsn: str, transport: str, *, worker: bool = False) -> Iterator[None]:
    """pg_embed installed with this transport, and `pg-embed serve` with the door that it needs."""
    with TemporaryDirectory(prefix="pg_embed_bench_") as folder:
        Path(folder).chmod(0o711)
        socket = str(Path(folder) / "socket")
        settings, door = {
            "plpython": ({"socket": socket}, ["--socket", socket, "--socket-mode", "0666"]),
            "spool": ({"directory": str(server.spool)}, ["--spool", str(server.spool)]),
            "dblink": ({}, ["--mailbox"]),
        }[transport]
        install(dsn, transport, settings)
        with _running("serve", dsn, *door, "--worker" if worker else "--no-worker"):
            _wait_for_sidecar(dsn)
            yield


@contextmanager
def _running(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that stays, in its own process, stopped at the end."""
    process = subprocess.Popen([str(COMMAND), *words], env={**os.environ, "PG_EMBED_LOG_LEVEL": "warning"})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_sidecar(dsn: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            try:
                connection.execute('SELECT embed._ask(\'{"op": "ping"}\')')
                return
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def pending(connection: Connection) -> int:
    """Rows that wait or are in hand."""
    return int(
        one(
            connection,
            """SELECT COALESCE((SELECT sum(n) FROM embed._queue), 0)
                    + COALESCE((SELECT sum(COALESCE(rows_left, 1)) FROM embed._backfill), 0)""",
        )
    )


def wait_until_done(connection: Connection, timeout: float = TIMEOUT) -> None:
    """Wait until no row waits: a cheap question, asked often."""
    deadline = time.monotonic() + timeout
    question = "SELECT NOT EXISTS (SELECT FROM embed._queue) AND NOT EXISTS (SELECT FROM embed._backfill)"
    while not one(connection, question):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{pending(connection)} rows still wait after {timeout:.0f} s")
        time.sleep(POLL_INTERVAL)
