"""Keyword search by family bm25: how good on judged collections, what a document costs, how fast a search is.

Each folder is a collection in BEIR's form (corpus.jsonl, queries.jsonl, qrels.tsv); none is part of the
project. The whole path is measured: a real worker embeds the rows, the sidecar the queries, and the SQL
function that embed.search calls finds them. Published for SciFact: bm25s 0.687, Anserini 0.679. The time of a
search is that of the database alone, over made-up texts whose words are as frequent as Zipf says.
`python -m benchmarks.bm25_quality FOLDER... [--rows 200000] [--samples 40] [--json]`
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import psycopg
from psycopg import sql

from benchmarks import ours
from benchmarks.common import Report, arguments, at_least, at_most, log, stopwatch
from benchmarks.postgres import Connection, one, postgres
from pg_embed.evaluation import Collection, quality, read_collection
from pg_embed.models.bm25 import Bm25Embedder, Bm25Options
from pg_embed.records import Kind

GOALS = {"scifact": 0.685, "xquad-en": 0.95, "xquad-zh": 0.95}
VOCABULARY = 200_000
WORDS = 80  # of a made-up document
QUERY_WORDS = (2, 8)
BATCH = 1_000
WRITTEN = 5_000  # documents whose writing is timed
NUMBER = "SELECT id FROM embed._vectorizer WHERE source = %(table)s::regclass"
SEARCH = """
    SELECT key
    FROM embed._sparse_top_v1(%(vectorizer)s, embed._sparse_query_v1(%(vectorizer)s, %(query)s), %(k)s)
"""
# a query's vector weighed as embed._sparse_query_v1 does, without a sidecar
WEIGHED = """
    SELECT '{' || string_agg(q.term || ':' || q.weight * ln(1 + (n.rows - c.rows + 0.5) / (c.rows + 0.5)),
        ',') || '}/1000000000'
    FROM embed._sparse_terms(%(plain)s) AS q,
        LATERAL (SELECT (embed._posting_counts_v1(%(vectorizer)s, ARRAY[0]))[1] AS rows) AS n,
        LATERAL (SELECT (embed._posting_counts_v1(%(vectorizer)s, ARRAY[q.term]))[1] AS rows) AS c
