"""Indexes over vectors, built one at a time in a database, outside transactions."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pg_embed import statements
from pg_embed.db import APPLICATION_NAME, CONNECT_TIMEOUT, KEEPALIVE
from pg_embed.errors import PgEmbedError
from pg_embed.jobs.niceness import give_way

SQL = statements.load("jobs")
SESSION = {"default_transaction_read_only": "off"}
EVERYBODY = 0  # the number of the lock that lets one build run at a time; vectorizers count from 1


@dataclass(frozen=True)
class IndexJob:
    """An index that can be built now."""

    vectorizer: int
    name: str
    may_build: bool  # whether whoever asked may; only the owner of the table may
    failures: int
    idle: float | None  # seconds since the last attempt; None before the first
    steps: tuple[str, ...]  # statements, one by one, each outside a transaction
    memory: int | None  # bytes of maintenance_work_mem; None leaves the server's
    workers: int | None  # parallel workers; None leaves the server's


def index_job(row: Mapping[str, Any]) -> IndexJob:
    """A row of the statement `index_todo`."""
    return IndexJob(
        vectorizer=row["vectorizer"],
        name=row["name"],
        may_build=row["may_build"],
        failures=row["tries"],
        idle=row["idle_seconds"],
        steps=tuple(row["statements"]),
        memory=row["build_memory"],
        workers=row["workers"],
    )


class IndexBuild:
    """One build, for a thread of its own; `cancel` ends it from another."""

    def __init__(self, dsn: str, vectorizer: str) -> None:
        self._dsn = dsn
        self._vectorizer = vectorizer
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self._cancelled = False

    def run(self) -> bool:
        """Build the vectorizer's index; False when there is none to build, or another is being built.

        An error of psycopg's is noted in the catalog, and passes. The next build removes what is left of one
        that was cut off.
        """
        with self._connect() as connection:
            self._connection = connection
            try:
                return self._run(connection)
            finally:
                with suppress(psycopg.Error):
                    connection.execute(SQL["index_unlock"])

    def cancel(self) -> None:
        """End it soon, whether or not the server can be reached."""
        self._cancelled = True
        if self._connection is not None:
            try:
                self._connection.cancel_safe(timeout=CONNECT_TIMEOUT)
            except psycopg.Error:
                _hang_up(self._connection)

    def _run(self, connection: psycopg.Connection[dict[str, Any]]) -> bool:
        if self._cancelled or not self._lock(connection, EVERYBODY):
            return False
        job = self._job(connection)
        if job is None or not self._lock(connection, job.vectorizer):
            return False
        if not job.may_build:
            raise PgEmbedError(
                f"only the owner of the table may build the index of {job.name}",
                hint=f"run this as that role, or there: {'; '.join(job.steps)};",
            )
        try:
            self._build(connection, job)
        except psycopg.Error as exc:
            if not self._cancelled:
                self._note(job, exc.diag.message_primary or str(exc))
            raise
        connection.execute(SQL["index_done"], _outcome(job, None))
        return True

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        connection = psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT,
            application_name=f"{APPLICATION_NAME} index",
            row_factory=dict_row,
            **KEEPALIVE,  # type: ignore[arg-type]
        )
        connection.execute(SQL["session"], {"settings": Jsonb(SESSION)})
        return connection

    def _lock(self, connection: psycopg.Connection[dict[str, Any]], number: int) -> bool:
        row = connection.execute(SQL["index_lock"], {"number": number}).fetchone()
        return row is not None and bool(row["pg_try_advisory_lock"])

    def _job(self, connection: psycopg.Connection[dict[str, Any]]) -> IndexJob | None:
        row = connection.execute(SQL["index_todo"], {"vectorizer": self._vectorizer}).fetchone()
        return index_job(row) if row else None

    def _build(self, connection: psycopg.Connection[dict[str, Any]], job: IndexJob) -> None:
        connection.execute(SQL["index_session"])
        memory = None if job.memory is None else f"{job.memory // 1024}kB"
        connection.execute(SQL["index_resources"], {"memory": memory, "workers": job.workers})
        if job.workers == 0:  # as a switch's, which leaves room for searches
            give_way(connection)
        for step in job.steps:
            connection.execute(step.encode())

    def _note(self, job: IndexJob, error: str) -> None:
        with suppress(psycopg.Error), self._connect() as connection:  # the other one may be lost
            connection.execute(SQL["index_done"], _outcome(job, error))


def _hang_up(connection: psycopg.Connection[Any]) -> None:
    """Let the thread that waits for an answer wait no longer: a silent network would keep it for long."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _outcome(job: IndexJob, error: str | None) -> dict[str, Any]:
    return {"vectorizer": job.vectorizer, "error": error, "needs_owner": False}
