"""From COMMIT to the vector being visible to another session: an idle worker, then one with a backfill.

`python -m benchmarks.freshness [--samples 200] [--backfill 1000000] [--json]`; 0 leaves the backfill out.
"""

from __future__ import annotations

import random
import time

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most
from benchmarks.postgres import Connection, create_table, one, postgres
from benchmarks.texts import rows

PAUSE = (
    0.02,
    0.08,
)  # seconds between two samples: the worker goes idle, and the samples do not march in step
LOOK_INTERVAL = 0.0005  # seconds
PATIENCE = 30.0  # seconds
LONGEST = 40.0  # seconds of one measurement
WARM_UP = 5  # samples


def sample(writer: Connection, reader: Connection, text: str) -> float:
    """Milliseconds from the end of a commit until another session sees the vector."""
    key = one(writer, "INSERT INTO docs (title, body) VALUES ('live', %(text)s) RETURNING id", {"text": text})
    committed = time.perf_counter()
    while not one(reader, "SELECT embedding IS NOT NULL FROM docs WHERE id = %(key)s", {"key": key}):
        if time.perf_counter() - committed > PATIENCE:
            raise TimeoutError(f"row {key} has no vector after {PATIENCE:.0f} s")
        time.sleep(LOOK_INTERVAL)
    return (time.perf_counter() - committed) * 1000


def samples(dsn: str, count: int, first: int) -> list[float]:
    """Up to `count` samples, fewer where they take long."""
    found: list[float] = []
    end = time.monotonic() + LONGEST
    with psycopg.connect(dsn, autocommit=True) as writer, psycopg.connect(dsn, autocommit=True) as reader:
        for text in rows(count + WARM_UP, first):
            found.append(sample(writer, reader, text))
            time.sleep(random.uniform(*PAUSE))
            if time.monotonic() > end:
                break
    return found[WARM_UP:]


def main() -> None:
    options = arguments("Commit to visible vector", samples=200, backfill=1_000_000).parse_args()
    with postgres() as server:
        dsn = server.create_database()
        ours.install(dsn)
        report = Report("From COMMIT to a visible vector, fake model, one worker", server.conditions())
        with psycopg.connect(dsn, autocommit=True) as connection:
            ours.create_fake(connection)
            create_table(connection, "docs")
            ours.vectorize(connection, "docs")
            with ours.worker(dsn):
                ours.wait_until_done(connection)
                idle = samples(dsn, options.samples, 0)
                report.figure("idle worker, p50", idle, "ms", at_most(20))
                report.figure("idle worker, p95", idle, "ms", at_most(60), quantile=0.95)
                if options.backfill:
                    create_table(connection, "old", options.backfill)
                    ours.vectorize(connection, "old")
                    time.sleep(1)
                    busy = samples(dsn, options.samples, options.samples)
                    left = ours.pending(connection)
                    report.conditions["backfill"] = f"{options.backfill:,} rows, {left:,} left at the end"
                    name = f"during a backfill of {options.backfill:,} rows"
                    report.figure(f"{name}, p50", busy, "ms")
                    report.figure(f"{name}, p95", busy, "ms", at_most(250), quantile=0.95)
    report.finish(options.json)


if __name__ == "__main__":
    main()
