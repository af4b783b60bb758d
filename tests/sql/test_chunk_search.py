"""embed.search over tables of chunks: a row is as good as the best of its chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_search import answer, calls, embeddings, literals, play_sidecar, texts
from tests.fix_worker import Connection
from tests.sql.helpers import refused, value
from tests.sql.test_extend import marginal
from tests.sql.test_rerank import create_reranker

QUERY = "quick red fox 7"
ROWS, CHUNKS = 80, 200


def row_of(chunk: int) -> int:
    """Some rows have many chunks, others one."""
    return chunk if chunk < ROWS else (chunk * chunk) % ROWS % 23


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a table of chunks, filled as a worker would."""
    play_sidecar(db)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, lang text)")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_type => 'vector',"
        " storage => 'table', sparse_column => 'words', multi_column => 'tokens')"
    )
    db.execute(
        "INSERT INTO docs SELECT i, 'row ' || i, (ARRAY['en', 'de'])[i %% 2 + 1]"
        " FROM generate_series(0, %s) AS i",
        [ROWS - 1],
    )
    given = texts(CHUNKS)
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO docs_embedding (id, chunk_no, chunk, context, chunk_hash, embedding, words, tokens)"
            " VALUES (%s, %s, %s, '', 0, %s, %s, %s::halfvec[])",
            [
                (row_of(number), number + 1, text, found["dense"], found["sparse"], found["multi"])
                for number, (text, found) in enumerate(zip(given, literals(given), strict=True))
            ],
        )
    db.execute("ANALYZE docs, docs_embedding")
    answer(db, QUERY)
    return db


def search(db: Connection, arguments: str = "") -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT (hit).id, score, dense_score, sparse_score"
        f" FROM embed.search(NULL::docs, '{QUERY}', k => 10{arguments})"
    ).fetchall()


def scores() -> tuple[dict[int, float], dict[int, float]]:
    """The best cosine and the best sparse product of each row."""
    found, query = embeddings(texts(CHUNKS)), embeddings([QUERY])
    assert found.sparse is not None
    assert query.sparse is not None
    wanted = dict(zip(*map(np.ndarray.tolist, query.sparse.row(0)), strict=True))
    dense: dict[int, float] = {}
    sparse: dict[int, float] = {}
    for chunk in range(CHUNKS):
        row = row_of(chunk)
        dense[row] = max(dense.get(row, -1.0), float(found.dense[chunk] @ query.dense[0]))
        product = sum(
            float(weight) * wanted.get(int(index), 0.0)
            for index, weight in zip(*found.sparse.row(chunk), strict=True)
        )
        sparse[row] = max(sparse.get(row, 0.0), product)
    return dense, sparse


def best(leg: dict[int, float]) -> list[int]:
    return sorted(leg, key=lambda row: (-leg[row], row))[:10]


def test_a_row_is_as_near_as_the_nearest_of_its_chunks(docs: Connection) -> None:
    dense, sparse = scores()
    rows = search(docs, ", mode => 'dense'")
    assert [row[0] for row in rows] == best(dense)
    assert np.allclose([row[2] for row in rows], [dense[row[0]] for row in rows], atol=1e-5)
    rows = search(docs, ", mode => 'sparse'")
    assert [row[0] for row in rows] == best(sparse)
    assert calls(docs) == 2


def test_both_legs_are_fused_as_ever(docs: Connection) -> None:
    dense, sparse = scores()
    rows = search(docs, ", weights => '{0.5, 0.5}'")
    first, second = (np.array([leg[row] for row in range(ROWS)]) for leg in (dense, sparse))
    fused = 0.5 * (first - first.mean()) / first.std() + 0.5 * (second - second.mean()) / second.std()
    assert np.allclose([row[1] for row in rows], np.sort(fused)[::-1][:10], atol=1e-5)
    for row in rows:
        assert row[2] == pytest.approx(dense[row[0]], abs=1e-5)
        assert row[3] == pytest.approx(sparse[row[0]])


def test_a_filter_is_over_the_rows(docs: Connection) -> None:
    dense, _ = scores()
    rows = search(docs, """, mode => 'dense', filter => '{"lang": "de"}'""")
    assert [row[0] for row in rows] == best({row: leg for row, leg in dense.items() if row % 2})


