"""One vectorizer with a dense model and BM25 against two vectorizers of these models, on the same table.

A COPY into the table while a worker is idle, until every row has both vectors. Bytes of WAL are those of the
COPY, the queue, the vectors and the postings; dead rows are the old versions of the table's rows.
`python -m benchmarks.pair [--rows 3000] [--repeats 5]`
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_least, at_most, interleave
from benchmarks.postgres import Server, copy_rows, create_table, one, postgres
from benchmarks.texts import rows

ONE = ["SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25')"]
TWO = [
    "SELECT embed.create_vectorizer('docs', 'body', model => 'fake')",
    "SELECT embed.create_vectorizer('docs', 'body', model => 'bm25', column_name => 'sparse')",
]
Figures = dict[str, list[float]]


def measure(server: Server, texts: Sequence[str], made: Sequence[str], figures: Figures) -> float:
    """Rows a second; the other figures go into `figures`, for each row."""
    dsn = server.create_database("ours_side")
    ours.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        ours.create_fake(connection)
        ours.create_model(connection, "bm25", "bm25", {})
        create_table(connection)
        for statement in made:
            connection.execute(statement)
        with ours.worker(dsn):
            copy_rows(connection, texts[:64])  # warm
            ours.wait_until_done(connection)
            time.sleep(0.3)  # let it become idle
            before = one(connection, "SELECT pg_current_wal_insert_lsn()")
            start = time.perf_counter()
            copy_rows(connection, texts[64:])
            ours.wait_until_done(connection)
            seconds = time.perf_counter() - start
            wal = "SELECT pg_current_wal_insert_lsn() - %(before)s::pg_lsn"
            figures["bytes"].append(float(one(connection, wal, {"before": before})))
        done = one(connection, "SELECT count(*) FROM docs WHERE num_nulls(embedding, sparse) = 0")
        if done != len(texts):
            raise RuntimeError(f"{done} of {len(texts)} rows have both vectors")
        connection.execute("SELECT pg_stat_force_next_flush()")
        updates = one(connection, "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'docs'")
        figures["updates"].append(updates / len(texts))
    count = len(texts) - 64
    figures["bytes"][-1] /= count
    return count / seconds


def main() -> None:
    options = arguments("One vectorizer of two models", rows=3000, repeats=5).parse_args()
    texts = rows(options.rows + 64)
    report = Report("One vectorizer of two models over two vectorizers", {"rows": options.rows})
    figures: dict[str, Figures] = {name: {"bytes": [], "updates": []} for name in ("one", "two")}
    with postgres() as server:
        report.conditions |= server.conditions()
        sides = {
            name: partial(measure, server, texts, made, figures[name])
            for name, made in (("one", ONE), ("two", TWO))
        }
        rates = interleave(options.repeats, sides)
    report.ratio("rows a second", *rates.items(), "rows/s", at_least(0.95))
    for name, title, unit in (("bytes", "WAL", "bytes a row"), ("updates", "updates", "a row")):
        over, under = ((side, figures[side][name]) for side in ("one", "two"))
        report.ratio(title, over, under, unit, at_most(1.0))
    report.finish(options.json)


if __name__ == "__main__":
    main()
