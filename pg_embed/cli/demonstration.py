"""What the demo does in the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pg_embed import db, statements
from pg_embed.cli.docstrings import collect, edition
from pg_embed.errors import PgEmbedError

INTERVAL = 0.25  # seconds between two looks
PATIENCE = 90.0  # seconds without a new vector after which something is wrong


class Demonstration:
    """Steps, each of which may be interrupted and done again."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._sql = statements.load("demo")

    def load(self, limit: int | None) -> int:
        """Make the table with its texts and its vectorizer unless they are there; the number of texts."""
        wanted = edition(limit)
        with self._connected(autocommit=False) as connection:
            there = connection.execute(self._sql["loaded"]).fetchone()
            if there is None or there["edition"] != wanted:
                self._fill(connection, wanted, limit)
            connection.execute(self._sql["vectorize"])
            connection.execute(self._sql["retry"])
            return int(self._count(connection)["rows"])

    def progress(self, check: Callable[[], None]) -> Iterator[tuple[int, int]]:
        """How many rows have vectors, of how many, until all have; `check` raises if nobody works on them."""
        best, since = -1, time.monotonic()
        with self._connected() as connection:
            while True:
                check()
                count = self._count(connection)
                yield count["embedded"], count["rows"]
                if count["embedded"] >= count["rows"]:
                    return
                if count["embedded"] > best:
                    best, since = count["embedded"], time.monotonic()
                if count["failed"] or time.monotonic() - since > PATIENCE:
                    raise PgEmbedError(f"rows cannot be embedded: {self._trouble(connection)}")
                time.sleep(INTERVAL)

    def build_index(self) -> None:
        """After the vectors are there: many times quicker than before."""
        with self._connected() as connection:
            connection.execute(self._sql["index"])

    def ask(self, question: str) -> dict[str, Any]:
        """A question, the SQL that asks it, and its answers."""
        with self._connected() as connection:
            text = self._sql["search"].partition("\n")[2]  # without its comment
            query = sql.SQL(text).format(question=sql.Literal(question)).as_string(connection)
            return {"question": question, "sql": query, "rows": connection.execute(query.encode()).fetchall()}

    def _fill(self, connection: psycopg.Connection[dict[str, Any]], wanted: str, limit: int | None) -> None:
        connection.execute(self._sql["drop"])
        connection.execute(self._sql["create"])
        with connection.cursor() as cursor, cursor.copy(self._sql["copy"]) as copy:
            for docstring in collect(limit):
                copy.write_row(docstring)
        connection.execute(sql.SQL(self._sql["comment"]).format(edition=sql.Literal(wanted)))

    def _count(self, connection: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
        return connection.execute(self._sql["progress"]).fetchone() or {}

    def _trouble(self, connection: psycopg.Connection[dict[str, Any]]) -> str:
        row = connection.execute(self._sql["trouble"]).fetchone()
        return (row and row["trouble"]) or "nothing happens"

    @contextmanager
    def _connected(self, *, autocommit: bool = True) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        with (
            db.connect(self._dsn, autocommit=autocommit, row_factory=dict_row) as connection,
            db.translated(),
        ):
            yield connection
