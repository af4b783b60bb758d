"""pg_embed.search over real connections gives what embed.search gives in SQL."""

from __future__ import annotations

import datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from pg_embed.errors import DatabaseError, InvalidArgument, NotInstalled
from pg_embed.search import Hit, Search, recency, search, search_async, similar, similar_async
from tests.fix_search import answer, calls, create_docs, fill, vectorize
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
    db.execute("ALTER TABLE docs ADD day date; UPDATE docs SET day = date '2026-01-01' + id::int")
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
        ({"diversity": 0.4, "skip": 3}, ", diversity => 0.4, skip => 3"),
        ({"boost": {"year": {"weight": 2}}}, ', boost => \'{"year": {"weight": 2}}\''),
        (
            {"boost": {"day": {"half_life": datetime.timedelta(days=3), "weight": 2}}, "mode": "dense"},
            ', boost => \'{"day": {"half_life": "3 days", "weight": 2}}\', mode => \'dense\'',
        ),
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
    hits = search(docs, "docs", QUERY, filter={"day": {"<": datetime.date(2026, 1, 6)}})
    assert {hit.row["id"] for hit in hits} == {0, 1, 2, 3, 4}


def test_errors_are_ours(docs: Connection, bare_db: Connection) -> None:
    with pytest.raises(InvalidArgument, match="no column no"):
        search(docs, "docs", QUERY, filter={"no": 1})
    for name, quoted in (("nothing", '"nothing"'), ("public.nothing", '"public"."nothing"')):
        with pytest.raises(InvalidArgument, match=f"no table {quoted}") as caught:
            search(docs, name, QUERY)
        assert "search_path" in (caught.value.hint or "")
    with pytest.raises(DatabaseError, match="does not exist"):
        search(docs, "docs", QUERY, where=sql.SQL("year > 0::nothing"))
    with pytest.raises(NotInstalled):
        search(bare_db, "pg_class", QUERY)


def test_a_search_can_be_kept_and_run_again(docs: Connection) -> None:
    kept = Search("docs", QUERY, k=4, mode="sparse")
    assert kept.run(docs) == kept.run(docs)
    assert hash(kept) == hash(Search("docs", QUERY, k=4, mode="sparse"))


async def test_rows_like_a_row_are_those_of_sql(docs: Connection, dsn: str) -> None:
    for options, arguments in (
        ({}, ""),
        ({"mode": "sparse", "k": 4}, ", mode => 'sparse', k => 4"),
        ({"diversity": 0.5, "skip": 1}, ", diversity => 0.5, skip => 1"),
    ):
        wanted = docs.execute(
            "SELECT (hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score, NULL::real"
            f" FROM embed.similar(NULL::docs, '7'{arguments})".encode()
        ).fetchall()
        assert wanted
        assert flat(similar(docs, "docs", 7, **options)) == wanted
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            assert flat(await similar_async(connection, "docs", "7", **options)) == wanted


def test_a_key_of_several_columns_is_a_tuple(docs: Connection) -> None:
    docs.execute("CREATE TABLE pairs (a text, b int, body text, PRIMARY KEY (a, b))")
    vectorize(docs, "pairs")
    docs.execute("INSERT INTO pairs SELECT 'it''s', id, body FROM docs")
    fill(docs, "pairs")
    found = similar(docs, "pairs", ("it's", 4), k=100)
    assert {hit.row["b"] for hit in found} == {*range(100)} - {4}


def test_a_search_has_a_query_or_a_key(docs: Connection) -> None:
    for wrong in (Search("docs"), Search("docs", "x", key=1)):
        with pytest.raises(InvalidArgument, match="a query or by a key"):
            wrong.run(docs)
    with pytest.raises(InvalidArgument, match="not reranked"):
        similar(docs, "docs", 1, rerank="judge")


def test_a_boost_in_sql_is_that_in_json(docs: Connection) -> None:
    boost = recency("day", datetime.timedelta(days=10), 2)
    with docs.transaction():
        hits = search(docs, "docs", QUERY, boost=boost)
        assert hits == search(
            docs, "docs", QUERY, boost={"day": {"half_life": datetime.timedelta(days=10), "weight": 2}}
        )
        plain = {hit.row["id"]: hit.score for hit in search(docs, "docs", QUERY, k=100)}
        row = docs.execute("SELECT extract(epoch FROM now() - date '2026-01-01') / 86400").fetchone()
        assert row is not None
        for hit in hits:
            age = max(float(row[0]) - hit.row["id"], 0)
            assert hit.score == pytest.approx(plain[hit.row["id"]] + 2 * 0.5 ** (age / 10), abs=1e-5)
    both = sql.SQL(" + ").join([boost, sql.SQL("year / {}").format(100.0)])
    hits = search(docs, "docs", QUERY, mode="dense", boost=both)
    assert all(hit.score > hit.dense_score + 20 for hit in hits if hit.dense_score is not None)


@pytest.mark.parametrize(("half_life", "weight"), [(0, 1), (-1, 1), (1, float("nan")), (1, float("inf"))])
def test_a_recency_that_cannot_be_is_told(half_life: int, weight: float) -> None:
    with pytest.raises(InvalidArgument, match=r"half_life is|the weight is"):
        recency("day", datetime.timedelta(days=half_life), weight)


async def test_a_search_explains_itself(docs: Connection, dsn: str) -> None:
    before = calls(docs)
    kept = Search(
        "docs", QUERY, where=sql.SQL("year > {}").format(2010), boost=sql.SQL("year"), diversity=0.5
    )
    told = kept.explain(docs)
    assert calls(docs) == before, "no model is asked"
    assert told["exact"] is True
    assert "(year > 2010\n)" in told["condition"]
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as connection:
        assert (await kept.explain_async(connection))["statement"] == told["statement"]
        ran = await kept.explain_async(connection, run=True)
    assert "actual time" in ran["plan"]
    assert "actual" not in told["plan"]
    assert Search("docs", key=3).explain(docs)["mode"] == "hybrid"
