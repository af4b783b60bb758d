"""A vectorizer that is read, written as code, dropped and made by that code is what it was."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from sqlalchemy import Engine

from pg_embed.alembic.catalog import read
from pg_embed.alembic.differences import drop
from tests.fix_search import play_sidecar
from tests.fix_worker import Connection, create_bm25_model

NOT_KEPT = {"created_at"}
INDEX = "kind, m, ef_construction, min_rows, memory, parallel_workers"
COMMON = """
    model => 'three', filter => 'id > 3', max_attempts => 4, name => 'it''s :one', column_name => 'a vector',
    sparse_column => 'its words', multi_column => 'its tokens', index => 'hnsw'
"""
CHUNKS = """
    storage => 'table', column_type => 'vector', chunk_table => 'Its parts', chunk_view => 'its_parts',
    chunking => '{"size": 12, "overlap": 3, "split": "markdown", "headings": true}'
"""
WAYS = {
    "columns": f"template => '{{title}}: {{{{it''s}}}} 100%% {{body}}', {COMMON}",
    "columns, by a hook": f"input => '{{title,body}}'::text[], prepare => 'clean', {COMMON}",
    "chunks": f"template => '{{title}}\n{{body}}', {COMMON}, {CHUNKS}",
    "chunks, by a hook": f"input => 'body'::text, prepare => 'clean', {COMMON}, {CHUNKS}",
    "chunks of two models": (
        f"input => 'body'::text, model => 'three', sparse => 'bm25', name => 'two', {CHUNKS}"
    ),
    "columns of two models": "input => 'body'::text, model => 'three', sparse => 'bm25'",
    "sparse alone": "input => 'body'::text, model => 'three', column_name => NULL, sparse_column => 'words'",
}
DETAILS = """
SELECT embed.create_index({0}, 'hnsw', m => 24, ef_construction => 99, min_rows => 5, memory => '1GB',
    parallel_workers => 2);
SELECT embed.set_replication({0}, 'always');
SELECT embed.pause({0});
"""
SAID = "SELECT obj_description(chunk_view, 'pg_class') FROM embed.vectorizers"


def catalog_row(db: Connection) -> dict[str, Any]:
    """All that the catalog says of the only vectorizer, and of its index."""
    cursor = db.execute("SELECT v.* FROM embed.vectorizers AS v")
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    assert len(rows) == 1
    index = db.execute(f"SELECT {INDEX} FROM embed._index".encode()).fetchall()
    kept = {name: value for name, value in rows[0].items() if name not in NOT_KEPT}
    return {**kept, "index": index, "said": db.execute(SAID).fetchall()}


@pytest.mark.parametrize("details", [False, True], ids=["plain", "in detail"])
@pytest.mark.parametrize("way", WAYS)
def test_a_vectorizer_comes_back_as_it_was(db: Connection, engine: Engine, way: str, details: bool) -> None:
    play_sidecar(db)
    create_bm25_model(db)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    row = db.execute(f"SELECT embed.create_vectorizer('docs', {WAYS[way]})".encode()).fetchone()
    assert row is not None
    is_table = "chunks" in way
    if details and way != "sparse alone":
        db.execute(DETAILS.replace("{0}", "'" + row[0].replace("'", "''") + "'").encode())
    if details and is_table:
        view = db.execute("SELECT chunk_view::text FROM embed.vectorizers").fetchall()[0][0]
        db.execute(f"COMMENT ON VIEW {view} IS 'Chunks. Declared by a model.'".encode())
    before = catalog_row(db)
    with engine.connect() as connection:
        dropped = drop(read(connection).vectorizers[0])
        code = render_python_code(ops.UpgradeOps([dropped.reverse()]))
        op = Operations(MigrationContext.configure(connection))
        op.invoke(dropped)
        connection.commit()
        assert db.execute("SELECT FROM embed.vectorizers").rowcount == 0
        exec("if True:\n" + code, {"op": op, "sa": sa})
        connection.commit()
    after = catalog_row(db)
    if details and is_table:
        assert after.pop("said")[0][0].endswith(" Declared by a model.")
        before.pop("said")
    assert after == before


def test_the_type_of_chunks_is_known_wherever_pgvector_stands(db: Connection, engine: Engine) -> None:
    play_sidecar(db)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', storage => 'table',"
        " column_type => 'vector')"
    )
    db.execute("CREATE SCHEMA elsewhere; ALTER EXTENSION vector SET SCHEMA elsewhere")
    with engine.connect() as connection:
        assert read(connection).vectorizers[0].column_type == "vector"
