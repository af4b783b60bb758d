"""The plans of embed.search: by index where the table is large, in one exact pass where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from tests.fix_search import answer, calls, literals, play_sidecar, vectorize
from tests.fix_worker import Connection

ROWS = 15_000
QUERY = "quick red fox"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """15,000 rows with vectors of chance, an HNSW index, and a sidecar that counts."""
    play_sidecar(db)
    answer(db, QUERY)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, part int, rare int)")
    vectorize(db, "docs")
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((ROWS, 8)).round(3)
    sparse = literals([f"{QUERY.split()[n % 3]} {n}" for n in range(100)])
    with (
        db.cursor() as cursor,
        cursor.copy("COPY docs (id, body, part, rare, embedding, words) FROM STDIN") as copy,
    ):
        for number, vector in enumerate(vectors.tolist()):
            words = sparse[number % 100]["sparse"]
            copy.write_row((number, f"text {number}", number % 2, number % 1000, str(vector), words))
    db.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_cosine_ops)")
    db.execute("ANALYZE docs")
    return db


def search(db: Connection, arguments: str = "") -> list[Any]:
    statement = f"SELECT (hit).id, score FROM embed.search(NULL::docs, '{QUERY}'{arguments})"
    return db.execute(statement.encode()).fetchall()


def index_scans(db: Connection, arguments: str = "") -> tuple[int, int]:
    """How often a search reads the index, and the whole table."""
    counts = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'docs_hnsw'"
    db.execute("SELECT pg_stat_force_next_flush()")
    before = (
        _numbers(db, counts),
        _numbers(db, "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'docs'"),
    )
    search(db, arguments)
    db.execute("SELECT pg_stat_force_next_flush()")
    after = (
        _numbers(db, counts),
        _numbers(db, "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'docs'"),
    )
    return after[0] - before[0], after[1] - before[1]


def _numbers(db: Connection, statement: str) -> int:
    row = db.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_a_large_table_is_searched_by_its_index(docs: Connection, mode: str) -> None:
    assert index_scans(docs, f", mode => '{mode}'")[0] == 1


def test_a_filter_that_leaves_many_rows_is_met_along_the_index(docs: Connection) -> None:
    docs.execute("SET embed.exact_rows = 1000")
    by_index = ", mode => 'dense', filter => '{\"part\": 1}', k => 100"
    assert index_scans(docs, by_index)[0] == 1
    rows = search(docs, by_index)
    assert len(rows) == 100
    assert all(row[0] % 2 == 1 for row in rows)


def test_a_filter_that_leaves_few_rows_is_met_exactly(docs: Connection) -> None:
    few = ", filter => '{\"rare\": 7}', k => 15"
    assert index_scans(docs, few) == (0, 1), "one pass over both legs"
    assert {row[0] % 1000 for row in search(docs, few)} == {7}
    docs.execute("CREATE INDEX ON docs (rare); ANALYZE docs")
    assert index_scans(docs, few) == (0, 0), "its own index is used"


def test_a_table_of_10000_rows_is_searched_exactly(docs: Connection) -> None:
    docs.execute("DELETE FROM docs WHERE id >= 10000; ANALYZE docs")
    assert index_scans(docs) == (0, 1)


def test_without_an_index_both_legs_are_one_pass(docs: Connection) -> None:
    docs.execute("DROP INDEX docs_hnsw")
    docs.execute("SELECT pg_stat_force_next_flush()")
    before = _numbers(docs, "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'docs'")
    search(docs)
    docs.execute("SELECT pg_stat_force_next_flush()")
    assert _numbers(docs, "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'docs'") - before == 1


def test_an_index_of_another_operator_is_not_counted_on(docs: Connection) -> None:
    docs.execute("DROP INDEX docs_hnsw")
    docs.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_l2_ops)")
    assert index_scans(docs) == (0, 1)


def test_the_model_is_asked_once_for_each_output_whatever_the_plan(docs: Connection) -> None:
    search(docs)
    assert calls(docs) == 2
    docs.execute("SET enable_indexscan = off; SET embed.exact_rows = 0")
    search(docs, ", filter => '{\"part\": 1}'")
    assert calls(docs) == 2


def test_what_the_index_finds_is_what_is_there(docs: Connection) -> None:
    approximate = search(docs, ", k => 10, candidates => 200")
    docs.execute("SET embed.exact_rows = 1000000")
    exact = search(docs, ", k => 10, candidates => 200")
    assert len(set(approximate) & set(exact)) >= 9


def test_settings_are_as_before_even_after_an_error(docs: Connection) -> None:
    docs.execute("SET hnsw.ef_search = 77")
    jit = docs.execute("SHOW jit").fetchone()
    with docs.transaction():
        search(docs, ", candidates => 500")
        assert docs.execute("SHOW hnsw.ef_search").fetchone() == ("77",)
        assert docs.execute("SHOW jit").fetchone() == jit
    with pytest.raises(psycopg.Error), docs.transaction():
        search(docs, ', filter => \'{"part": "x"}\'')
    assert docs.execute("SHOW hnsw.ef_search").fetchone() == ("77",)
    assert docs.execute("SHOW hnsw.iterative_scan").fetchone() == ("off",)
    assert docs.execute("SHOW jit").fetchone() == jit


def test_the_first_search_of_a_session_has_the_settings(docs: Connection, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert len(search(connection, ", mode => 'dense', k => 150")) == 150
