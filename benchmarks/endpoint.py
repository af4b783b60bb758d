"""pg_embed and pgai over one OpenAI-compatible endpoint: 0 and 50 ms a call, 384 and 1,536 dimensions.

Both work off rows that are there; both workers are warm; both are one process. pgai runs in its best setting
and in its default. `python -m benchmarks.endpoint [--rows 20000] [--pgai-rows 5000] [--repeats 3] [--json]`
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks import pgai
from benchmarks.common import Report, arguments, at_least, interleave
from benchmarks.cycle import Cycle
from benchmarks.openai_server import endpoint
from benchmarks.postgres import postgres

CASES = ((384, 0), (384, 50), (1536, 0), (1536, 50))


def main() -> None:
    options = arguments("Both over one endpoint", rows=20_000, pgai_rows=5_000, repeats=3).parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(postgres(**pgai.LOCKS))
        base_url = stack.enter_context(endpoint())
        other = pgai.Pgai(pgai.environment(), server, base_url)
        report = Report(
            "One endpoint for both: rows a second",
            {
                **server.conditions(),
                "rows": f"pg_embed {options.rows:,}, pgai {options.pgai_rows:,}",
                "repeats": f"{options.repeats}, interleaved",
                "pgai best": f"{pgai.BEST.batch_size} rows a batch, {pgai.BEST.concurrency} at once",
            },
        )
        for dimensions, delay in CASES:
            cycle = Cycle(
                server,
                "openai",
                {
                    "model": "bench",
                    "dimensions": dimensions,
                    "base_url": f"{base_url}/{delay}/v1",
                },
            )
            samples = interleave(
                options.repeats,
                {
                    "ours": partial(cycle.backfill, options.rows),
                    "best": partial(other.run, options.pgai_rows, dimensions, delay, pgai.BEST),
                    "default": partial(other.run, options.pgai_rows, dimensions, delay, pgai.DEFAULT),
                },
            )
            for setting, goal in (("best", at_least(3)), ("default", at_least(10) if delay else None)):
                report.ratio(
                    f"{dimensions} d, {delay} ms: over pgai's {setting}",
                    ("pg_embed", samples["ours"]),
                    ("pgai", samples[setting]),
                    "rows/s",
                    goal,
                )
    report.finish(options.json)


if __name__ == "__main__":
    main()