@pytest.mark.parametrize("arguments", ["", ", mode => 'dense'", """, filter => '{"lang": "de"}'"""])
@pytest.mark.parametrize(
    "expression",
    [
        "embedding vector_cosine_ops",
        "(embedding::halfvec(8)) halfvec_cosine_ops",
        "(binary_quantize(embedding)::bit(8)) bit_hamming_ops",
    ],
)
def test_the_index_over_chunks_finds_the_same(docs: Connection, arguments: str, expression: str) -> None:
    exact = search(docs, arguments)
    docs.execute(f"CREATE INDEX near ON docs_embedding USING hnsw ({expression})")
    told = value(docs, f"SELECT embed.explain_search(NULL::docs, k => 10{arguments})")
    assert told["exact"], "so few chunks are read in one pass"
    docs.execute(f"SET embed.exact_rows = {CHUNKS - 1}")
    assert value(docs, "SELECT embed.explain_search(NULL::docs)")["exact"] is False, "chunks count, not rows"
    docs.execute("SET embed.exact_rows = 0; SET enable_seqscan = off; SET enable_sort = off")
    told = value(docs, f"SELECT embed.explain_search(NULL::docs, k => 10{arguments})")
    assert not told["exact"]
    assert "Index Scan using near on" in told["plan"]
    found = search(docs, arguments)
    assert [row[0] for row in found] == [row[0] for row in exact]
    assert np.allclose([row[1] for row in found], [row[1] for row in exact], atol=1e-5)


def test_a_row_with_very_many_near_chunks_does_not_hide_the_others(docs: Connection) -> None:
    query = literals([QUERY])[0]
    docs.execute(
        "INSERT INTO docs_embedding (id, chunk_no, chunk, context, chunk_hash, embedding)"
        " SELECT 3, 1000 + i, 'near', '', 0, %s FROM generate_series(1, 600) AS i",
        [query["dense"]],
    )
    docs.execute("CREATE INDEX ON docs_embedding USING hnsw (embedding vector_cosine_ops)")
    docs.execute("SET embed.exact_rows = 0; SET enable_seqscan = off; SET enable_sort = off")
    dense, _ = scores()
    rows = search(docs, ", mode => 'dense', candidates => 10")
    assert [row[0] for row in rows] == [3, *[row for row in best(dense) if row != 3][:9]]


def test_a_row_with_very_many_chunks_of_its_words_does_not_hide_the_others(docs: Connection) -> None:
    docs.execute(
        "INSERT INTO docs_embedding (id, chunk_no, chunk, context, chunk_hash, words)"
        " SELECT 3, 1000 + i, 'near', '', 0, %s FROM generate_series(1, 600) AS i",
        [literals([QUERY])[0]["sparse"]],
    )
    docs.execute("SET embed.exact_rows = 1000000")
    exact = {arguments: search(docs, arguments) for arguments in (", mode => 'sparse'", ", candidates => 10")}
    docs.execute("SELECT embed.create_postings('docs_embedding')")
    docs.execute("SET embed.exact_rows = 0")
    for arguments, rows in exact.items():
        assert len(rows) == 10
        assert [row[0] for row in search(docs, arguments)] == [row[0] for row in rows]


@pytest.mark.parametrize("condition", ["id > 30", "chunk <> ''", "id > 30 AND context IS NULL"])
def test_a_condition_s_columns_are_the_row_s(docs: Connection, condition: str) -> None:
    """As those that SQLAlchemy and Django write, without a table; chunks have columns of these names, too."""
    docs.execute("ALTER TABLE docs ADD chunk text, ADD context text, ADD embedding text, ADD number int")
    docs.execute("UPDATE docs SET chunk = CASE WHEN id > 30 THEN 'x' ELSE '' END")
    docs.execute("CREATE INDEX near ON docs_embedding USING hnsw (embedding vector_cosine_ops)")
    docs.execute("SET enable_seqscan = off; SET enable_sort = off")
    statement = (
        "SELECT (hit).id FROM embed._search_v1(NULL::docs, %s, 10, 'dense', NULL, 'convex', NULL, 100,"
        " NULL, NULL, NULL, %s)"
    )
    dense, _ = scores()
    for exact_rows in (0, 10**6):
        docs.execute(f"SET embed.exact_rows = {exact_rows}".encode())
        found = docs.execute(statement, [QUERY, condition]).fetchall()
        assert [row[0] for row in found] == best({row: leg for row, leg in dense.items() if row > 30})


