"""`embed.search` over the same search written by hand: vectors of chance, 384 d and 40 words a row, no model.

The queries' vectors are known to the session before the clock starts, on both sides, so that neither asks a
model. By hand is what somebody would write who knows the formula, sent with the vectors as parameters.
`python -m benchmarks.search_overhead [--rows 20000] [--samples 200] [--json]`
"""

from __future__ import annotations

import time

import numpy as np
import psycopg

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, log
from benchmarks.postgres import Connection, postgres

GOAL = 1.10
DIMENSIONS, WORDS, PER_ROW, PER_QUERY = 384, 30_000, 40, 6
QUERIES = 20

CALL = """
CREATE TABLE embed.answers (text text, output text, vector text, PRIMARY KEY (text, output));
CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, embed, pg_temp AS $$
    SELECT jsonb_build_object('id', r -> 'id', 'vectors', jsonb_build_array(a.vector))::text
    FROM CAST(request AS jsonb) AS r, embed.answers AS a
    WHERE a.text = r #>> '{texts,0}' AND a.output = r ->> 'output'
$$;
"""
DENSE = """
SELECT d, 1 - (d.embedding <=> %(dense)s::halfvec) FROM docs AS d
ORDER BY d.embedding <=> %(dense)s::halfvec LIMIT 10
"""
BY_INDEX = """
WITH dense AS (SELECT id FROM docs ORDER BY embedding <=> %(dense)s::halfvec LIMIT 100),
sparse AS (SELECT id FROM docs ORDER BY words <#> %(sparse)s::sparsevec LIMIT 100),
pool AS (
    SELECT d.id, 1 - (d.embedding <=> %(dense)s::halfvec) AS dense,
        -(d.words <#> %(sparse)s::sparsevec) AS sparse
    FROM (SELECT id FROM dense UNION SELECT id FROM sparse) AS u JOIN docs AS d USING (id)
), spread AS (
    SELECT avg(dense) AS dm, stddev_pop(dense) AS ds, avg(sparse) AS sm, stddev_pop(sparse) AS ss FROM pool
), best AS (
    SELECT p.id, 0.5 * (p.dense - s.dm) / s.ds + 0.5 * (p.sparse - s.sm) / s.ss AS score
    FROM pool AS p CROSS JOIN spread AS s ORDER BY score DESC LIMIT 10
)
SELECT d, b.score FROM best AS b JOIN docs AS d USING (id) ORDER BY b.score DESC
"""
EXACT = """
WITH scored AS (
    SELECT id, 1 - (embedding <=> %(dense)s::halfvec) AS dense, -(words <#> %(sparse)s::sparsevec) AS sparse
    FROM docs WHERE part = 7
), pool AS (
    (SELECT * FROM scored ORDER BY dense DESC LIMIT 100)
    UNION (SELECT * FROM scored ORDER BY sparse DESC LIMIT 100)
), spread AS (
    SELECT avg(dense) AS dm, stddev_pop(dense) AS ds, avg(sparse) AS sm, stddev_pop(sparse) AS ss FROM pool
), best AS (
    SELECT p.id, 0.5 * (p.dense - s.dm) / s.ds + 0.5 * (p.sparse - s.sm) / s.ss AS score
    FROM pool AS p CROSS JOIN spread AS s ORDER BY score DESC LIMIT 10
)
SELECT d, b.score FROM best AS b JOIN docs AS d USING (id) ORDER BY b.score DESC
"""
HALVES = ", weights => ARRAY[0.5, 0.5]"  # as by hand
SEARCH = "SELECT hit, score FROM embed.search(NULL::docs, %(text)s{})"
CASES = {
    "dense, by the index": (SEARCH.format(", mode => 'dense'"), DENSE),
    "hybrid, by the index": (SEARCH.format(HALVES), BY_INDEX),
    "hybrid, filtered to a tenth, exact": (SEARCH.format(HALVES + ", filter => '{\"part\": 7}'"), EXACT),
}
Query = dict[str, str]


