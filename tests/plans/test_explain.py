"""embed.explain_search tells how embed.search runs, and runs nothing unless it is told to."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_search import answer, calls, create_docs
from tests.fix_worker import Connection
from tests.sql.helpers import refused, value
from tests.sql.test_rerank import create_reranker

QUERY = "quick red fox 7"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 300 rows, their vectors, and indexes for both."""
    create_docs(db, 300, multi=True)
    answer(db, QUERY)
    db.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_cosine_ops)")
    db.execute("SELECT embed.create_postings('docs')")
    db.execute("ANALYZE docs")
    return db


def explain(db: Connection, arguments: str = "") -> Any:
    return value(db, f"SELECT embed.explain_search(NULL::docs{arguments and ', ' + arguments})")


def test_few_rows_are_read_in_one_pass(docs: Connection) -> None:
    told = explain(docs)
    assert (told["table"], told["mode"], told["exact"]) == ("public.docs", "hybrid", True)
    assert (told["rows"], told["expected"], told["exact_up_to"]) == (300, 300, 10000)
    assert told["why"].startswith("300 of 300 rows are expected")
    index = told["legs"]["dense"].pop("indexed")
    assert (index["kind"], index["partial"]) == ("column", False)
    assert told["legs"] == {
        "dense": {"vectorizer": "docs_embedding", "model": "three", "column": "embedding"},
        "sparse": {"vectorizer": "docs_embedding", "model": "three", "column": "words", "indexed": True},
    }
    assert "Seq Scan on docs" in told["plan"]
    assert calls(docs) == 0, "no model is asked"


def test_the_indexes_are_told_that_a_search_goes_along(docs: Connection) -> None:
    docs.execute("SET embed.exact_rows = 10; SET enable_seqscan = off")
    told = explain(docs, "mode => 'dense', k => 5")
    assert (told["exact"], told["exact_up_to"]) == (False, 10)
    assert "Index Scan using docs_hnsw" in told["plan"]
    assert told["settings"]["hnsw.ef_search"] == "40"
    told = explain(docs)
    assert "Index Scan using docs_hnsw" in told["plan"]
    assert "_sparse_near_v1" in told["statement"]
    assert told["settings"]["hnsw.ef_search"] == "200"
    assert value(docs, "SHOW hnsw.ef_search") == "40", "as it was"


def test_a_filter_is_told_with_the_rows_that_are_expected(docs: Connection) -> None:
    told = explain(docs, "filter => '{\"id\": 7}', mode => 'sparse'")
    assert (told["expected"], told["exact"], told["bound"]) == (1, True, ["7"])
    assert told["condition"] == "(r0.id = ($3[1])::bigint)"
    assert told["fusion"] is None
    assert "docs_pkey" in told["plan"]


def test_it_runs_when_it_is_told_to(docs: Connection) -> None:
    assert "actual time" not in explain(docs, f"query => '{QUERY}'")["plan"]
    assert calls(docs) == 0
    told = explain(docs, f"query => '{QUERY}', k => 7, run => true")
    assert "rows=7" in told["plan"].splitlines()[0].split("actual")[1]
    assert calls(docs) == 2
    assert explain(docs, "key => '3', run => true, mode => 'dense'")["mode"] == "dense"
    state, message, _ = refused(docs, "SELECT embed.explain_search(NULL::docs, run => true)")
    assert (state, message) == ("PE003", "a search cannot run without a query")


@pytest.mark.parametrize(
    "arguments",
    ["rerank => 'multi'", "rerank => 'judge'", "diversity => 0.3", 'boost => \'{"year": {"weight": 1}}\''],
)
def test_every_kind_of_search_can_be_explained(docs: Connection, arguments: str) -> None:
    create_reranker(docs, "judge")
    docs.execute("SET embed.exact_rows = 0")
    for run in ("false", "true"):
        told = explain(docs, f"query => '{QUERY}', {arguments}, run => {run}")
        assert ("actual time" in told["plan"]) == (run == "true")


def test_it_tells_nothing_that_the_caller_may_not_know(docs: Connection, make_role: MakeRole) -> None:
    role = make_role("embed_reader")
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert refused(connection, "SELECT embed.explain_search(NULL::docs)")[0] == "42501"
        docs.execute(
            f'GRANT SELECT ON docs TO "{role.name}"; ALTER TABLE docs ENABLE ROW LEVEL SECURITY;'
            "CREATE POLICY one ON docs FOR SELECT USING (id = 1)"
        )
        told = explain(connection)
    assert told["expected"] == 1
    assert "docs_pkey" in told["plan"]


def test_errors_are_those_of_a_search(docs: Connection) -> None:
    for wrong, said in (("mode => 'no'", "no mode 'no'"), ("diversity => 2", "the diversity is 2")):
        state, message, _ = refused(docs, f"SELECT embed.explain_search(NULL::docs, {wrong})")
        assert state == "PE003"
        assert said in message