def test_a_reranker_reads_the_nearest_chunk_and_token_vectors_take_the_best(docs: Connection) -> None:
    create_reranker(docs, "judge")
    rows = docs.execute(
        "SELECT (hit).id, rerank_score"
        " FROM embed.search(NULL::docs, %s, mode => 'dense', k => 80, rerank => 'judge')",
        [QUERY],
    ).fetchall()
    found, query = embeddings(texts(CHUNKS)).dense, embeddings([QUERY]).dense[0]
    for row, score in rows[:20]:
        own = [chunk for chunk in range(CHUNKS) if row_of(chunk) == row]
        nearest = max(own, key=lambda chunk: float(found[chunk] @ query))
        assert score == pytest.approx(len(texts(CHUNKS)[nearest]) / 8.0)
    late = docs.execute(
        "SELECT (hit).id, rerank_score FROM embed.search(NULL::docs, %s, k => 3, rerank => 'multi')", [QUERY]
    ).fetchall()
    assert [row[1] for row in late] == sorted((row[1] for row in late), reverse=True)
    tokens = embeddings(texts(CHUNKS)).multi
    wanted = embeddings([QUERY]).multi
    assert tokens is not None
    assert wanted is not None
    by_row = [
        max(
            float((wanted.row(0) @ tokens.row(chunk).T).max(axis=1).mean())
            for chunk in range(CHUNKS)
            if row_of(chunk) == row
        )
        for row, _ in late
    ]
    assert np.allclose([row[1] for row in late], by_row, atol=2e-3)


def similar(db: Connection, key: int, arguments: str = "") -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT (hit).id, score, dense_score, sparse_score"
        f" FROM embed.similar(NULL::docs, %s, k => 10{arguments})",
        [str(key)],
    ).fetchall()


def own_chunks(row: int) -> list[int]:
    return [chunk for chunk in range(CHUNKS) if row_of(chunk) == row]


def test_rows_like_one_are_near_to_the_mean_of_its_chunks(docs: Connection) -> None:
    found = embeddings(texts(CHUNKS))
    assert found.sparse is not None
    row = row_of(90)
    own = own_chunks(row)
    assert len(own) > 2
    mean = found.dense[own].mean(axis=0)
    near = found.dense @ mean / np.linalg.norm(mean) / np.linalg.norm(found.dense, axis=1)
    dense = {other: max(near[own_chunks(other)]) for other in range(ROWS) if other != row}
    rows = similar(docs, row, ", mode => 'dense'")
    assert [hit[0] for hit in rows] == best(dense)
    assert np.allclose([hit[2] for hit in rows], [dense[hit[0]] for hit in rows], atol=1e-5)
    terms: dict[int, float] = {}
    for chunk in own:
        for index, weight in zip(*found.sparse.row(chunk), strict=True):
            terms[int(index)] = terms.get(int(index), 0.0) + float(weight) / len(own)
    products = [
        sum(
            float(weight) * terms.get(int(index), 0.0)
            for index, weight in zip(*found.sparse.row(chunk), strict=True)
        )
        for chunk in range(CHUNKS)
    ]
    sparse = {
        other: max(products[chunk] for chunk in own_chunks(other)) for other in range(ROWS) if other != row
    }
    rows = similar(docs, row, ", mode => 'sparse'")
    assert np.allclose([hit[3] for hit in rows], [sparse[number] for number in best(sparse)], atol=1e-5)
    assert {hit[0]: hit[3] for hit in rows} == pytest.approx({hit[0]: sparse[hit[0]] for hit in rows})
    assert row not in [hit[0] for hit in similar(docs, row)]
    assert calls(docs) == 0


def test_rows_like_one_are_found_by_the_index_over_chunks(docs: Connection) -> None:
    exact = similar(docs, 3, """, filter => '{"lang": "de"}'""")
    assert len(exact) == 10
    docs.execute("CREATE INDEX ON docs_embedding USING hnsw (embedding vector_cosine_ops)")
    docs.execute("SELECT embed.create_postings('docs_embedding')")
    docs.execute("SET embed.exact_rows = 0; SET enable_seqscan = off; SET enable_sort = off")
    found = similar(docs, 3, """, filter => '{"lang": "de"}'""")
    assert [row[0] for row in found] == [row[0] for row in exact]


