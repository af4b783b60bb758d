"""What `embed('q')` takes beyond the model, by each transport, and what the same text takes again.

The model is the fake one; what its own call takes is measured in this process and taken away, and so is the
round trip of an empty statement. spool runs on the embedded server, plpython and dblink on Debian's own,
where scripts/second_server.sh has installed it. The second call with a text is timed inside the server.
`python -m benchmarks.transports [--samples 300] [--json]`
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, log
from benchmarks.postgres import Connection, Server, one, postgres, second_postgres
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec

GOALS = {"plpython": 0.3, "spool": 3.0, "dblink": 4.0}  # ms
GOAL_AGAIN = 0.03  # ms
AGAIN_REPEATS = 5
REPETITIONS = 2000  # calls with the same text, timed inside the server
WARM_UP = 20
AGAIN = """
    DO $$
    DECLARE
        started timestamptz := clock_timestamp();
    BEGIN
        FOR i IN 1..{count} LOOP
            {call}
        END LOOP;
        PERFORM set_config('bench.seconds', extract(epoch FROM clock_timestamp() - started)::text, false);
    END $$"""


def timed(count: int, call: Callable[[int], object]) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for number in range(count + WARM_UP):
        start = time.perf_counter()
        call(number)
        found.append((time.perf_counter() - start) * 1000)
    return found[WARM_UP:]


def model_time(count: int) -> float:
    """Milliseconds of one call of the fake model."""
    model = default_registry().load(ModelSpec("fake", "fake", {"dimensions": ours.DIMENSIONS}))
    return statistics.median(timed(count, lambda number: model.embed([f"question {number}"], "query")))


def again(connection: Connection) -> float:
    """Milliseconds of embed() with a text that the session has asked for just before."""
    seconds = []
    for call in ("PERFORM public.embed('the same question');", "PERFORM 'the same question';"):
        connection.execute(AGAIN.format(count=REPETITIONS, call=call).encode())
        seconds.append(float(one(connection, "SHOW bench.seconds")))
    return (seconds[0] - seconds[1]) / REPETITIONS * 1000


def measure(report: Report, server: Server, transport: str, count: int) -> None:
    dsn = server.create_database()
    with ours.sidecar(server, dsn, transport), psycopg.connect(dsn, autocommit=True) as connection:
        ours.create_fake(connection)
        empty = statistics.median(timed(count, lambda number: one(connection, f"SELECT 'question {number}'")))
        calls = timed(count, lambda number: one(connection, f"SELECT embed('question {number}') IS NULL"))
        beyond = [call - empty - model_time(count) for call in calls]
        report.figure(f"{transport}, p50 beyond the model", beyond, "ms", at_most(GOALS[transport]))
        report.figure(
            f"{transport}, same text again",
            [again(connection) for _ in range(AGAIN_REPEATS)],
            "ms",
            at_most(GOAL_AGAIN),
        )


def main() -> None:
    options = arguments("embed('q') by each transport", samples=300).parse_args()
    report = Report("embed('q') beyond the model, one session, distinct texts, fake model, 384 d")
    with postgres() as server:
        report.conditions.update(server.conditions())
        measure(report, server, "spool", options.samples)
    try:
        with second_postgres() as server:
            report.conditions["second postgres"] = server.conditions()["postgres"]
            for transport in ("plpython", "dblink"):
                measure(report, server, transport, options.samples)
    except SystemExit as reason:
        log(f"plpython and dblink are left out: {reason}")
    report.finish(options.json)


if __name__ == "__main__":
    main()
