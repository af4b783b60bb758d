"""embed.search by indexes under filters: never a row that they exclude, never fewer than there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fix_search import answer, literals, play_sidecar, vectorize
from tests.fix_worker import Connection

ROWS = 12_000
QUERY = "quick red fox"
SHARES = {"half": 2, "twentieth": 20, "two_hundredth": 200, "two_thousandth": 2_000}


@pytest.fixture
def docs(db: Connection) -> Connection:
    """12,000 rows in clusters, a share of them in each column, HNSW and postings."""
    play_sidecar(db)
    answer(db, QUERY)
    columns = ", ".join(f"{name} int" for name in SHARES)
    db.execute(f"CREATE TABLE docs (id bigint PRIMARY KEY, body text, {columns}, far int)".encode())
    vectorize(db, "docs")
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((40, 8))
    vectors = centres[rng.integers(0, 40, ROWS)] + 0.5 * rng.standard_normal((ROWS, 8))
    sparse = [row["sparse"] for row in literals([f"{QUERY.split()[n % 3]} {n}" for n in range(300)])]
    names = ", ".join(SHARES)
    with (
        db.cursor() as cursor,
        cursor.copy(f"COPY docs (id, body, {names}, embedding, words) FROM STDIN".encode()) as copy,
    ):
        for number, vector in enumerate(vectors.round(3).tolist()):
            parts = rng.integers(0, list(SHARES.values())).tolist()
            copy.write_row((number, f"text {number}", *parts, str(vector), sparse[number % 300]))
    # the half that is far from the query, in both legs
    db.execute(
        "UPDATE docs SET far = (place > %s)::int FROM (SELECT id AS key, row_number() OVER (ORDER BY"
        " embedding <=> (SELECT vector::vector FROM embed.answers WHERE output = 'dense')) AS place"
        " FROM docs) AS d WHERE id = key",
        [ROWS // 2],
    )
    db.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_cosine_ops)")
    for name in SHARES:
        db.execute(f"CREATE INDEX ON docs ({name})".encode())
    db.execute("SELECT embed.create_postings('docs')")
    db.execute("ANALYZE docs")
    return db


def search(db: Connection, mode: str, column: str, k: int, exact_rows: int) -> list[int]:
    db.execute(f"SET embed.exact_rows = {exact_rows}".encode())
    rows: list[Any] = db.execute(
        f"SELECT (hit).id, (hit).{column} FROM embed.search(NULL::docs, '{QUERY}', mode => '{mode}',"
        f" k => {k}, filter => '{{\"{column}\": 1}}')".encode()
    ).fetchall()
    assert all(part == 1 for _, part in rows), "a row that is excluded"
    return [key for key, _ in rows]


@pytest.mark.parametrize("column", [*SHARES, "far"])
def test_by_index_a_filter_leaves_as_many_rows_as_there_are(docs: Connection, column: str) -> None:
    before = _index_scans(docs)
    for mode in ("dense", "sparse", "hybrid"):
        for k in (10, 150):
            by_index = search(docs, mode, column, k, 0)
            exact = search(docs, mode, column, k, 10**9)
            assert len(by_index) == len(exact)
            assert len(set(by_index)) == len(by_index)
            if mode == "dense":  # sparse ones have many equals
                assert len(set(by_index) & set(exact)) >= 0.95 * len(exact)
    # four searches, and once more with the condition where too few of the nearest meet it
    assert before + 4 <= _index_scans(docs) <= before + 8


def test_without_postings_for_all_rows_of_a_condition_their_vectors_are_read(docs: Connection) -> None:
    docs.execute("UPDATE docs SET words = NULL WHERE half = 1")
    docs.execute("UPDATE docs SET words = '{1:1}/1000' WHERE half = 1 AND id >= 11000")
    assert search(docs, "sparse", "half", 10, 0) == search(docs, "sparse", "half", 10, 10**9)


def test_one_pass_reads_sparse_vectors_only_of_rows_that_have_a_term_of_the_query(docs: Connection) -> None:
    answer(docs, "17")
    docs.execute("UPDATE docs SET words = NULL WHERE id % 7 = 1")
    docs.execute("SET embed.exact_rows = 1000000000")
    searched = "(NULL::docs, '17', k => 60, filter => '{\"half\": 1}'"
    explained = f"SELECT embed.explain_search{searched}, run => true) ->> 'statement'"
    found = []
    for by_postings in (True, False):
        statement = docs.execute(explained.encode()).fetchone()
        assert statement is not None
        assert ("_sparse_having_v1" in statement[0]) == by_postings
        columns = "(hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score"
        found.append(docs.execute(f"SELECT {columns} FROM embed.search{searched})".encode()).fetchall())
        docs.execute("SELECT embed.drop_postings('docs')")
    assert found[0] == found[1]
    assert {row[4] is None for row in found[0]} == {True, False}


def _index_scans(db: Connection) -> int:
    db.execute("SELECT pg_stat_force_next_flush()")
    row = db.execute("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'docs_hnsw'").fetchone()
    assert row is not None
    return int(row[0])
