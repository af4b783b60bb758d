"""Rows a second of pg_embed's whole path: a table, a vectorizer, one warm worker process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks import ours
from benchmarks.postgres import Connection, Server, copy_rows, create_table, one
from benchmarks.texts import rows

WARM_UP_ROWS = 64


@dataclass
class Cycle:
    """Measures on a fresh database each time; the worker is warm and waits when the clock starts."""

    server: Server
    family: str
    options: Mapping[str, Any]

    def backfill(self, count: int) -> float:
        """Rows a second from the creation of a vectorizer on a full table to its last vector."""
        return self._run(count, live=False)

    def live(self, count: int) -> float:
        """Rows a second from the start of a COPY into a table with a vectorizer to the last vector."""
        return self._run(count, live=True)

    def _run(self, count: int, *, live: bool) -> float:
        dsn = self.server.create_database("ours_side")
        ours.install(dsn)
        texts = rows(count)
        with psycopg.connect(dsn, autocommit=True) as connection:
            ours.create_model(connection, "model", self.family, self.options)
            create_table(connection, "warm_up", WARM_UP_ROWS)
            create_table(connection, "docs", 0 if live else count)
            ours.vectorize(connection, "warm_up", "model")
            with ours.worker(dsn):
                ours.wait_until_done(connection)
                time.sleep(0.3)  # let it become idle
                if live:
                    ours.vectorize(connection, "docs", "model")
                    ours.wait_until_done(connection)
                start = time.perf_counter()
                self._begin(connection, texts, live=live)
                ours.wait_until_done(connection)
                seconds = time.perf_counter() - start
            self._check(connection, count)
        return count / seconds

    @staticmethod
    def _begin(connection: Connection, texts: list[str], *, live: bool) -> None:
        if live:
            copy_rows(connection, texts)
        else:
            ours.vectorize(connection, "docs", "model")

    @staticmethod
    def _check(connection: Connection, count: int) -> None:
        done = one(connection, "SELECT count(embedding) FROM docs")
        if done != count:
            raise RuntimeError(f"{done} of {count} rows have a vector")
