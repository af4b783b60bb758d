"""A worker's memory: over a long backfill with changed rows beside it, and beside that of the model alone.

Resident bytes of `pg-embed worker` are looked at all the time; of each 50,000 rows the median counts, after a
warm-up of as many. With MiniLM the most that it ever had is compared with the most of a process that does
nothing but encode the same texts: in passes of as many texts, for what a pass needs is the model's, and in
passes of the library's own size.
`python -m benchmarks.memory [--rows 1000000] [--minilm-rows 1000] [--json]`; 0 leaves a part out.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from benchmarks import ours
from benchmarks.bare_model import peak, resident
from benchmarks.common import Report, arguments, at_most, log
from benchmarks.postgres import Connection, Server, create_table, one, postgres
from benchmarks.texts import rows
from pg_embed.models import local
from pg_embed.models.checkpoint import find_checkpoint
from pg_embed.models.tokens import estimate_tokens

STEP = 50_000  # rows between two figures
PORTION = 50_000  # rows that are copied at a time
LIVE_ROWS = 2_000
CHANGED = 20  # rows of those that change at a time
LOOK_INTERVAL = 0.05  # seconds
PATIENCE = 3_600.0  # seconds
LIBRARY_BATCH = 32  # texts, the default of SentenceTransformer.encode
MB = 1e6


@dataclass
class Watch:
    """What was seen of a worker."""

    start: int = 0  # bytes, before it had rows
    most: int = 0  # bytes, as the system counted them
    looks: dict[int, list[int]] = field(default_factory=dict)  # bytes, by steps of rows
    changed: int = 0  # rows

    def medians(self) -> list[float]:
        """Megabytes of each step, without the first."""
        return [statistics.median(seen) / MB for step, seen in sorted(self.looks.items()) if step]

    @property
    def peak(self) -> float:
        """Megabytes."""
        return self.most / MB


def watch(server: Server, family: str, options: Mapping[str, Any], count: int) -> Watch:
    """A backfill of so many rows beside a table whose rows change all the time."""
    dsn = server.create_database("ours_side")
    ours.install(dsn)
    seen = Watch()
    with psycopg.connect(dsn, autocommit=True) as connection:
        ours.create_model(connection, "model", family, options)
        create_table(connection, "live", min(count, LIVE_ROWS))
        create_table(connection, "docs")
        fill(connection, count)
        ours.vectorize(connection, "live", "model")
        with ours.worker(dsn) as process:
            ours.wait_until_done(connection, PATIENCE)
            seen.start = resident(process.pid)
            ours.vectorize(connection, "docs", "model")
            observe(connection, process.pid, count, seen)
            seen.most = peak(process.pid)
        check(connection, count)
    return seen


def fill(connection: Connection, count: int) -> None:
    """So many rows, in portions: the benchmark holds no more than one of them."""
    with connection.cursor() as cursor:
        for first in range(0, count, PORTION):
            with cursor.copy("COPY docs (title, body) FROM STDIN") as copy:
                for text in rows(min(PORTION, count - first), first):
                    copy.write_row((text[:40], text))
    connection.execute("ANALYZE docs")


def observe(connection: Connection, process: int, count: int, seen: Watch) -> None:
    """Look until all is done, and change rows of `live` meanwhile."""
    end, left = time.monotonic() + PATIENCE, count
    while left:
        if time.monotonic() > end:
            raise TimeoutError(f"{left} rows still wait")
        change(connection, seen)
        time.sleep(LOOK_INTERVAL)
        left = unfinished(connection, count)
        step = (count - left) // STEP
        if step not in seen.looks:
            log(f"{count - left:,} rows: {resident(process) / MB:.0f} MB")
        seen.looks.setdefault(step, []).append(resident(process))


def unfinished(connection: Connection, count: int) -> int:
    """Rows of the backfill that have no vector yet; before its first page is queued, all."""
    statement = """SELECT COALESCE((SELECT sum(q.n) FROM embed._queue AS q WHERE q.priority = 2), 0)
        + COALESCE((SELECT sum(COALESCE(b.rows_left, %(count)s)) FROM embed._backfill AS b), 0)"""
    return min(count, int(one(connection, statement, {"count": count})))


def change(connection: Connection, seen: Watch) -> None:
    """Change a few rows' texts, unless some wait: they go first, and a slow model would do no others."""
    if one(connection, "SELECT EXISTS (SELECT FROM embed._queue AS q WHERE q.priority = 1)"):
        return
    done = connection.execute(
        """UPDATE live SET body = left(body, 450) || %s::text
        WHERE id IN (SELECT l.id FROM live AS l ORDER BY random() LIMIT %s)""",
        [seen.changed, CHANGED],
    )
    seen.changed += done.rowcount


