"""The plans of embed.search: by index where the table is large, in one exact pass where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

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


Node = dict[str, Any]
# what embed._search_v1 binds to the statement
PREPARED = (
    "PREPARE planned (vector, sparsevec, text[], int, int, float8[], float8, text, text, int, text[]) AS "
)
EXECUTED = (
    "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON)"
    " EXECUTE planned (%s, %s, %s::text[], %s, %s, '{0.5,0.5}', NULL, NULL, NULL, NULL, NULL)"
)


def planned(
    db: Connection, mode: str, k: int, exact: bool = False, filter: str | None = None, bound: str = "{}"
) -> list[Node]:
    """The nodes of a search's statement, run once with the settings of embed.search."""
    plan = "embed._search_plan('docs'::regtype, %s, %s, %s::jsonb, 'convex', NULL, 100, NULL, NULL, NULL)"
    told = Jsonb({"filtered": filter is not None, "share": 1})
    statement = db.execute(
        f"SELECT embed._search_statement({plan} || %s, %s)".encode(), [k, mode, filter, told, exact]
    ).fetchone()
    assert statement is not None
    vectors = literals([QUERY])[0]
    candidates = 100 if mode == "hybrid" else k
    with db.transaction():
        settings = [candidates, filter is not None, None if exact else 1.0]
        db.execute("SELECT embed._search_settings(%s, %s, %s, NULL)", settings)
        db.execute((PREPARED + statement[0]).encode())
        given = [vectors["dense"], vectors["sparse"], bound, candidates, k]
        with psycopg.ClientCursor(db) as cursor:
            row = cursor.execute(EXECUTED, given).fetchone()
        db.execute("DEALLOCATE planned")
    assert row is not None
    return list(_nodes(row[0][0]["Plan"]))


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


def scans(nodes: list[Node]) -> list[tuple[str, str | None]]:
    """How the table was read: kinds of node, and their indexes."""
    return sorted(
        (node["Node Type"], node.get("Index Name"))
        for node in nodes
        if node.get("Relation Name") == "docs" and node["Actual Loops"]
    )


def most_rows(nodes: list[Node], *but: str) -> float:
    """The most rows that a node gives, all its loops together, but for nodes of these kinds."""
    return max(node["Actual Rows"] * node["Actual Loops"] for node in nodes if node["Node Type"] not in but)


def test_the_dense_leg_alone_reads_the_index_and_nothing_else(docs: Connection) -> None:
    nodes = planned(docs, "dense", 10)
    assert scans(nodes) == [("Index Scan", "docs_hnsw")]
    assert most_rows(nodes) <= 10


def test_both_legs_by_index_join_their_candidates_only(docs: Connection) -> None:
    docs.execute("SELECT embed.create_postings('docs')")
    docs.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")  # these rows are few and narrow
    nodes = planned(docs, "hybrid", 10)
    assert {index for _, index in scans(nodes)} == {"docs_hnsw", "docs_pkey"}
    assert most_rows([node for node in nodes if node.get("Relation Name") == "docs"]) <= 1_000


def test_the_sparse_leg_alone_reads_its_candidates_by_their_keys(docs: Connection) -> None:
    docs.execute("SELECT embed.create_postings('docs')")
    docs.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")
    nodes = planned(docs, "sparse", 10)
    assert {index for _, index in scans(nodes)} == {"docs_pkey"}
    assert most_rows([node for node in nodes if node.get("Relation Name") == "docs"]) <= 1_000


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_the_exact_pass_reads_the_table_once_and_then_the_best_by_key(docs: Connection, mode: str) -> None:
    nodes = planned(docs, mode, 10, exact=True, filter='{"rare": {"<": 20}}', bound="{20}")
    assert scans(nodes) == [("Index Scan", "docs_pkey"), ("Seq Scan", None)]
    (once,) = [node for node in nodes if node["Node Type"] == "Seq Scan"]
    assert (once["Actual Loops"], once["Actual Rows"]) == (1, ROWS / 1000 * 20)
    (best,) = [node for node in nodes if node.get("Index Name") == "docs_pkey"]
    assert best["Actual Rows"] * best["Actual Loops"] == 10
    sorts = [node for node in nodes if node.get("Sort Method") == "top-N heapsort"]
    assert len(sorts) >= (2 if mode == "hybrid" else 1), "the rest is not sorted"


@pytest.mark.parametrize("kind", ["PREPARE", "psycopg"])
def test_a_prepared_search_keeps_its_plan(docs: Connection, kind: str) -> None:
    """Neither the sixth execution, at which Postgres may take a plan for any value, nor the tenth differs."""
    counts = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'docs_hnsw'"
    statement = "SELECT (hit).id FROM embed.search(NULL::docs, {}, mode => 'dense', filter => {})"
    if kind == "PREPARE":
        docs.execute("PREPARE found (text, jsonb) AS " + statement.format("$1", "$2"))
    docs.execute("SELECT pg_stat_force_next_flush()")
    before = _numbers(docs, counts)
    answers = []
    for _ in range(10):
        if kind == "PREPARE":
            rows = docs.execute(f"EXECUTE found ('{QUERY}', NULL)").fetchall()
        else:
            rows = docs.execute(statement.format("%s", "%s::jsonb"), [QUERY, None], prepare=True).fetchall()
        answers.append(rows)
    docs.execute("SELECT pg_stat_force_next_flush()")
    assert _numbers(docs, counts) - before == 10
    assert all(rows == answers[0] for rows in answers)
    prepared = "SELECT sum(generic_plans + custom_plans) FROM pg_prepared_statements"
    assert _numbers(docs, prepared) >= 10
    assert calls(docs) == 1
