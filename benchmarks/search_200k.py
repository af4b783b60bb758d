"""`embed.search` at 200,000 rows: how much of the exact answer it finds, how fast, with and without filters.

The table is made: 384 d in topics with subtopics and four levels of noise, and texts whose words are as
frequent as Zipf says, some of them their topic's. The queries' vectors are known to the session before the
clock starts, so that no model is asked. Beside it, in turn, hybrid queries as pg_vectorize and pgEdge write
them: ranks of all rows by window functions, joined in full, fused by reciprocal ranks.
`python -m benchmarks.search_200k [--rows 200000] [--samples 100] [--json]`
"""

from __future__ import annotations

import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_least, at_most, log, stopwatch
from benchmarks.index_4096 import HEAD, TAIL
from benchmarks.postgres import Connection, one, postgres
from benchmarks.search_overhead import CALL
from pg_embed.jobs import IndexBuild
from pg_embed.records import Float32

DIMENSIONS, LATENT = 384, 96
TOPICS, SUBTOPICS = 200, 20
NOISE = (0.3, 0.6, 0.9, 1.3)  # of a row, beside a topic of length 1
WORDS, TOPIC_WORDS, LENGTH = 200_000, 300, (48, 115)
NUMBERS = 1_000_000_000  # of family bm25
K1, B = 1.2, 0.75
QUERIES, CHUNK = 50, 2_000
SLOW = 10  # how often a query of the others is run

# chance gives each of these a share of the rows; `region` and `side` are where a row's topic lies
TABLE = """
CREATE TABLE docs (id bigint PRIMARY KEY, body text, half int, twentieth int, two_hundredth int,
    two_thousandth int, region int, side int)
"""
SHARES = {"half": 2, "twentieth": 20, "two_hundredth": 200, "two_thousandth": 2_000}
SEARCH = "SELECT (hit).id, score FROM embed.search(NULL::docs, %(text)s{})"
TOKENS = """
CREATE TABLE tokens AS SELECT id, to_tsvector('simple', body) AS tokens FROM docs;
CREATE UNIQUE INDEX ON tokens (id);
CREATE INDEX ON tokens USING gin (tokens)
"""
# as pg_vectorize: all rows by distance, the best 50 of these and of those by full text
PG_VECTORIZE = """
SELECT d.id, r.score FROM (
    SELECT coalesce(near.id, said.id) AS id,
        coalesce(1.0 / (60 + near.place), 0) + coalesce(1.0 / (60 + said.place), 0) AS score
    FROM (
        SELECT id, row_number() OVER (ORDER BY distance) AS place, count(*) OVER () AS places
        FROM (SELECT id, embedding <=> %(dense)s::halfvec AS distance FROM docs) AS every
        ORDER BY distance LIMIT 50
    ) AS near FULL OUTER JOIN (
        SELECT id, row_number() OVER (ORDER BY ts_rank_cd(tokens, asked) DESC) AS place,
            count(*) OVER () AS places
        FROM tokens,
            to_tsquery('simple', replace(plainto_tsquery('simple', %(text)s)::text, '&', '|')) AS asked
        WHERE tokens @@ asked ORDER BY ts_rank_cd(tokens, asked) DESC LIMIT 50
    ) AS said ON said.id = near.id
) AS r JOIN docs AS d ON d.id = r.id ORDER BY r.score DESC LIMIT 10
"""
# as pgEdge: all rows by distance, and all by the product of sparse vectors
PGEDGE = """
WITH near AS (
    SELECT id, body, row_number() OVER (ORDER BY embedding <=> %(dense)s::halfvec) AS place
    FROM docs WHERE embedding IS NOT NULL LIMIT 30
), said AS (
    SELECT id, body, row_number() OVER (ORDER BY words <#> %(sparse)s::sparsevec) AS place
    FROM docs WHERE words IS NOT NULL LIMIT 30
)
SELECT id, 0.7 / (60 + coalesce(near.place, 9999)) + 0.3 / (60 + coalesce(said.place, 9999)) AS score
FROM near FULL OUTER JOIN said USING (id) ORDER BY score DESC LIMIT 10
"""
OTHERS = {"pg_vectorize's query": PG_VECTORIZE, "pgEdge's query": PGEDGE}
Query = dict[str, str]