def check(connection: Connection, count: int) -> None:
    done = one(connection, "SELECT count(embedding) FROM docs")
    if done != count:
        raise RuntimeError(f"{done} of {count} rows have a vector")


@dataclass(frozen=True)
class Bare:
    """Megabytes of a process that only encodes: the most, and at its end."""

    peak: float
    end: float


def bare(count: int, batch: int) -> Bare:
    """Of one that encodes so many rows with MiniLM, so many at a time."""
    checkpoint = str(find_checkpoint(ours.MINILM["checkpoint"]))
    command = [sys.executable, "-m", "benchmarks.bare_model", checkpoint, str(count), str(batch)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
    return Bare(*(int(number) / MB for number in told.split()))


def pass_rows() -> int:
    """Rows that a pass of ours has on a CPU."""
    [tokens] = estimate_tokens(rows(1))
    return min(local.CPU_BATCH, local.cpu_tokens(None) // tokens)


def tell(report: Report, name: str, seen: Watch) -> None:
    """The figures of a long backfill."""
    medians = seen.medians() or [seen.peak]
    middle = statistics.median(medians)
    report.figure(f"{name}: resident", medians, "MB")
    span = [abs(value / middle - 1) * 100 for value in medians]
    report.figure(f"{name}: farthest from the median", span, "%", at_most(5), quantile=1.0)
    report.figure(f"{name}: the last step over the first", [(medians[-1] / medians[0] - 1) * 100], "%")
    report.figure(f"{name}: before its rows", [seen.start / MB], "MB")
    report.figure(f"{name}: peak", [seen.peak], "MB")


def compare(report: Report, seen: Watch, count: int) -> None:
    """A worker's memory and that of processes that only encode."""
    name = f"MiniLM, {count:,} rows"
    report.figure(f"{name}: before its rows", [seen.start / MB], "MB")
    report.figure(f"{name}: peak", [seen.peak], "MB")
    for batch, goal in ((pass_rows(), at_most(250)), (LIBRARY_BATCH, None)):
        alone = bare(count, batch)
        only = f"a process that only encodes, {batch} texts a pass"
        report.figure(f"{name}: {only}: peak", [alone.peak], "MB")
        report.figure(f"{name}: above the peak of {only}", [seen.peak - alone.peak], "MB", goal)
        report.figure(f"{name}: above the end of {only}", [seen.peak - alone.end], "MB")


def main() -> None:
    options = arguments("A worker's memory", rows=1_000_000, minilm_rows=1_000).parse_args()
    with postgres() as server:
        report = Report("A worker's memory", server.conditions())
        if options.rows:
            seen = watch(server, "fake", {"dimensions": ours.DIMENSIONS}, options.rows)
            tell(report, f"fake model, {options.rows:,} rows", seen)
            report.conditions["changed meanwhile"] = f"{seen.changed:,} rows"
        if options.minilm_rows:
            seen = watch(server, "sentence_transformers", ours.MINILM, options.minilm_rows)
            compare(report, seen, options.minilm_rows)
    report.finish(options.json)


if __name__ == "__main__":
    main()