"""
EXACT = "SELECT id::text FROM zipf ORDER BY words <#> %(query)s::sparsevec, id LIMIT %(k)s"
BEST = "SELECT key FROM embed._sparse_top_v1(%(vectorizer)s, %(query)s, %(k)s)"


def vectorize(connection: Connection, table: str) -> int:
    made = (
        "SELECT embed.create_vectorizer(%s::regclass, 'body'::text, model => 'words', column_name => 'words')"
    )
    connection.execute(made, (table,))
    return int(one(connection, NUMBER, {"table": table}))


def measure(connection: Connection, collection: Collection, report: Report) -> None:
    """Load a collection, have it embedded, ask all its queries."""
    table = sql.Identifier(collection.name)
    connection.execute(sql.SQL("CREATE TABLE {} (id text PRIMARY KEY, body text)").format(table))
    with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(table)) as copy:
        for document in collection.documents:
            copy.write_row((document.key, f"{document.title} {document.text}".strip()))
    vectorizer = vectorize(connection, f'"{collection.name}"')
    ours.wait_until_done(connection)
    connection.execute(sql.SQL("VACUUM ANALYZE {}").format(table))
    rankings, times = {}, []
    for key, query in collection.queries.items():
        start = time.perf_counter()
        found = connection.execute(SEARCH, {"vectorizer": vectorizer, "query": query, "k": 10}).fetchall()
        times.append((time.perf_counter() - start) * 1000)
        rankings[key] = [row[0] for row in found]
    gain = quality(rankings, rankings, collection.judged)["ndcg@10"]
    goal = GOALS.get(collection.name)
    count = f"{len(collection.documents):,} documents"
    report.figure(f"{collection.name}: nDCG@10", [gain], "", goal and at_least(goal))
    report.figure(f"{collection.name}: a search with its embedding, {count}", times, "ms")


def texts(count: int, seed: int) -> Iterator[str]:
    """Made-up documents."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    edges = np.cumsum(weights / weights.sum())
    for _ in range(count):
        lengths = int(random.integers(WORDS // 2, WORDS * 3 // 2))
        yield " ".join(f"w{word}x" for word in np.searchsorted(edges, random.random(lengths)))


def spelled(model: Bm25Embedder, batch: Sequence[str], kind: Kind) -> list[str]:
    """Vectors as pgvector reads them: there terms count from 1."""
    found = model.embed(batch, kind).sparse
    assert found is not None
    rows = []
    for row in range(len(found)):
        pairs = zip(*(part.tolist() for part in found.row(row)), strict=True)
        rows.append(
            "{"
            + ",".join(f"{term + 1}:{weight:.7g}" for term, weight in pairs)
            + f"}}/{model.card.dimensions}"
        )
    return rows


def copy_vectors(connection: Connection, model: Bm25Embedder, table: str, count: int, first: int = 0) -> None:
    """Rows with the vectors of made-up texts, written by us: the worker is measured by `measure`."""
    documents = texts(count, seed=first + 1)
    statement = sql.SQL("COPY {} (id, words) FROM STDIN").format(sql.Identifier(table))
    while batch := list(islice(documents, BATCH)):
        with connection.cursor().copy(statement) as copy:
            for vector in spelled(model, batch, "document"):
                copy.write_row((first, vector))
                first += 1


def load_zipf(connection: Connection, model: Bm25Embedder, count: int, report: Report) -> int:
    """The made-up table with its postings; the worker, which would find no texts in it, is kept out."""
    connection.execute("CREATE TABLE zipf (id bigint PRIMARY KEY, body text)")
    vectorizer = vectorize(connection, "zipf")
    connection.execute("SELECT embed.pause('zipf'), embed.drop_postings('zipf')")
    log(f"making {count:,} documents")
    copy_vectors(connection, model, "zipf", count)
    with stopwatch() as seconds:
        connection.execute("SELECT embed.create_postings('zipf')")
    report.figure(f"postings of {count:,} rows that were there", [seconds()], "s")
    connection.execute("CREATE TABLE more (id bigint PRIMARY KEY, words sparsevec)")
    copy_vectors(connection, model, "more", WRITTEN, first=count)
    connection.execute("INSERT INTO zipf (id) SELECT id FROM more")
    connection.execute("CREATE TABLE plain (id bigint PRIMARY KEY, body text, words sparsevec)")
    connection.execute("INSERT INTO plain (id) SELECT id FROM more")
    times = {table: write(connection, table) for table in ("plain", "zipf")}
    cost = (times["zipf"] - times["plain"]) / WRITTEN * 1000
    report.figure("postings of a written document, of a processor", [cost], "ms", at_most(0.5))
    connection.execute("VACUUM ANALYZE zipf")
    connection.execute(sql.SQL("VACUUM ANALYZE embed.{}").format(sql.Identifier(f"_postings_{vectorizer}")))
    connection.execute("SELECT embed._count_postings_v1(%s, 0)", [vectorizer])
    return vectorizer


def processor(connection: Connection) -> float:
    """Seconds of a processor that the session has taken in the server, whatever else runs there."""
    taken = psutil.Process(connection.info.backend_pid).cpu_times()
    return float(taken.user + taken.system)


def write(connection: Connection, table: str) -> float:
    """Seconds of a processor to write the vectors of rows that had none, batch by batch as a worker does."""
    statement = sql.SQL(
        "UPDATE {} AS t SET words = m.words FROM (SELECT * FROM more ORDER BY id OFFSET %s LIMIT %s) AS m"
        " WHERE t.id = m.id"
    ).format(sql.Identifier(table))
    before = processor(connection)
    for first in range(0, WRITTEN, 240):
        connection.execute(statement, (first, 240))
    return processor(connection) - before


def searches(
    connection: Connection, vectorizer: int, model: Bm25Embedder, samples: int, report: Report
) -> None:
    """What the database takes, and how much of the exact best it finds."""
    random = np.random.default_rng(3)
    queries = [
        " ".join(random.choice(text.split(), random.integers(*QUERY_WORDS)).tolist())
        for text in texts(samples, seed=4)
    ]
    times, taken, kept = [], 0.0, dict[int, list[float]]()
    for plain in spelled(model, queries, "query"):
        weighed = one(connection, WEIGHED, {"vectorizer": vectorizer, "plain": plain})
        for depth in (10, 100):
            asked = {"vectorizer": vectorizer, "query": weighed, "k": depth}
            connection.execute(BEST, asked)
            before, start = processor(connection), time.perf_counter()
            found = {row[0] for row in connection.execute(BEST, asked)}
            times.append((time.perf_counter() - start) * 1000)
            taken += processor(connection) - before
            exact = {row[0] for row in connection.execute(EXACT, asked)}
            kept.setdefault(depth, []).append(len(found & exact) / max(len(exact), 1))
    report.figure("a search, in the database", times, "ms")
    report.figure("a search, of a processor", [taken / len(times) * 1000], "ms", at_most(10))
    for depth, goal in ((10, 0.99), (100, 0.95)):
        mean = statistics.mean(kept[depth])
        report.figure(f"recall@{depth} against the exact ranking", [mean], "", at_least(goal))


def main() -> None:
    parser = arguments("Keyword search by BM25", rows=200_000, samples=40)
    parser.add_argument("folders", type=Path, nargs="*", help="collections in BEIR's form")
    options = parser.parse_args()
    with postgres() as server:
        dsn = server.create_database()
        report = Report("Keyword search by family bm25", server.conditions())
        with (
            ours.sidecar(server, dsn, "spool", worker=True),
            psycopg.connect(dsn, autocommit=True) as connection,
        ):
            ours.create_model(connection, "words", "bm25", {})
            for folder in options.folders:
                measure(connection, read_collection(folder), report)
            if options.rows:
                model = Bm25Embedder(Bm25Options())
                vectorizer = load_zipf(connection, model, options.rows, report)
                searches(connection, vectorizer, model, options.samples, report)
    report.finish(options.json)


if __name__ == "__main__":
    main()
