"""What must hold once all is at rest, whatever was killed and when: one query that finds no row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg

from pg_embed.chunks import Chunking, Counter, split
from pg_embed.models.words import NUMBERS
from pg_embed.records import Embeddings
from tests.faults.deadly import registry
from tests.faults.tables import Column, Table

REST_TIMEOUT = 60  # seconds until all work is done, once the faults are over
CHECK = """
    (SELECT '{table}.{column}', row.key,
        concat('text ', row.text, '; vector ', row.vector, ', should be ', row.expected, '; ', row.failure)
    FROM (
        SELECT {key} AS key, {text} AS text, t.{column} AS vector, e.known, e.expected,
            (SELECT f.error FROM embed.failures AS f
                WHERE f.vectorizer_name = '{vectorizer}' AND f.key = {key}) AS failure
        FROM {table} AS t LEFT JOIN expected AS e ON e.model = '{model}' AND e.text = {text}
    ) AS row
    WHERE CASE
        WHEN row.text IS NULL THEN row.vector IS NOT NULL OR row.failure IS NOT NULL
        WHEN row.known IS NULL THEN true
        WHEN row.expected IS NULL THEN row.vector IS NOT NULL OR row.failure IS NULL
        ELSE row.vector IS DISTINCT FROM row.expected::{kind} OR row.failure IS NOT NULL
    END)
    UNION ALL
    (SELECT 'a failure without a row of {table}', f.key, f.error FROM embed.failures AS f
        WHERE f.vectorizer_name = '{vectorizer}' AND NOT EXISTS (SELECT FROM {table} WHERE {key} = f.key))
"""
CHUNKS = """
    SELECT '{chunks}', row.key, row::text FROM (
        (SELECT 'missing' AS what, {key} AS key, e.number, e.chunk, e.expected::{kind}::text AS vector
            FROM {table} AS t JOIN expected_chunks AS e ON e.model = '{model}' AND e.text = {text}
        EXCEPT SELECT 'missing', {key}, c.chunk_no, context || chunk, {column}::text FROM {chunks} AS c)
        UNION ALL
        (SELECT 'too much', {key}, c.chunk_no, context || chunk, {column}::text FROM {chunks} AS c
        EXCEPT SELECT 'too much', {key}, e.number, e.chunk, e.expected::{kind}::text
            FROM {table} AS t JOIN expected_chunks AS e ON e.model = '{model}' AND e.text = {text})
        UNION ALL
        (SELECT 'twice', {key}, c.chunk_no, min(chunk), '' FROM {chunks} AS c
            GROUP BY {key}, c.chunk_no HAVING count(*) > 1)
        UNION ALL
        (SELECT 'failed, or not', r.key, 0, r.text, f.error
            FROM (SELECT {key} AS key, {text} AS text FROM {table} AS t) AS r
            FULL JOIN (SELECT * FROM embed.failures WHERE vectorizer_name = '{vectorizer}') AS f
                ON f.key = r.key
            WHERE r.text IS NOT NULL AND (f.key IS NULL) <> EXISTS (
                    SELECT FROM expected_chunks AS e WHERE e.model = '{model}' AND e.text = r.text)
                OR r.text IS NULL AND f.key IS NOT NULL)
    ) AS row
"""
LEFTOVERS = """
    SELECT 'queue', q.vectorizer_id::text, q::text FROM embed._queue AS q
    UNION ALL SELECT 'backfill', b.vectorizer_id::text, b::text FROM embed._backfill AS b
    UNION ALL SELECT 'vectorizer', v.name, v.reason FROM embed._vectorizer AS v WHERE v.state <> 'active'
