"""Claiming from a queue of 10,000,000 rows over one of 10,000, and `embed.status` on it.

Rows come packed, 240 keys an entry, as INSERT and COPY of many rows leave them, or single, one key an entry,
as single-row writers do. `python -m benchmarks.queue [--rows 10000000] [--claims 40] [--json]`
"""

from __future__ import annotations

import time

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, interleave, log
from benchmarks.postgres import Connection, Server, create_table, one, postgres

SMALL = 10_000  # rows
CLAIM = 240  # rows a claim
CLAIMED = (
    "SELECT cardinality(entries) FROM embed._claim_v1(1, %(vectorizer)s, 1, %(rows)s, interval '10 minutes')"
)
FILL = {
    "packed": """
        INSERT INTO embed._queue (vectorizer_id, keys, n)
        SELECT %(vectorizer)s, ARRAY(SELECT k::text FROM generate_series(g, least(g + 239, %(rows)s)) AS k),
            least(240, %(rows)s - g + 1)
        FROM generate_series(1, %(rows)s, 240) AS g""",
    "single": """
        INSERT INTO embed._queue (vectorizer_id, keys, n)
        SELECT %(vectorizer)s, ARRAY[g::text], 1 FROM generate_series(1, %(rows)s) AS g""",
}


class Queue:
    """A database whose queue holds so many rows of one vectorizer."""

    def __init__(self, server: Server, name: str, shape: str, count: int) -> None:
        dsn = server.create_database(name)
        ours.install(dsn)
        self.connection: Connection = psycopg.connect(dsn, autocommit=True)
        ours.create_fake(self.connection)
        create_table(self.connection)
        ours.vectorize(self.connection, "docs")
        self.connection.execute("TRUNCATE embed._backfill")
        self.vectorizer = one(self.connection, "SELECT id FROM embed._vectorizer")
        log(f"filling a queue with {count:,} rows, {shape}")
        self.connection.execute(FILL[shape].encode(), {"vectorizer": self.vectorizer, "rows": count})
        self.connection.execute("VACUUM ANALYZE embed._queue")

    def claim(self) -> float:
        """Milliseconds of one claim, committed."""
        start = time.perf_counter()
        entries = one(self.connection, CLAIMED, {"vectorizer": self.vectorizer, "rows": CLAIM})
        elapsed = (time.perf_counter() - start) * 1000
        if not entries:
            raise RuntimeError("nothing was claimed")
        return elapsed

    def status(self) -> float:
        """Milliseconds of embed.status."""
        start = time.perf_counter()
        self.connection.execute("SELECT * FROM embed.status").fetchall()
        return (time.perf_counter() - start) * 1000


def main() -> None:
    options = arguments("Claims and status on a long queue", rows=10_000_000, claims=40, looks=5).parse_args()
    with postgres() as server:
        report = Report(
            f"A queue of {options.rows:,} rows over one of {SMALL:,}: claims of {CLAIM} rows",
            server.conditions(),
        )
        for shape in FILL:
            small, large = (
                Queue(server, f"{size}_queue", shape, count)
                for size, count in (("small", SMALL), ("large", options.rows))
            )
            # the small queue must not run dry: claims of packed entries take one entry of 240 rows each
            claims = min(options.claims, SMALL // CLAIM - 1)
            samples = interleave(claims, {"small": small.claim, "large": large.claim})
            sides = ((f"{options.rows:,}", samples["large"]), (f"{SMALL:,}", samples["small"]))
            report.ratio(f"claim, {shape}", *sides, "ms", at_most(2))
            looks = [large.status() for _ in range(options.looks)]
            report.figure(f"embed.status, {shape}", looks, "ms", at_most(100))
            for queue in (small, large):
                queue.connection.close()
    report.finish(options.json)


if __name__ == "__main__":
    main()
