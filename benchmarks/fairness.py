"""From COMMIT to the visible vector of a row in one of six tables, while four other vectorizers have trouble.

One has a provider that hangs, one a provider that always fails, one a backfill by a slow model, and one a
backfill by the very model of the six. `python -m benchmarks.fairness [--samples 200] [--backfill 1000000]`
"""

from __future__ import annotations

import itertools
import random
import time

import psycopg
from psycopg import sql

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, percentile
from benchmarks.freshness import LONGEST, LOOK_INTERVAL, PATIENCE, PAUSE, WARM_UP
from benchmarks.postgres import Connection, copy_rows, create_table, one, postgres
from benchmarks.texts import rows

TABLES = [f"docs_{number}" for number in range(6)]
BROKEN_ROWS = 2_000
MODELS = {
    "hanging": {"delay": 10.0},  # seconds a call
    "failing": {"unavailable_on": " "},
    "slow": {"delay": 0.5, "max_batch_items": 64},
}


def sample(writer: Connection, reader: Connection, table: str, text: str) -> float:
    """Milliseconds from the end of a commit until another session sees the vector."""
    name = sql.Identifier(table)
    insert = sql.SQL("INSERT INTO {} (title, body) VALUES ('live', %(text)s) RETURNING id").format(name)
    look = sql.SQL("SELECT embedding IS NOT NULL FROM {} WHERE id = %(key)s").format(name)
    key = one(writer, insert.as_string(writer), {"text": text})
    committed = time.perf_counter()
    question = look.as_string(reader)
    while not one(reader, question, {"key": key}):
        if time.perf_counter() - committed > PATIENCE:
            raise TimeoutError(f"row {key} of {table} has no vector after {PATIENCE:.0f} s")
        time.sleep(LOOK_INTERVAL)
    return (time.perf_counter() - committed) * 1000


def samples(dsn: str, count: int, first: int) -> list[float]:
    """Up to `count` samples of the six tables in turn, fewer where they take long."""
    found: list[float] = []
    end = time.monotonic() + LONGEST
    with psycopg.connect(dsn, autocommit=True) as writer, psycopg.connect(dsn, autocommit=True) as reader:
        for table, text in zip(itertools.cycle(TABLES), rows(count + WARM_UP, first), strict=False):
            found.append(sample(writer, reader, table, text))
            time.sleep(random.uniform(*PAUSE))
            if time.monotonic() > end:
                break
    return found[WARM_UP:]


def trouble(connection: Connection, backfill: int) -> None:
    """The four vectorizers that give the worker something to do."""
    for model, options in MODELS.items():
        ours.create_model(connection, model, "fake", {"dimensions": ours.DIMENSIONS, **options})
    for table, model, count in (("large", "fake", backfill), ("slow", "slow", 20_000)):
        create_table(connection, table, count)
        ours.vectorize(connection, table, model)
    for model in ("hanging", "failing"):
        create_table(connection, model)
        ours.vectorize(connection, model, model)
        copy_rows(connection, rows(BROKEN_ROWS), model)


def left(connection: Connection) -> dict[str, int]:
    """Rows that still wait, by vectorizer."""
    return {
        str(name): int(rows)
        for name, rows in connection.execute(
            "SELECT vectorizer_name, pending + in_flight FROM embed.status WHERE pending + in_flight > 0"
        )
    }


def main() -> None:
    options = arguments(
        "Commit to visible vector beside trouble", samples=200, backfill=1_000_000
    ).parse_args()
    with postgres() as server:
        dsn = server.create_database()
        ours.install(dsn)
        report = Report("From COMMIT to a visible vector: ten vectorizers, one worker", server.conditions())
        with psycopg.connect(dsn, autocommit=True) as connection:
            ours.create_fake(connection)
            for table in TABLES:
                create_table(connection, table)
                ours.vectorize(connection, table)
            with ours.worker(dsn):
                ours.wait_until_done(connection)
                idle = samples(dsn, options.samples, 0)
                report.figure("idle worker, p50", idle, "ms", at_most(20))
                report.figure("idle worker, p95", idle, "ms", at_most(60), quantile=0.95)
                trouble(connection, options.backfill)
                time.sleep(1)
                busy = samples(dsn, options.samples, options.samples)
                waiting = left(connection)
                report.conditions["left at the end"] = ", ".join(f"{k} {v:,}" for k, v in waiting.items())
                if not {"slow_embedding", "large_embedding"} <= set(waiting):
                    raise RuntimeError("a backfill ended before the samples: give it more rows")
                report.figure("beside trouble, p50", busy, "ms")
                report.figure("beside trouble, p95", busy, "ms", at_most(250), quantile=0.95)
                worst = ("trouble", [percentile(busy, 0.95)])
                report.ratio("p95", worst, ("idle", [percentile(idle, 0.95)]), "ms")
    report.finish(options.json)


if __name__ == "__main__":
    main()
