"""The full cycle of 100,000 rows, queue to vector, by one worker with the fake model in its process.

Backfill: the rows are there before the vectorizer. Live: one COPY brings them to a table that has one, and
the time of the COPY counts. The worker is warm in both. With `--pgai`, pgai's best single process over an
endpoint that answers at once runs in turn, on `--pgai-rows` rows (it has no model that costs nothing).
`python -m benchmarks.full_cycle [--rows 100000] [--repeats 3] [--pgai] [--json]`
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import ours, pgai
from benchmarks.common import Report, arguments, at_least, interleave
from benchmarks.cycle import Cycle
from benchmarks.openai_server import endpoint
from benchmarks.postgres import postgres

GOAL = at_least(15_000)
GOAL_RATIO = at_least(5)


def main() -> None:
    parser = arguments(
        "Full cycle with the fake model",
        rows=100_000,
        repeats=3,
        dimensions=ours.DIMENSIONS,
        pgai_rows=10_000,
    )
    parser.add_argument("--pgai", action="store_true", help="run pgai's best setting in turn")
    options = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(postgres(**pgai.LOCKS if options.pgai else {}))
        cycle = Cycle(server, "fake", {"dimensions": options.dimensions})
        sides = {
            "backfill": lambda: cycle.backfill(options.rows),
            "live": lambda: cycle.live(options.rows),
        }
        if options.pgai:
            other = pgai.Pgai(pgai.environment(), server, stack.enter_context(endpoint()))
            sides["pgai"] = lambda: other.run(options.pgai_rows, options.dimensions, 0, pgai.BEST)
        report = Report(
            f"Full cycle of {options.rows:,} rows, fake model, {options.dimensions} d, one worker",
            {**server.conditions(), "repeats": f"{options.repeats}, interleaved"},
        )
        samples = interleave(options.repeats, sides)
        for name in ("backfill", "live"):
            report.figure(name, samples[name], "rows/s", GOAL)
        if options.pgai:
            report.ratio(
                "backfill over pgai",
                ("ours", samples["backfill"]),
                ("pgai", samples["pgai"]),
                "rows/s",
                GOAL_RATIO,
            )
    report.finish(options.json)


if __name__ == "__main__":
    main()
