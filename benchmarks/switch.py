"""Searches while a vectorizer changes its model: their p95 over before, and how long the swap blocks readers.

Fake models of 384 and 1,024 dimensions, HNSW over both, the worker in the sidecar that also embeds the
queries. A swap blocks readers for as long as the slowest of many reads of one row that ran beside it.
`python -m benchmarks.switch [--rows 100000] [--samples 300] [--swaps 20] [--json]`
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, log, percentile
from benchmarks.postgres import Connection, create_table, one, postgres

GOAL, BLOCKED = 1.5, 50.0  # ratio of the p95s; milliseconds
DIMENSIONS, WIDE = 384, 1_024
PATIENCE = 3_600.0  # seconds
PAUSE = 0.01  # seconds between two searches
LOOK = 0.5  # seconds between two looks at how far it is; each takes some milliseconds of a processor
TRIES = "5 minutes"  # for the table
MEMORY = "512MB"  # the graph of 100,000 wide vectors takes 340 MB; one that spills is built five times slower
SEARCH = "SELECT id FROM docs ORDER BY embedding <=> embed(%(question)s) LIMIT 10"
READ = "SELECT title FROM docs WHERE id = 1"
STATE = "SELECT state FROM embed.switches"


def timed(connection: Connection, statement: str, question: str | None = None) -> float:
    """Milliseconds of one statement."""
    start = time.perf_counter()
    connection.execute(statement.encode(), {"question": question} if question else None).fetchall()
    return (time.perf_counter() - start) * 1000


class Asker:
    """Sends statements one after another from a thread of its own, and keeps their milliseconds."""

    def __init__(self, dsn: str, ask: Callable[[Connection, int], float], pause: float) -> None:
        self.milliseconds: list[float] = []
        self._ended = threading.Event()
        self._dsn, self._ask, self._pause = dsn, ask, pause
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                number = 0
                while not self._ended.wait(self._pause):
                    number += 1
                    self.milliseconds.append(self._ask(connection, number))
        except BaseException as exc:
            self.error = exc

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


@contextmanager
def asking(dsn: str, ask: Callable[[Connection, int], float], pause: float = 0.0) -> Iterator[Asker]:
    """Ask until the block ends; an error of a search is an error of the measurement."""
    asker = Asker(dsn, ask, pause)
    try:
        yield asker
    finally:
        asker.end()


def search(name: str) -> Callable[[Connection, int], float]:
    """Searches for distinct questions."""
    return lambda connection, number: timed(connection, SEARCH, f"question {number} {name}")


def until(connection: Connection, statement: str, wanted: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while one(connection, statement) != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{statement}: never {wanted}")
        time.sleep(LOOK)


def measure_switch(report: Report, connection: Connection, dsn: str, samples: int) -> None:
    with asking(dsn, search("before"), PAUSE) as before:
        while len(before.milliseconds) < samples:
            time.sleep(0.05)
    start = time.perf_counter()
    with asking(dsn, search("during"), PAUSE) as during:
        connection.execute("SELECT embed.switch_model('docs', 'wide')")
        until(connection, STATE, "indexing")
        filled = time.perf_counter() - start
        filling = len(during.milliseconds)
        until(connection, STATE, "ready")
    seconds = time.perf_counter() - start
    log(f"filled in {filled:.1f} s, ready after {seconds:.1f} s")
    report.figure("before, p50", before.milliseconds, "ms")
    report.figure("during, p50", during.milliseconds, "ms")
    report.figure("filling", [filled], "s")
    report.figure("filling, index and comparison", [seconds], "s")
    report.figure("overlap@10", [one(connection, "SELECT overlap_at_10 FROM embed.switches")], "")
    p95 = percentile(before.milliseconds, 0.95)
    parts = {"whole switch": during.milliseconds, "filling": during.milliseconds[:filling]}
    for name, values in {**parts, "index": during.milliseconds[filling:]}.items():
        if len(values) >= 20:
            goal = at_most(GOAL) if name == "whole switch" else None
            report.ratio(f"p95, {name}", (name, [percentile(values, 0.95)]), ("before", [p95]), "ms", goal)


def measure_swaps(report: Report, connection: Connection, dsn: str, swaps: int) -> None:
    """The slowest read beside each swap, and beside a wait of the same length without one.

    The first swap is the switch's, the others go back and forth; a vacuum gives way to them.
    """
    beside: dict[str, list[float]] = {"swap": [], "nothing": []}
    took: list[float] = []
    statement = f"SELECT embed.finish_switch('docs', timeout => '{TRIES}')"
    for _ in range(swaps):
        with (
            asking(dsn, lambda connection, _: timed(connection, READ)) as readers,
            asking(dsn, search("swap")),
        ):
            time.sleep(0.2)
            start = time.perf_counter()
            connection.execute(statement.encode())
            took.append((time.perf_counter() - start) * 1000)
            time.sleep(0.05)
        beside["swap"].append(max(readers.milliseconds))
        with (
            asking(dsn, lambda connection, _: timed(connection, READ)) as readers,
            asking(dsn, search("none")),
        ):
            time.sleep(0.25 + took[-1] / 1000)
        beside["nothing"].append(max(readers.milliseconds))
        statement = f"SELECT embed.rollback_switch('docs', timeout => '{TRIES}')"
    report.figure("the call, with its tries for the table", took, "ms")
    report.figure("slowest read without a swap", beside["nothing"], "ms")
    report.figure("slowest read beside a swap", beside["swap"], "ms", at_most(BLOCKED))


def main() -> None:
    options = arguments("A switch of models under searches", rows=100_000, samples=300, swaps=20).parse_args()
    with postgres(maintenance_work_mem=MEMORY) as server:
        dsn = server.create_database()
        report = Report(
            f"A switch from {DIMENSIONS} to {WIDE} d, {options.rows:,} rows, fake models, HNSW, spool",
            server.conditions(),
        )
        with (
            ours.sidecar(server, dsn, "spool", worker=True),
            psycopg.connect(dsn, autocommit=True) as connection,
        ):
            ours.create_fake(connection, "narrow", DIMENSIONS)
            ours.create_fake(connection, "wide", WIDE)
            create_table(connection, "docs", options.rows)
            ours.vectorize(connection, "docs", "narrow")
            ours.wait_until_done(connection, PATIENCE)
            connection.execute("SELECT embed.create_index('docs', 'hnsw')")
            until(connection, "SELECT state FROM embed.indexes", "valid")
            connection.execute("VACUUM ANALYZE docs")
            log("searches before, during and after")
            measure_switch(report, connection, dsn, options.samples)
            measure_swaps(report, connection, dsn, options.swaps)
    report.finish(options.json)


if __name__ == "__main__":
    main()
