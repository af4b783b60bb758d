"""pg_embed.search over tables of chunks gives what SQL gives."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from pg_embed.errors import InvalidArgument
from pg_embed.search import ChunkHit, Search, search, search_chunks, search_chunks_async, similar
from tests.fix_search import answer, calls, literals, play_sidecar, texts
from tests.fix_worker import Connection

QUERY = "quick red fox 7"
ROWS, CHUNKS = 30, 80


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a table of chunks, filled as a worker would."""
    play_sidecar(db)
    answer(db, QUERY)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, chunk text)")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_type => 'vector',"
        " storage => 'table', sparse_column => 'words')"
    )
    db.execute("INSERT INTO docs SELECT i, 'row ' || i, 'own' FROM generate_series(0, %s) AS i", [ROWS - 1])
    given = texts(CHUNKS)
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO docs_embedding (id, chunk_no, chunk, context, chunk_hash, embedding, words)"
            " VALUES (%s, %s, %s, 'above', 0, %s, %s)",
            [
                (number % ROWS, number // ROWS, text, found["dense"], found["sparse"])
                for number, (text, found) in enumerate(zip(given, literals(given), strict=True))
            ],
        )
    return db


def flat(hits: list[ChunkHit]) -> list[tuple[Any, ...]]:
    return [(h.row["id"], h.chunk_no, h.chunk, h.context, h.score, h.chunk_score) for h in hits]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, ""),
        ({"k": 3, "mode": "dense"}, ", k => 3, mode => 'dense'"),
        ({"per_row": 3, "mode": "sparse"}, ", per_row => 3, mode => 'sparse'"),
        (
            {"filter": {"id": {">": 9}}, "min_score": 0.5},
            ', filter => \'{"id": {">": 9}}\', min_score => 0.5',
        ),
        ({"fusion": "rrf", "weights": (1, 0.5)}, ", fusion => 'rrf', weights => '{1,0.5}'"),
        (
            {"diversity": 0.4, "skip": 2, "boost": {"id": {"weight": 0.5}}},
            ', diversity => 0.4, skip => 2, boost => \'{"id": {"weight": 0.5}}\'',
        ),
    ],
)
async def test_python_and_sql_give_the_same_chunks(
    docs: Connection, dsn: str, options: Any, arguments: str
) -> None:
    wanted = docs.execute(
        "SELECT (hit).id, chunk_no, chunk, context, score, chunk_score"
        f" FROM embed.search_chunks(NULL::docs, '{QUERY}'{arguments})".encode()
    ).fetchall()
    assert wanted
    hits = search_chunks(docs, "docs", QUERY, **options)
    assert flat(hits) == wanted
    assert {hit.row["chunk"] for hit in hits} == {"own"}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        assert await search_chunks_async(connection, "docs", QUERY, **options) == hits
    if "per_row" not in options:
        assert [hit.row for hit in search(docs, "docs", QUERY, **options)] == [hit.row for hit in hits]


def test_a_condition_and_a_boost_in_sql_hold_for_chunks(docs: Connection) -> None:
    own = Search(
        "docs",
        QUERY,
        where=sql.SQL("id % {} = 1").format(3),
        boost=sql.SQL("id / 10.0"),
        columns=["id"],
        candidates=100,
    )
    hits = own.run_chunks(docs)
    assert [(hit.row, hit.score) for hit in hits] == [(hit.row, hit.score) for hit in own.run(docs)]
    assert len(hits) == 10
    assert all(hit.row["id"] % 3 == 1 for hit in hits)


def test_rows_like_one_come_without_a_model(docs: Connection) -> None:
    wanted = docs.execute("SELECT (hit).id, score FROM embed.similar(NULL::docs, '7', k => 4)").fetchall()
    assert len(wanted) == 4
    assert [(hit.row["id"], hit.score) for hit in similar(docs, "docs", 7, k=4)] == wanted
    assert calls(docs) == 0


def test_what_has_no_chunks_is_told(docs: Connection) -> None:
    with pytest.raises(InvalidArgument, match="by a query"):
        Search("docs", key=7).run_chunks(docs)
    with pytest.raises(InvalidArgument, match="per_row is 0"):
        search_chunks(docs, "docs", QUERY, per_row=0)
    docs.execute("CREATE TABLE plain (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('plain', 'body', model => 'three')")
    with pytest.raises(InvalidArgument, match="not found by chunks"):
        search_chunks(docs, "plain", QUERY)
