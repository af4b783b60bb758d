"""What it costs to keep vectors for texts that come again, and what it saves.

Cost: a backfill of texts that are all new, with reuse on over reuse off, by the fake model, the fastest that
there is, and by a model behind an endpoint that takes 300 ms a call. Processor time is that of Postgres and
of the worker. Saving: the table is emptied and copied again, behind the same endpoint.
`python -m benchmarks.reuse [--rows 40000] [--dimensions 384] [--repeats 5] [--json]`
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_least, at_most, interleave
from benchmarks.openai_server import endpoint
from benchmarks.postgres import Connection, Server, copy_rows, create_table, one, postgres
from benchmarks.texts import rows

WARM_UP_ROWS = 64
DELAY = 300  # milliseconds a call, of up to 2,048 texts
TICKS = os.sysconf("SC_CLK_TCK")
Model = tuple[str, Mapping[str, Any]]  # family and options


@contextmanager
def database(server: Server, model: Model, reuse: bool) -> Iterator[str]:
    """A fresh one with a model and `warm_up`, which is embedded by a worker that waits."""
    dsn = server.create_database("ours_side")
    ours.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        ours.create_model(connection, "model", *model)
        connection.execute("SELECT embed.set_reuse('model', %s)", [reuse])
        create_table(connection, "warm_up", WARM_UP_ROWS)
        ours.vectorize(connection, "warm_up", "model")
        with ours.worker(dsn):
            ours.wait_until_done(connection)
            time.sleep(0.3)  # let it become idle
            yield dsn


def first_time(
    server: Server, count: int, model: Model, used: dict[bool, list[float]], *, reuse: bool
) -> float:
    """Rows a second of a backfill; its processor time goes into `used`, in microseconds a row."""
    with database(server, model, reuse) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        create_table(connection, "docs", count)
        connection.execute("CHECKPOINT")
        before, start = processor_time(connection), time.perf_counter()
        ours.vectorize(connection, "docs", "model")
        ours.wait_until_done(connection)
        seconds = time.perf_counter() - start
        used[reuse].append((processor_time(connection) - before) / count * 1e6)
        check(connection, count)
    return count / seconds


def again(server: Server, count: int, model: Model, *, reuse: bool) -> float:
    """Rows a second of TRUNCATE and COPY of the same rows."""
    texts = rows(count)
    with database(server, model, reuse) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        create_table(connection, "docs", count)
        ours.vectorize(connection, "docs", "model")
        ours.wait_until_done(connection)
        start = time.perf_counter()
        connection.execute("TRUNCATE docs")
        copy_rows(connection, texts)
        ours.wait_until_done(connection)
        seconds = time.perf_counter() - start
        check(connection, count)
    return count / seconds


def check(connection: Connection, count: int) -> None:
    done = one(connection, "SELECT count(embedding) FROM docs")
    if done != count:
        raise RuntimeError(f"{done} of {count} rows have a vector")


def processor_time(connection: Connection) -> float:
    """Seconds of the server's processes, and of all that this one has started."""
    seconds, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        process = int(folder.name)
        try:
            told = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        fields = told.rpartition(")")[2].split()
        parents[process] = int(fields[1])
        # its own, and that of children that have ended
        seconds[process] = sum(map(int, fields[11:15])) / TICKS
    roots = {os.getpid(), parents[one(connection, "SELECT pg_backend_pid()")]}
    return sum(time for process, time in seconds.items() if _is_under(process, roots, parents))


def _is_under(process: int, roots: set[int], parents: Mapping[int, int]) -> bool:
    while process > 1 and process not in roots:
        process = parents.get(process, 0)
    return process in roots


def main() -> None:
    options = arguments(
        "Vectors kept for texts that come again", rows=40_000, dimensions=ours.DIMENSIONS, repeats=5
    ).parse_args()
    with postgres() as server, endpoint() as base:
        report = Report(
            f"Reuse on over off, {options.rows:,} rows, {options.dimensions} d", server.conditions()
        )
        size = {"dimensions": options.dimensions}
        remote = {"model": "any", "base_url": f"{base}/{DELAY}/v1", **size}
        models: dict[str, Model] = {"fake": ("fake", size), f"{DELAY} ms a call": ("openai", remote)}
        for name, model in models.items():
            used: dict[bool, list[float]] = {True: [], False: []}
            first = partial(first_time, server, options.rows, model, used)
            new = interleave(
                options.repeats, {"on": partial(first, reuse=True), "off": partial(first, reuse=False)}
            )
            report.ratio(
                f"all texts new, {name}: time",
                ("off", new["off"]),
                ("on", new["on"]),
                "rows/s",
                at_most(1.05),
            )
            report.ratio("its processor time", ("on", used[True]), ("off", used[False]), "µs a row")
        second = partial(again, server, options.rows, models[f"{DELAY} ms a call"])
        known = interleave(
            options.repeats, {"on": partial(second, reuse=True), "off": partial(second, reuse=False)}
        )
        report.ratio(
            f"a reload, {DELAY} ms a call",
            ("on", known["on"]),
            ("off", known["off"]),
            "rows/s",
            at_least(1.5),
        )
    report.finish(options.json)


if __name__ == "__main__":
    main()
