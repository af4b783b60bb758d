"""pg_embed.search over real connections gives what embed.search gives in SQL."""

from __future__ import annotations

import datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from pg_embed.errors import DatabaseError, InvalidArgument, NotInstalled
from pg_embed.search import Hit, Search, search, search_async
from tests.fix_search import answer, create_docs
from tests.fix_worker import Connection

QUERY = "quick red fox 7"
IN_SQL = (
    "SELECT (hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score, rerank_score"
    f" FROM embed.search(NULL::docs, '{QUERY}'{{}})"
)


@pytest.fixture
def docs(db: Connection) -> Connection:
    create_docs(db, 100)
    answer(db, QUERY)
    return db


def flat(hits: list[Hit]) -> list[tuple[Any, ...]]:
    return [
        (h.row["id"], h.score, h.dense_rank, h.dense_score, h.sparse_rank, h.sparse_score, h.rerank_score)
        for h in hits
    ]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, ""),
        ({"k": 3, "mode": "dense"}, ", k => 3, mode => 'dense'"),
        ({"fusion": "rrf", "weights": (1, 0.5)}, ", fusion => 'rrf', weights => '{1,0.5}'"),
        ({"candidates": 12, "min_score": 0.5}, ", candidates => 12, min_score => 0.5"),
        (
            {"filter": {"lang": "en", "year": {">": 2005}}},
            ', filter => \'{"lang": "en", "year": {">": 2005}}\'',
        ),
        ({"vectorizer": "docs_embedding"}, ", vectorizer => 'docs_embedding'"),
    ],
)
async def test_python_and_sql_give_the_same_rows(
    docs: Connection, dsn: str, options: Any, arguments: str
) -> None:
    wanted = docs.execute(IN_SQL.format(arguments).encode()).fetchall()
    assert wanted
    assert flat(search(docs, "docs", QUERY, **options)) == wanted
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        assert flat(await search_async(connection, "public.docs", QUERY, **options)) == wanted


def test_rows_come_by_the_names_of_their_columns(docs: Connection) -> None:
    (hit,) = search(docs, sql.Identifier("docs"), QUERY, k=1)
    with docs.cursor(row_factory=dict_row) as cursor:
        assert hit.row == cursor.execute("SELECT * FROM docs WHERE id = %s", [hit.row["id"]]).fetchone()
    (few,) = search(docs, "docs", QUERY, k=1, columns=["body", "id"])
    assert few.row == {"body": hit.row["body"], "id": hit.row["id"]}


def test_a_connection_s_own_rows_do_no_harm(docs: Connection, dsn: str) -> None:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        assert search(connection, "docs", QUERY) == search(docs, "docs", QUERY)


def test_a_condition_in_sql_holds_in_both_legs(docs: Connection) -> None:
    where = sql.SQL("year > {} AND body LIKE {} -- said").format(2010, "%r%")
    hits = search(docs, "docs", QUERY, where=where, filter={"lang": "en"}, k=100)
    wanted = docs.execute(
        "SELECT id FROM docs WHERE year > 2010 AND body LIKE '%r%' AND lang = 'en'"
    ).fetchall()
    assert {hit.row["id"] for hit in hits} == {row[0] for row in wanted}
    assert hits


def test_a_condition_that_is_a_text_is_refused(docs: Connection) -> None:
    with pytest.raises(InvalidArgument, match=r"psycopg\.sql"):
        Search("docs", QUERY, where="year > 2010").run(docs)  # type: ignore[arg-type]


def test_values_of_a_filter_may_be_dates(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs ADD day date; UPDATE docs SET day = date '2026-01-01' + id::int")
    hits = search(docs, "docs", QUERY, filter={"day": {"<": datetime.date(2026, 1, 6)}})
    assert {hit.row["id"] for hit in hits} == {0, 1, 2, 3, 4}


def test_errors_are_ours(docs: Connection, bare_db: Connection) -> None:
    with pytest.raises(InvalidArgument, match="no column no"):
        search(docs, "docs", QUERY, filter={"no": 1})
    with pytest.raises(DatabaseError, match="does not exist"):
        search(docs, "nothing", QUERY)
    with pytest.raises(NotInstalled):
        search(bare_db, "pg_class", QUERY)


def test_a_search_can_be_kept_and_run_again(docs: Connection) -> None:
    kept = Search("docs", QUERY, k=4, mode="sparse")
    assert kept.run(docs) == kept.run(docs)
    assert hash(kept) == hash(Search("docs", QUERY, k=4, mode="sparse"))