@dataclass(frozen=True)
class World:
    """Where topics and their subtopics lie, and which words are theirs."""

    topics: Float32  # TOPICS × LATENT, of length 1
    subtopics: Float32  # TOPICS × SUBTOPICS × LATENT
    turned: Float32  # LATENT × DIMENSIONS
    words: np.ndarray  # TOPICS × TOPIC_WORDS
    numbers: np.ndarray  # of each word, in the sparse vectors

    @staticmethod
    def make(random: np.random.Generator) -> World:
        return World(
            _unit(random.standard_normal((TOPICS, LATENT))),
            0.7 * _unit(random.standard_normal((TOPICS, SUBTOPICS, LATENT))),
            random.standard_normal((LATENT, DIMENSIONS)).astype(np.float32) / LATENT**0.5,
            random.integers(200, WORDS // 4, (TOPICS, TOPIC_WORDS)),
            random.choice(NUMBERS, WORDS, replace=False).astype(np.int64),
        )

    def regions(self) -> tuple[np.ndarray, np.ndarray]:
        """A tenth and a half for each topic, by one direction."""
        order = np.argsort(np.argsort(self.topics @ self.topics[0]))
        return order * 10 // TOPICS, order * 2 // TOPICS

    def vectors(self, topic: np.ndarray, noise: np.ndarray, random: np.random.Generator) -> Float32:
        """Vectors of rows, of length 1."""
        places = self.topics[topic] + self.subtopics[topic, random.integers(0, SUBTOPICS, len(topic))]
        places = places + noise[:, None] * _unit(random.standard_normal(places.shape))
        made = places.astype(np.float32) @ self.turned
        return _unit(made + 0.05 * random.standard_normal(made.shape))


def _unit(vectors: np.ndarray) -> Float32:
    made: Float32 = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return made


def frequencies() -> np.ndarray:
    """Cumulated shares of words, without the most frequent: those are stop words."""
    weights = 1 / (np.arange(WORDS) + 20.0)
    return np.cumsum(weights / weights.sum())


def said(world: World, topic: int, count: int, edges: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Words of one row: a third are its topic's."""
    of_topic = world.words[topic, (TOPIC_WORDS * random.random(count // 3) ** 2).astype(int)]
    return np.concatenate([of_topic, np.searchsorted(edges, random.random(count - len(of_topic)))])


def copied(world: World, rows: int, random: np.random.Generator) -> Iterator[bytes]:
    """Rows as COPY reads them in binary form."""
    edges, (regions, sides) = frequencies(), world.regions()
    average = sum(LENGTH) / 2
    yield HEAD
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        topic = random.integers(0, TOPICS, count)
        noise = random.choice(NOISE, count)
        vectors = world.vectors(topic, noise, random).astype(">f2")
        parts = np.stack([random.integers(0, share, count) for share in SHARES.values()], 1)
        integers = np.column_stack([parts, regions[topic], sides[topic]])
        lengths = random.integers(*LENGTH, count)
        made = []
        for place in range(count):
            text = said(world, int(topic[place]), int(lengths[place]), edges, random)
            terms, counts = np.unique(text, return_counts=True)
            weights = counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths[place] / average))
            body = spell(text).encode()
            numbers = [struct.pack(">ii", 4, number) for number in integers[place].tolist()]
            dense = struct.pack(">ihh", 4 + 2 * DIMENSIONS, DIMENSIONS, 0) + vectors[place].tobytes()
            made.append(
                struct.pack(">hiqi", 10, 8, first + place, len(body))
                + body
                + b"".join(numbers)
                + dense
                + sparse(world.numbers[terms], weights)
            )
        yield b"".join(made)
    yield TAIL


def spell(words: np.ndarray) -> str:
    return " ".join(f"w{word}x" for word in words.tolist())


def sparse(numbers: np.ndarray, weights: np.ndarray) -> bytes:
    """A sparsevec in binary form, where terms count from 0."""
    order = np.argsort(numbers)
    body = numbers[order].astype(">i4").tobytes() + weights[order].astype(">f4").tobytes()
    return struct.pack(">iiii", 12 + len(body), NUMBERS, len(numbers), 0) + body


def fill(connection: Connection, dsn: str, rows: int, report: Report) -> list[Query]:
    """The table with its postings and its index, and queries, whose vectors the sidecar knows."""
    connection.execute(CALL.encode())
    ours.create_model(connection, "near", "fake", {"dimensions": DIMENSIONS})
    ours.create_model(connection, "said", "bm25", {})
    connection.execute(TABLE)
    for model, column in (("near", "embedding"), ("said", "words")):
        connection.execute(
            "SELECT embed.create_vectorizer('docs', 'body'::text, model => %s, column_name => %s, name => %s,"
            " backfill => false)",
            [model, column, model],
        )
    connection.execute("SELECT embed.pause('near'), embed.pause('said'), embed.drop_postings('said')")
    random = np.random.default_rng(1)
    world = World.make(random)
    columns = ", ".join(["id", "body", *SHARES, "region", "side", "embedding", "words"])
    log(f"making {rows:,} rows")
    connection.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    statement = f"COPY docs ({columns}) FROM STDIN (FORMAT binary)".encode()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for data in copied(world, rows, random):
            copy.write(data)
    connection.execute("ALTER TABLE docs ENABLE TRIGGER USER")
    for column in (*SHARES, "region", "side"):
        connection.execute(f"CREATE INDEX ON docs ({column})".encode())
    connection.execute("VACUUM ANALYZE docs")
    log("making the postings")
    with stopwatch() as seconds:
        connection.execute("SELECT embed.create_postings('said')")
    number = int(one(connection, "SELECT id FROM embed._vectorizer WHERE name = 'said'"))
    connection.execute(f"VACUUM ANALYZE embed._postings_{number}".encode())
    report.conditions["postings"] = f"{seconds():.0f} s"
    log("building the index")
    connection.execute("SELECT embed.create_index('near', 'hnsw')")
    with stopwatch() as seconds:
        assert IndexBuild(dsn, "near").run(), "nothing was built"
    report.conditions["index"] = f"{seconds():.0f} s"
    log("making what full-text search needs")
    connection.execute(TOKENS.encode())
    connection.execute("VACUUM ANALYZE tokens")
    return ask(connection, world, number, random)


def ask(connection: Connection, world: World, vectorizer: int, random: np.random.Generator) -> list[Query]:
    """Queries of two to five words, most of them their topic's."""
    edges, (regions, sides) = frequencies(), world.regions()
    topic = random.integers(0, TOPICS, QUERIES)
    queries = []
    for place, vector in enumerate(world.vectors(topic, np.full(QUERIES, 0.6), random)):
        words = np.unique(said(world, int(topic[place]), int(random.integers(3, 9)), edges, random))
        words = np.unique([*words[:3], *random.choice(world.words[topic[place], :100], 2)])
        terms = sorted((world.numbers[words] + 1).tolist())
        plain = "{" + ",".join(f"{term}:1" for term in terms) + f"}}/{NUMBERS}"
        query = {
            "text": spell(words),
            "dense": "[" + ",".join(f"{number:.5f}" for number in vector) + "]",
            "far_region": str(9 - regions[topic[place]] if regions[topic[place]] not in (4, 5) else 0),
            "far_side": str(1 - sides[topic[place]]),
        }
        for output, answer in (("dense", query["dense"]), ("sparse", plain)):
            connection.execute(
                "INSERT INTO embed.answers VALUES (%s, %s, %s)", [query["text"], output, answer]
            )
        weighed = "SELECT embed._sparse_query_v1(%(vectorizer)s, %(text)s)::text"
        query["sparse"] = one(connection, weighed, {"vectorizer": vectorizer, "text": query["text"]})
        queries.append(query)
    return queries


@dataclass(frozen=True)
class Case:
    """A search, what it may take, and how much of the exact answer it must find."""

    name: str
    arguments: Callable[[Query], str]
    recall: float
    milliseconds: float | None


def filtered(column: str) -> Callable[[Query], str]:
    value = f"far_{column}"
    return lambda query: f", filter => '{{\"{column}\": {query.get(value, '1')}}}'"


CASES = [
    Case("hybrid", lambda _: "", 0.98, 20),
    *(Case(f"hybrid, one row in {share}", filtered(name), 0.97, 30) for name, share in SHARES.items()),
    Case("hybrid, a tenth that is far from the query", filtered("region"), 0.97, 30),
    Case("hybrid, a half that is far from the query", filtered("side"), 0.97, 30),
    Case("sparse, the best 10", lambda _: ", mode => 'sparse'", 0.99, 10),
    Case("sparse, the best 100", lambda _: ", mode => 'sparse', k => 100", 0.95, 10),
    Case("dense, the best 10", lambda _: ", mode => 'dense'", 0.98, None),
]


def found(connection: Connection, statement: str, query: Query) -> tuple[float, list[int]]:
    """Milliseconds of a search, and the keys of its rows."""
    start = time.perf_counter()
    rows = connection.execute(statement.encode(), query, prepare=False).fetchall()
    return (time.perf_counter() - start) * 1000, [row[0] for row in rows]


def processor(connection: Connection) -> float:
    """Milliseconds of a processor that the session has taken in the server."""
    taken = psutil.Process(connection.info.backend_pid).cpu_times()
    return float(taken.user + taken.system) * 1000


def measure(
    report: Report, connection: Connection, case: Case, queries: Sequence[Query], samples: int
) -> None:
    statements = [SEARCH.format(case.arguments(query)) for query in queries]
    connection.execute("SET embed.exact_rows = 1000000000")
    exact = [
        found(connection, statement, query)[1] for statement, query in zip(statements, queries, strict=True)
    ]
    connection.execute("RESET embed.exact_rows")
    times, recalls, before = [], [], 0.0
    for number in range(len(queries) + samples):
        place = number % len(queries)
        if number == len(queries):
            before = processor(connection)
        milliseconds, keys = found(connection, statements[place], queries[place])
        if number >= len(queries):
            times.append(milliseconds)
        assert len(keys) == len(exact[place]), "as many rows as there are"
        if exact[place]:
            recalls.append(len(set(keys) & set(exact[place])) / len(exact[place]))
    taken = (processor(connection) - before) / samples
    report.figure(f"{case.name}: recall", [statistics.mean(recalls)], "", at_least(case.recall))
    report.figure(f"{case.name}: p50", times, "ms", case.milliseconds and at_most(case.milliseconds))
    report.figure(f"{case.name}: of a processor", [taken], "ms")


def compare(report: Report, connection: Connection, queries: Sequence[Query]) -> None:
    """The same rows and queries by the statements of others, in turn with ours, by one process each.

    Where the planner may, it takes the HNSW index for their ranks, which then are those of 40 rows
    (hnsw.ef_search), not of all.
    """
    connection.execute("SET max_parallel_workers_per_gather = 0")
    for indexed in (False, True):
        sides = {"embed.search": SEARCH.format(""), **OTHERS}
        spent: dict[str, list[float]] = {name: [] for name in sides}
        for query in queries[:SLOW]:
            for name, statement in sides.items():
                allowed = indexed or name not in OTHERS
                connection.execute(f"SET enable_indexscan = {allowed}".encode())
                spent[name].append(found(connection, statement, query)[0])
        connection.execute("RESET enable_indexscan")
        ours_ms = ("ours", spent["embed.search"])
        for name in OTHERS:
            label = f"hybrid as {name}, " + ("ranks by the HNSW index" if indexed else "ranks of all rows")
            report.ratio(label, (name, spent[name]), ours_ms, "ms", None if indexed else at_least(10))


def main() -> None:
    options = arguments("embed.search at 200,000 rows", rows=200_000, samples=100).parse_args()
    report = Report(f"embed.search over {options.rows:,} rows, {DIMENSIONS} d and BM25")
    with postgres(shared_buffers="3GB", maintenance_work_mem="1GB") as server:
        report.conditions.update(server.conditions())
        dsn = server.create_database()
        ours.install(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            queries = fill(connection, dsn, options.rows, report)
            terms = "SELECT avg(array_length(string_to_array(words::text, ','), 1)) FROM docs WHERE id < 1000"
            report.conditions["postings of a row"] = f"{one(connection, terms):.0f}"
            for case in CASES:
                measure(report, connection, case, queries, options.samples)
            compare(report, connection, queries)
    report.finish(options.json)


if __name__ == "__main__":
    main()
