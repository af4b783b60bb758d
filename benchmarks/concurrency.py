"""Sixteen sessions that call embed() at once over one: the throughput of queries with the real MiniLM.

`python -m benchmarks.concurrency [--clients 16] [--seconds 6] [--repeats 3] [--json]`
"""

from __future__ import annotations

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_least, interleave
from benchmarks.postgres import pgbench, postgres

SCRIPT = (
    "\\set n random(1, 1000000000)\n"
    "SELECT embed('how do I read row ' || :n || ' of a csv file that has quoted fields') IS NULL;\n"
)


def main() -> None:
    options = arguments("Concurrent embed()", clients=16, seconds=6, repeats=3).parse_args()
    with postgres() as server:
        dsn = server.create_database()
        report = Report(
            f"embed() of distinct questions by {options.clients} sessions over one, all-MiniLM-L6-v2, spool",
            {**server.conditions(), "run": f"{options.repeats} × {options.seconds} s, interleaved"},
        )
        with ours.sidecar(server, dsn, "spool"), psycopg.connect(dsn, autocommit=True) as connection:
            ours.create_model(connection, "minilm", "sentence_transformers", ours.MINILM)
            connection.execute("SELECT embed('load the model')")
            samples = interleave(
                options.repeats,
                {
                    "many": lambda: pgbench(dsn, SCRIPT, options.clients, options.seconds),
                    "one": lambda: pgbench(dsn, SCRIPT, 1, options.seconds),
                },
            )
        many = (f"{options.clients} sessions", samples["many"])
        report.ratio("throughput", many, ("1 session", samples["one"]), "queries/s", at_least(2.5))
    report.finish(options.json)


if __name__ == "__main__":
    main()
