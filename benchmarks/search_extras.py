"""`embed.search` with diversity, a boost or a page over the same search without: 10 of 100 candidates, 384 d.

The table and the queries are those of `search_overhead`; no model is asked.
`python -m benchmarks.search_extras [--rows 20000] [--samples 200] [--json]`
"""

from __future__ import annotations

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, log
from benchmarks.postgres import Connection, postgres
from benchmarks.search_overhead import SEARCH, Query, fill, timed

GOAL = 1.5
CASES = {
    "diversity": ", diversity => 0.3",
    "boost by a number": ', boost => \'{"part": {"weight": 0.1}}\'',
    "the second page": ", skip => 10",
}


def measure(report: Report, connection: Connection, queries: list[Query], samples: int) -> None:
    plain = SEARCH.format("")
    for name, arguments_ in CASES.items():
        extended = SEARCH.format(arguments_)
        spent: dict[str, list[float]] = {plain: [], extended: []}
        for number in range(samples + len(queries)):
            query = queries[number % len(queries)]
            for statement in (plain, extended) if number % 2 else (extended, plain):
                milliseconds, _ = timed(connection, statement, query)
                if number >= len(queries):  # from here on the session knows every query's vectors
                    spent[statement].append(milliseconds)
        report.ratio(name, ("with", spent[extended]), ("without", spent[plain]), "ms", at_most(GOAL))


def main() -> None:
    options = arguments(
        "embed.search with diversity, boosts and pages over without", rows=20_000, samples=200
    ).parse_args()
    report = Report(f"embed.search, k = 10 of 100 candidates, {options.rows:,} rows, 384 d")
    with postgres() as server:
        report.conditions.update(server.conditions())
        dsn = server.create_database()
        ours.install(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            queries = fill(connection, options.rows)
            log("searching")
            measure(report, connection, queries, options.samples)
    report.finish(options.json)


if __name__ == "__main__":
    main()
