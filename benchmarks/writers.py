"""Eight concurrent writers of single rows: bare over with a vectorizer, a worker idle and busy.

Two kinds of lines. *Alone*: no worker takes the machine's cores; a session that only listens stands in for an
idle one, as a worker does (it holds the lock that says "call me" until it is called). *Real worker*: a
`pg-embed worker` process with the fake model beside the writers, on both sides; it embeds what they write, on
the same cores. `python -m benchmarks.writers [--clients 8] [--seconds 4] [--repeats 3] [--json]`
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg

from benchmarks import ours
from benchmarks.common import Goal, Report, arguments, at_most, interleave, log
from benchmarks.postgres import Connection, Server, create_table, one, pgbench, postgres
from benchmarks.texts import rows

SCRIPT = "\\set n random(1, 1000000000)\nINSERT INTO {table} (title, body) VALUES ('title', {body} || :n);\n"
TABLES = {"on": "docs", "off": "bare"}
GOAL = at_most(1.25)


class Writers:
    """pgbench over one of the tables; each measurement begins with empty tables and an empty queue."""

    def __init__(self, connection: Connection, dsn: str, options: argparse.Namespace) -> None:
        self.connection, self.dsn = connection, dsn
        self.clients, self.seconds, self.repeats = options.clients, options.seconds, options.repeats
        self.body = psycopg.sql.Literal(rows(1)[0][:440]).as_string(connection)

    def tps(self, side: str, *, synchronous: bool) -> float:
        self.connection.execute("TRUNCATE docs, bare")
        self.connection.execute(
            "DELETE FROM embed._queue WHERE vectorizer_id = %s", (self.vectorizer("docs"),)
        )
        script = SCRIPT.format(table=TABLES[side], body=self.body)
        dsn = f"{self.dsn}&options=-csynchronous_commit%3D{'on' if synchronous else 'off'}"
        return pgbench(dsn, script, self.clients, self.seconds)

    def vectorizer(self, table: str) -> int:
        statement = "SELECT id FROM embed._vectorizer WHERE source = %(table)s::regclass"
        return int(one(self.connection, statement, {"table": table}))

    def compare(self, report: Report, name: str, goal: Goal | None, *, synchronous: bool = True) -> None:
        samples = interleave(
            self.repeats, {side: partial(self.tps, side, synchronous=synchronous) for side in TABLES}
        )
        report.ratio(name, ("bare", samples["off"]), ("with", samples["on"]), "tps", goal)


@contextmanager
def stand_in(dsn: str) -> Iterator[None]:
    """A session that says it is idle and listens, as an idle worker does, and never wakes up."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"SELECT pg_advisory_lock({ours.IDLE_LOCK})")
        connection.execute(f"LISTEN {ours.CHANNEL}")
        yield


def prepare(server: Server, backlog: int) -> str:
    dsn = server.create_database()
    ours.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        ours.create_fake(connection)
        create_table(connection, "docs")
        create_table(connection, "bare")
        ours.vectorize(connection, "docs")
        create_table(connection, "backlog", backlog)
    return dsn


def main() -> None:
    parser = arguments("Single-row writers with a vectorizer over without", clients=8, seconds=4, repeats=3)
    parser.add_argument("--backlog", type=int, default=600_000, help="rows that keep the busy worker busy")
    parser.add_argument("--alone", action="store_true", help="leave the real worker out")
    options = parser.parse_args()
    with postgres() as server:
        dsn = prepare(server, 0 if options.alone else options.backlog)
        report = Report(
            f"{options.clients} writers of single rows: bare over with a vectorizer",
            {**server.conditions(), "run": f"{options.repeats} × {options.seconds} s, interleaved, pgbench"},
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            writers = Writers(connection, dsn, options)
            for synchronous in (True, False):
                commit = f"synchronous_commit {'on' if synchronous else 'off'}"
                goal = GOAL if synchronous else None
                writers.compare(report, f"alone, no idle worker, {commit}", goal, synchronous=synchronous)
                with stand_in(dsn):
                    writers.compare(report, f"alone, worker asleep, {commit}", None, synchronous=synchronous)
            if not options.alone:
                with ours.worker(dsn):
                    writers.compare(report, "real worker, idle at first", GOAL)
                    log("starting a backfill to keep the worker busy")
                    ours.vectorize(connection, "backlog")
                    writers.compare(report, "real worker, busy with a backfill", GOAL)
                    report.conditions["backlog left"] = ours.pending(connection)
    report.finish(options.json)


if __name__ == "__main__":
    main()