"""


def rest(connection: psycopg.Connection[Any], tables: Sequence[Table], timeout: float = REST_TIMEOUT) -> None:
    """Wait until nothing is queued, then strike vanished rows off the list of failures."""
    started = time.monotonic()
    for table in tables:
        connection.execute(
            "SELECT embed.wait(%s::regclass, make_interval(secs => %s))", (table.name, timeout)
        )
    print(f"rest took {time.monotonic() - started:.1f} s")
    connection.execute("SELECT embed._prune_v1(v.id, 1000000) FROM embed._vectorizer AS v")


def violations(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> list[tuple[Any, ...]]:
    """The rows of the one query that must find none."""
    _expect(connection, tables)
    checks = [_check(table, column) for table in tables for column in table.columns]
    return connection.execute(" UNION ALL ".join([*checks, LEFTOVERS])).fetchall()


def _check(table: Table, column: Column) -> str:
    return (CHUNKS if column.chunks else CHECK).format(
        table=table.name,
        chunks=column.chunks,
        column=column.name,
        key=table.key_text,
        text=column.text,
        vectorizer=f"{table.name.strip(chr(34))}_{column.beside or column.name}",
        model=column.model.name,
        kind=column.kind,
    )


def _expect(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> None:
    """Fill a temporary table with the vector of each text that is there now; none where the model refuses."""
    connection.execute("DROP TABLE IF EXISTS expected")
    connection.execute(
        'CREATE TEMPORARY TABLE expected (model text, text text COLLATE "C", known boolean, expected text)'
    )
    families = registry()
    texts: dict[str, tuple[Column, set[str]]] = {}
    for table in tables:
        for column in table.columns:
            if column.chunks:
                continue
            found = connection.execute(f"SELECT DISTINCT {column.text} FROM {table.name}").fetchall()
            texts.setdefault(column.model.name, (column, set()))[1].update(
                text for (text,) in found if text is not None
            )
    _expect_chunks(connection, tables)
    with connection.cursor() as cursor, cursor.copy("COPY expected FROM STDIN") as rows:
        for name, (column, known) in texts.items():
            embedder = families.load(column.model)
            refused = column.refused or column.model.options.get("fail_on")
            good = [text for text in known if not (refused and refused in text)]
            vectors = _spelled(embedder.embed(good, "document"), column) if good else []
            for text, vector in zip(good, vectors, strict=True):
                rows.write_row((name, text, True, vector))
            for text in known.difference(good):
                rows.write_row((name, text, True, None))
            embedder.close()


def _spelled(found: Embeddings, column: Column) -> list[str]:
    """Vectors as pgvector reads them; the sparse ones count from 1 there."""
    if column.kind != "sparsevec":
        return [str([float(number) for number in vector]) for vector in found.dense]
    assert found.sparse is not None
    rows = [zip(*found.sparse.row(row), strict=True) for row in range(len(found.sparse))]
    return [
        "{" + ",".join(f"{index + 1}:{float(value)!r}" for index, value in row) + f"}}/{NUMBERS}"
        for row in rows
    ]


def _expect_chunks(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> None:
    """The chunks of each text that is there now, with their vectors; none where the model refuses one."""
    connection.execute("DROP TABLE IF EXISTS expected_chunks")
    connection.execute(
        "CREATE TEMPORARY TABLE expected_chunks"
        ' (model text, text text COLLATE "C", number int, chunk text, expected vector)'
    )
    for table in tables:
        for column in table.columns:
            if column.chunks:
                _expect_chunks_of(connection, table, column)


def _expect_chunks_of(connection: psycopg.Connection[Any], table: Table, column: Column) -> None:
    embedder = registry().load(column.model)
    told = connection.execute(
        "SELECT chunking FROM embed.vectorizers WHERE chunk_table = %s::regclass", (column.chunks,)
    ).fetchone()
    assert told is not None
    chunking = Chunking.from_json(told[0])
    refused = column.model.options.get("fail_on")
    found = connection.execute(
        f"SELECT DISTINCT {column.text} FROM {table.name} WHERE ({column.text}) IS NOT NULL"
        f" EXCEPT SELECT text FROM expected_chunks WHERE model = '{column.model.name}'"
    ).fetchall()
    with connection.cursor() as cursor, cursor.copy("COPY expected_chunks FROM STDIN") as rows:
        for (text,) in found:
            chunks = split(text, chunking, Counter(embedder.count_tokens))
            inputs = [chunk.input for chunk in chunks] or [text]
            if refused and any(refused in given for given in inputs):
                continue
            vectors = embedder.embed(inputs, "document").dense
            for number, (given, vector) in enumerate(zip(inputs, vectors, strict=True), 1):
                rows.write_row((column.model.name, text, number, given, str(vector.tolist())))
