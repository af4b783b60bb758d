"""The p95 of embed() while a backfill runs in the same sidecar over the p95 when nothing does, real MiniLM.

`python -m benchmarks.query_under_backfill [--samples 150] [--rows 5000] [--json]`
"""

from __future__ import annotations

import random
import time

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, percentile
from benchmarks.postgres import Connection, create_table, one, postgres

PAUSE = (0.0, 0.1)  # seconds between two questions
WARM_UP = 10
PATIENCE = 60.0  # seconds
DONE = "SELECT count(embedding) FROM docs"


def questions(connection: Connection, count: int, name: str) -> list[float]:
    """Milliseconds of embed() for distinct questions, one after another."""
    found = []
    for number in range(count + WARM_UP):
        question = f"how do I read row {number} of a csv file ({name})"
        start = time.perf_counter()
        one(connection, "SELECT embed(%(question)s) IS NULL", {"question": question})
        found.append((time.perf_counter() - start) * 1000)
        time.sleep(random.uniform(*PAUSE))
    return found[WARM_UP:]


def wait_for_batch(connection: Connection, patience: float) -> float:
    """Seconds until the backfill brings more vectors than it has now, at most `patience`."""
    start = time.perf_counter()
    before = one(connection, DONE)
    while one(connection, DONE) == before and time.perf_counter() - start < patience:
        time.sleep(0.05)
    return time.perf_counter() - start


def main() -> None:
    options = arguments("Queries during a backfill", samples=150, rows=5_000).parse_args()
    with postgres() as server:
        dsn = server.create_database()
        report = Report("embed() during a backfill over idle, all-MiniLM-L6-v2, spool", server.conditions())
        with (
            ours.sidecar(server, dsn, "spool", worker=True),
            psycopg.connect(dsn, autocommit=True) as connection,
        ):
            ours.create_model(connection, "minilm", "sentence_transformers", ours.MINILM)
            create_table(connection, "docs", options.rows)
            idle = questions(connection, options.samples, "idle")
            ours.vectorize(connection, "docs", "minilm")
            wait_for_batch(connection, PATIENCE)  # the first tells it how large one should be
            wait_for_batch(connection, PATIENCE)
            before, start = one(connection, DONE), time.perf_counter()
            busy = questions(connection, options.samples, "busy")
            seconds = time.perf_counter() - start
            # a batch was under way at both ends: the vectors of the last are counted with the time they took
            seconds += wait_for_batch(connection, PATIENCE)
            done = one(connection, DONE)
        if done == options.rows:
            raise RuntimeError("the backfill ended before the questions: give it more rows")
        rate = (done - before) / seconds
        report.figure("idle, p50", idle, "ms")
        report.figure("during the backfill, p50", busy, "ms")
        report.figure("backfill meanwhile", [rate], "rows/s")
        report.ratio(
            "p95",
            ("backfill", [percentile(busy, 0.95)]),
            ("idle", [percentile(idle, 0.95)]),
            "ms",
            at_most(3),
        )
    report.finish(options.json)


if __name__ == "__main__":
    main()