def test_a_row_without_chunks_is_like_none(docs: Connection) -> None:
    docs.execute("DELETE FROM docs_embedding WHERE id = 9")
    assert similar(docs, 9) == []
    state, message, _ = refused(docs, "SELECT embed.similar(NULL::docs, '4000')")
    assert (state, "no row" in message) == ("PE003", True)


@pytest.mark.parametrize("mode", ["dense", "hybrid", "sparse"])
def test_diversity_is_between_the_chunks_that_answer_best(docs: Connection, mode: str) -> None:
    found, query = embeddings(texts(CHUNKS)), embeddings([QUERY])
    near = found.dense @ query.dense[0]
    if mode == "sparse":
        assert found.sparse is not None
        assert query.sparse is not None
        wanted = dict(zip(*map(np.ndarray.tolist, query.sparse.row(0)), strict=True))
        near = np.array(
            [
                sum(float(w) * wanted.get(int(i), 0.0) for i, w in zip(*found.sparse.row(chunk), strict=True))
                for chunk in range(CHUNKS)
            ]
        )
    pool = docs.execute(
        f"SELECT (hit).id, score FROM embed.search(NULL::docs, '{QUERY}', mode => '{mode}', k => 100)"
    ).fetchall()
    vectors = np.zeros((ROWS, found.dense.shape[1]))
    for row in range(ROWS):
        vectors[row] = found.dense[max(own_chunks(row), key=lambda chunk: near[chunk])]
    rows = search(docs, f", mode => '{mode}', diversity => 0.4")
    assert [row[0] for row in rows] == marginal(pool, 0.4, 10, vectors)
    assert [row[0] for row in rows] != [row[0] for row in search(docs, f", mode => '{mode}'")]


def test_chunks_come_with_boosts_diversity_and_pages(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs ADD COLUMN likes int")
    docs.execute("UPDATE docs SET likes = id % 5")
    options = """, diversity => 0.3, boost => '{"likes": {"weight": 0.5}}', skip => 2, mode => 'dense'"""
    rows = search(docs, options)
    found = docs.execute(
        "SELECT (hit).id, score, chunk_no, chunk, chunk_score"
        f" FROM embed.search_chunks(NULL::docs, '{QUERY}', k => 10{options})"
    ).fetchall()
    assert [row[:2] for row in found] == [row[:2] for row in rows]
    for row in found:
        dense = embeddings(texts(CHUNKS)).dense @ embeddings([QUERY]).dense[0]
        nearest = max(own_chunks(row[0]), key=lambda chunk: float(dense[chunk]))
        assert row[2:4] == (nearest + 1, texts(CHUNKS)[nearest])
        assert row[4] == pytest.approx(float(dense[nearest]), abs=1e-5)


def test_a_condition_in_sql_holds_within_a_search_of_chunks(docs: Connection) -> None:
    found = docs.execute(
        "SELECT (hit).id FROM embed._search_chunks_v1(NULL::docs, %s, 5, 'dense', NULL, 'convex', NULL, 100,"
        " NULL, NULL, NULL, 1, condition => %s)",
        [QUERY, "id % 7 = 1"],
    ).fetchall()
    dense, _ = scores()
    assert [row[0] for row in found] == best({row: leg for row, leg in dense.items() if row % 7 == 1})[:5]


def test_the_model_of_a_column_of_chunks_is_known(docs: Connection) -> None:
    docs.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', name => 'whole',"
        " column_type => 'vector', backfill => false)"
    )
    for relation in ("docs", "docs_embedding", "docs_chunks"):
        model = f"SELECT embed._column_model_v1(NULL::{relation}, 'embedding')"
        assert value(docs, model) == "three"


def test_columns_and_chunks_may_serve_one_search(docs: Connection) -> None:
    docs.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_name => 'whole',"
        " name => 'whole', column_type => 'vector', backfill => false)"
    )
    docs.execute("UPDATE docs SET whole = %s WHERE id = 5", [literals([QUERY])[0]["dense"]])
    assert search(docs, ", vectorizer => 'whole', mode => 'dense'")[0][0] == 5
    rows = search(docs, ", vectorizer => 'whole'")
    assert {row[0]: row[3] for row in rows}.items() <= scores()[1].items()


