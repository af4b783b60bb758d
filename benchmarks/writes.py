"""What a vectorizer costs the writer: INSERT, COPY and UPDATE of 20,000 rows, with one over without.

`python -m benchmarks.writes [--rows 20000] [--repeats 7] [--json]`
"""

from __future__ import annotations

import time
from functools import partial

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, interleave
from benchmarks.postgres import Connection, Server, create_table, postgres
from benchmarks.texts import rows

SIDES = {"on": "docs", "off": "bare"}
INSERT = "INSERT INTO {table} (title, body) SELECT title, body FROM source ORDER BY id"
COPY = "COPY {table} (title, body) FROM STDIN"
UPDATE_OTHER = "UPDATE {table} SET title = title || '.'"
UPDATE_TEXT = "UPDATE {table} SET body = body || '.'"


class Writer:
    """Runs one statement on one of the two tables, from a state that is the same each time."""

    def __init__(self, connection: Connection, count: int) -> None:
        self.connection = connection
        self.lines = "".join(f"{_escape(text[:40])}\t{_escape(text)}\n" for text in rows(count)).encode()

    def insert(self, side: str) -> float:
        self._empty()
        return self._time(INSERT, side)

    def copy(self, side: str) -> float:
        self._empty()
        start = time.perf_counter()
        with self.connection.cursor() as cursor, cursor.copy(COPY.format(table=SIDES[side]).encode()) as copy:
            copy.write(self.lines)
        return time.perf_counter() - start

    def update_other(self, side: str) -> float:
        self._fill(side)
        return self._time(UPDATE_OTHER, side)

    def update_text(self, side: str) -> float:
        self._fill(side)
        return self._time(UPDATE_TEXT, side)

    def _empty(self) -> None:
        self.connection.execute("TRUNCATE docs, bare, embed._queue")

    def _fill(self, side: str) -> None:
        self._empty()
        self.connection.execute(INSERT.format(table=SIDES[side]).encode())
        self.connection.execute("TRUNCATE embed._queue")
        self.connection.execute(f"VACUUM ANALYZE {SIDES[side]}".encode())

    def _time(self, statement: str, side: str) -> float:
        start = time.perf_counter()
        self.connection.execute(statement.format(table=SIDES[side]).encode())
        return time.perf_counter() - start


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\")


def prepare(server: Server, count: int) -> Connection:
    dsn = server.create_database()
    ours.install(dsn)
    connection: Connection = psycopg.connect(dsn, autocommit=True)
    create_table(connection, "source", count)
    create_table(connection, "docs")
    create_table(connection, "bare")
    ours.create_fake(connection)
    ours.vectorize(connection, "docs")
    return connection


def main() -> None:
    options = arguments("Writes with a vectorizer over without", rows=20_000, repeats=7).parse_args()
    with postgres() as server, prepare(server, options.rows) as connection:
        report = Report(
            f"Writes of {options.rows:,} rows of 450 characters in one statement, vectorizer on over off",
            {**server.conditions(), "repeats": f"{options.repeats}, interleaved", "worker": "none"},
        )
        writer = Writer(connection, options.rows)
        for name, measure, goal in (
            ("INSERT", writer.insert, at_most(1.35)),
            ("COPY", writer.copy, at_most(1.35)),
            ("UPDATE of another column", writer.update_other, at_most(1.10)),
            ("UPDATE of the text", writer.update_text, None),
        ):
            samples = interleave(options.repeats, {side: partial(measure, side) for side in SIDES})
            report.ratio(name, ("on", samples["on"]), ("off", samples["off"]), "s", goal)
    report.finish(options.json)


if __name__ == "__main__":
    main()
