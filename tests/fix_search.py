"""Tables to search: filled by the fake model itself, over a sidecar that a function plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import sql

from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.records import Embeddings
from tests.fix_worker import Connection, create_fake_model

OPTIONS = {"dimensions": 8, "sparse_dimensions": 1_000, "multi_dimensions": 8}
WORDS = ("red", "green", "blue", "fox", "dog", "cat", "lazy", "quick", "house", "money", "back", "return")

# Answers with what embed.answers holds; a reranker scores by length. Counts its calls.
SIDECAR = """
CREATE SEQUENCE embed.calls;
CREATE TABLE embed.answers (text text, output text, vector text, PRIMARY KEY (text, output));
CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, embed, pg_temp AS $$
DECLARE
    r jsonb := request;
BEGIN
    PERFORM nextval('embed.calls');
    IF r ->> 'op' = 'rerank' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'scores',
            (SELECT jsonb_agg(length(t.body) / 8.0 ORDER BY t.place)
                FROM jsonb_array_elements_text(r -> 'texts') WITH ORDINALITY AS t (body, place)));
    END IF;
    RETURN jsonb_build_object('id', r -> 'id', 'vectors', jsonb_build_array(
        (SELECT a.vector FROM embed.answers AS a
            WHERE a.text = r #>> '{texts,0}' AND a.output = r ->> 'output')));
END $$;
"""


def texts(count: int) -> list[str]:
    """Different texts of a few words, the same ones each time."""
    rng = np.random.default_rng(7)
    return [f"{' '.join(rng.choice(WORDS, rng.integers(3, 9)))} {number}" for number in range(count)]


def embeddings(given: Sequence[str]) -> Embeddings:
    """What the fake model makes of texts."""
    return FakeEmbedder(FakeOptions(**OPTIONS)).embed(list(given), "document")


def literals(given: Sequence[str]) -> list[dict[str, str]]:
    """The three vectors of each text, as pgvector reads them."""
    found = embeddings(given)
    assert found.sparse is not None
    assert found.multi is not None
    rows = []
    for number in range(len(given)):
        pairs = zip(*map(np.ndarray.tolist, found.sparse.row(number)), strict=True)
        tokens = [_list(vector) for vector in found.multi.row(number)]
        rows.append(
            {
                "dense": _list(found.dense[number]),
                "sparse": "{"
                + ",".join(f"{i + 1}:{w:g}" for i, w in pairs)
                + f"}}/{OPTIONS['sparse_dimensions']}",
                "multi": "{" + ",".join(f'"{token}"' for token in tokens) + "}",
            }
        )
    return rows


def _list(vector: Any) -> str:
    return "[" + ",".join(repr(float(number)) for number in vector) + "]"


def play_sidecar(db: Connection) -> None:
    """A sidecar for a few queries, and the model `three`."""
    db.execute(SIDECAR)
    create_fake_model(db, "three", **OPTIONS)


def answer(db: Connection, *queries: str) -> None:
    """Let the sidecar know queries."""
    for query, row in zip(queries, literals(queries), strict=True):
        for output, vector in row.items():
            db.execute(
                "INSERT INTO embed.answers VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [query, output, vector],
            )


def calls(db: Connection) -> int:
    """How often the model was asked."""
    row = db.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM embed.calls").fetchone()
    assert row is not None
    return int(row[0])


def fill(db: Connection, table: str, text: str = "body", multi: bool = False) -> None:
    """Write each row's vectors, as a worker would."""
    names = {"table": sql.SQL(table), "text": sql.SQL(text)}
    rows = db.execute(
        sql.SQL("SELECT DISTINCT {text} FROM {table} WHERE {text} IS NOT NULL").format(**names)
    ).fetchall()
    given = [row[0] for row in rows]
    vectors = literals(given)
    columns = {"dense": "embedding", "sparse": "words"} | ({"multi": "tokens"} if multi else {})
    db.execute("DROP TABLE IF EXISTS pg_temp.filled")
    db.execute("CREATE TEMPORARY TABLE filled (body text PRIMARY KEY, dense text, sparse text, multi text)")
    with db.cursor() as cursor, cursor.copy("COPY pg_temp.filled FROM STDIN") as copy:
        for body, row in zip(given, vectors, strict=True):
            copy.write_row((body, row["dense"], row["sparse"], row["multi"]))
    types = {"dense": "vector", "sparse": "sparsevec", "multi": "halfvec[]"}
    sets = sql.SQL(", ").join(
        sql.SQL("{} = f.{}::{}").format(
            sql.Identifier(column), sql.Identifier(output), sql.SQL(types[output])
        )
        for output, column in columns.items()
    )
    db.execute(
        sql.SQL("UPDATE {table} AS t SET {sets} FROM filled AS f WHERE f.body = t.{text}").format(
            sets=sets, **names
        )
    )


def create_docs(db: Connection, count: int, multi: bool = False) -> None:
    """`docs` with so many rows, a vectorizer, and its vectors."""
    play_sidecar(db)
    db.execute(
        "CREATE TABLE docs (id bigint PRIMARY KEY, body text, lang text, year int, tags text[], meta jsonb)"
    )
    vectorize(db, "docs", multi)
    with (
        db.cursor() as cursor,
        cursor.copy("COPY docs (id, body, lang, year, tags, meta) FROM STDIN") as copy,
    ):
        for number, text in enumerate(texts(count)):
            lang = ("en", "de", None)[number % 3]
            tags = f"{{t{number % 5},t{number % 7}}}"
            copy.write_row((number, text, lang, 2000 + number % 25, tags, f'{{"a": {number % 4}}}'))
    fill(db, "docs", multi=multi)


def vectorize(db: Connection, table: str, multi: bool = False) -> None:
    """A vectorizer of the model `three` for the column `body`."""
    db.execute(
        "SELECT embed.create_vectorizer(%s::regclass, 'body', model => 'three', column_type => 'vector',"
        " sparse_column => 'words', multi_column => %s)",
        [table, "tokens" if multi else None],
    )