def test_each_role_finds_by_the_chunks_that_it_may_see(docs: Connection, make_role: MakeRole) -> None:
    role = make_role("embed_reader")
    docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs.execute("CREATE POLICY german ON docs USING (lang = 'de')")
    docs.execute(f'GRANT SELECT ON docs TO "{role.name}"')
    dense, _ = scores()
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert (
            refused(connection, f"SELECT embed.search(NULL::docs, '{QUERY}', mode => 'dense')")[0] == "42501"
        )
        docs.execute(f'GRANT SELECT ON docs_embedding TO "{role.name}"')
        rows = search(connection, ", mode => 'dense'")
        assert [row[0] for row in rows] == best({row: leg for row, leg in dense.items() if row % 2})


def test_postings_of_chunks_find_the_same(docs: Connection, make_role: MakeRole) -> None:
    exact = search(docs, ", mode => 'sparse'")
    both = search(docs)
    docs.execute("SELECT embed.create_postings('docs_embedding')")
    docs.execute("SET embed.exact_rows = 0")
    told = value(docs, "SELECT embed.explain_search(NULL::docs, mode => 'sparse')")
    assert not told["exact"]
    assert "_sparse_top_v1" in told["statement"]
    assert search(docs, ", mode => 'sparse'") == exact
    assert [row[0] for row in search(docs)] == [row[0] for row in both]
    first = exact[0][0]
    docs.execute("DELETE FROM docs_embedding WHERE id = %s", [first])
    assert search(docs, ", mode => 'sparse'")[0][0] == exact[1][0]
    role = make_role("embed_reader")
    docs.execute(f'GRANT SELECT ON docs, docs_embedding TO "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        connection.execute("SET embed.exact_rows = 0")
        assert search(connection, ", mode => 'sparse'")[0][0] == exact[1][0]
        docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        docs.execute("CREATE POLICY german ON docs USING (lang = 'de')")
        seen = [row[0] for row in search(connection, ", mode => 'sparse'")]
        assert seen == [row for row in seen if row % 2]
        assert set(seen) >= {row[0] for row in exact[1:] if row[0] % 2}
    docs.execute("TRUNCATE docs_embedding")
    assert search(docs, ", mode => 'sparse'") == []
    number = value(docs, "SELECT id FROM embed._vectorizer")
    docs.execute("SELECT embed.drop_vectorizer('docs_embedding', drop_column => true)")
    assert value(docs, "SELECT to_regclass(%s)", f"embed._postings_{number}") is None


def test_each_row_comes_with_its_best_chunks(docs: Connection) -> None:
    rows = search(docs)
    asked = calls(docs)
    found = docs.execute(
        "SELECT (hit).id, chunk_no, chunk, score, chunk_score FROM embed.search_chunks(NULL::docs, %s)",
        [QUERY],
    ).fetchall()
    assert calls(docs) == asked, "the vectors of the query are remembered"
    assert [(row[0], row[3]) for row in found] == [(row[0], row[1]) for row in rows]
    dense, query = embeddings(texts(CHUNKS)).dense, embeddings([QUERY]).dense[0]
    for row, number, text, _, score in found:
        own = [chunk for chunk in range(CHUNKS) if row_of(chunk) == row]
        best_chunk = max(own, key=lambda chunk: float(dense[chunk] @ query))
        assert (number, text) == (best_chunk + 1, texts(CHUNKS)[best_chunk])
        assert score == pytest.approx(float(dense[best_chunk] @ query), abs=1e-5)
    several = docs.execute(
        "SELECT (hit).id, count(*) FROM embed.search_chunks(NULL::docs, %s, mode => 'sparse', k => 4,"
        """ per_row => 3, filter => '{"lang": "en"}') GROUP BY 1""",
        [QUERY],
    ).fetchall()
    assert len(several) == 4
    assert all(row % 2 == 0 and 1 <= count <= 3 for row, count in several)
    assert max(count for _, count in several) > 1


def test_a_table_without_chunks_has_none_to_find(docs: Connection) -> None:
    docs.execute("CREATE TABLE plain (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('plain', 'body', model => 'three')")
    state, message, _ = refused(docs, f"SELECT embed.search_chunks(NULL::plain, '{QUERY}')")
    assert (state, "chunks" in message) == ("PE003", True)
    assert refused(docs, f"SELECT embed.search_chunks(NULL::docs, '{QUERY}', per_row => 0)")[0] == "PE003"