def fill(connection: Connection, rows: int) -> list[Query]:
    """The table, and queries with their vectors, which the sidecar knows, too."""
    connection.execute(CALL.encode())
    ours.create_model(connection, "two", "fake", {"dimensions": DIMENSIONS, "sparse_dimensions": WORDS})
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, part int)")
    connection.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'two', sparse_column => 'words')"
    )
    rng = np.random.default_rng(1)
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY docs (id, body, part, embedding, words) FROM STDIN") as copy,
    ):
        for number in range(rows):
            copy.write_row((number, f"text {number} " * 30, number % 10, dense(rng), sparse(rng, PER_ROW)))
    log("building the index")
    connection.execute("SET maintenance_work_mem = '512MB'")
    connection.execute("CREATE INDEX ON docs USING hnsw (embedding halfvec_cosine_ops)")
    connection.execute("CREATE INDEX ON docs (part)")
    connection.execute("VACUUM ANALYZE docs")
    queries = [
        {"text": f"query {number}", "dense": dense(rng), "sparse": sparse(rng, PER_QUERY)}
        for number in range(QUERIES)
    ]
    for query in queries:
        for output in ("dense", "sparse"):
            answer = (query["text"], output, query[output])
            connection.execute("INSERT INTO embed.answers VALUES (%s, %s, %s)", answer)
    return queries


def dense(rng: np.random.Generator) -> str:
    """A vector of few directions and some noise, as embeddings are."""
    vector = np.repeat(rng.standard_normal(DIMENSIONS // 16), 16) + 0.3 * rng.standard_normal(DIMENSIONS)
    return "[" + ",".join(f"{number:.4f}" for number in vector / np.linalg.norm(vector)) + "]"


def sparse(rng: np.random.Generator, count: int) -> str:
    """Words by their frequency, as in texts."""
    words = np.unique((WORDS * rng.random(count) ** 4).astype(int))
    return "{" + ",".join(f"{word + 1}:{rng.random():.4f}" for word in words) + f"}}/{WORDS}"


def timed(connection: Connection, statement: str, query: Query) -> tuple[float, list[object]]:
    """Milliseconds of one statement, and what it finds."""
    start = time.perf_counter()
    rows = connection.execute(statement.encode(), query, prepare=False).fetchall()
    return (time.perf_counter() - start) * 1000, [row[0] for row in rows]


def measure(report: Report, connection: Connection, queries: list[Query], samples: int) -> None:
    for name, (search, by_hand) in CASES.items():
        spent: dict[str, list[float]] = {search: [], by_hand: []}
        same = 0
        for number in range(samples + len(queries)):
            query = queries[number % len(queries)]
            found = {}
            for statement in (search, by_hand) if number % 2 else (by_hand, search):
                milliseconds, found[statement] = timed(connection, statement, query)
                if number >= len(queries):  # from here on the session knows every query's vectors
                    spent[statement].append(milliseconds)
            same += sorted(map(str, found[search])) == sorted(map(str, found[by_hand]))
        log(f"{name}: {same} of {samples + len(queries)} answers are the same")
        report.ratio(name, ("embed.search", spent[search]), ("by hand", spent[by_hand]), "ms", at_most(GOAL))


def main() -> None:
    options = arguments("embed.search over the same by hand", rows=20_000, samples=200).parse_args()
    report = Report(
        f"embed.search over SQL by hand, {options.rows:,} rows, {DIMENSIONS} d, {PER_ROW} words a row"
    )
    with postgres() as server:
        report.conditions.update(server.conditions())
        dsn = server.create_database()
        ours.install(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            queries = fill(connection, options.rows)
            # by hand has the same settings as embed.search
            connection.execute("SET hnsw.ef_search = 100")
            measure(report, connection, queries, options.samples)
    report.finish(options.json)


if __name__ == "__main__":
    main()
