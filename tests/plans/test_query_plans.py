"""The plans of queries with embed(): the index is used, and the model is asked once for each text."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[Any]
CARD = {"dimensions": 3, "metric": "cosine", "space_id": "plans", "max_tokens": 100}

# Stands for the sidecar: answers every text with a vector and counts the calls, which a sequence does even
# inside statements that may not write.
COUNTING_CALL = """
CREATE SEQUENCE embed.calls;
CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM nextval('embed.calls');
    RETURN jsonb_build_object('id', request::jsonb ->> 'id', 'space_id', 'plans', 'tokens', 1,
        'vectors', jsonb_build_array(format('[%s,1,0]', length(request::jsonb -> 'texts' ->> 0))))::text;
END $$;
"""


@pytest.fixture
def docs(db: Connection) -> Connection:
    """5,000 rows with vectors and an HNSW index, and a sidecar that counts."""
    db.execute(COUNTING_CALL)
    db.execute("SELECT embed.create_model('fake', 'fake', card => %s)", [Jsonb(CARD)])
    db.execute("CREATE TABLE docs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("INSERT INTO docs (body) SELECT 'text ' || i FROM generate_series(1, 5000) AS i")
    db.execute("UPDATE docs SET embedding = format('[%s,1,%s]', id % 71, id % 13)::vector::halfvec")
    db.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding halfvec_cosine_ops)")
    db.execute("ANALYZE docs")
    return db


def plan(db: Connection, statement: str) -> str:
    """The plan as text."""
    return "\n".join(row[0] for row in db.execute(f"EXPLAIN (COSTS off) {statement}").fetchall())


def calls(db: Connection) -> int:
    """How often the model was asked."""
    row = db.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM embed.calls").fetchone()
    assert row is not None
    return int(row[0])


NEAREST = "SELECT id FROM docs ORDER BY embedding <=> embed('question') LIMIT 5"


def test_order_by_embed_uses_the_index_and_asks_the_model_once(docs: Connection) -> None:
    assert "docs_hnsw" in plan(docs, NEAREST)
    before = calls(docs)
    assert len(docs.execute(NEAREST).fetchall()) == 5
    assert calls(docs) - before == 1


def test_explain_alone_does_not_ask_for_every_row(docs: Connection) -> None:
    before = calls(docs)
    plan(docs, NEAREST)
    assert calls(docs) - before <= 1


def test_a_sequential_scan_of_5000_rows_asks_the_model_once(docs: Connection) -> None:
    docs.execute("SET enable_indexscan = off")
    assert "Seq Scan" in plan(docs, NEAREST)
    docs.execute(NEAREST)
    assert calls(docs) == 1


def test_a_scalar_subselect_uses_the_index_and_asks_once(docs: Connection) -> None:
    statement = "SELECT id FROM docs ORDER BY embedding <=> (SELECT embed('question')) LIMIT 5"
    assert "docs_hnsw" in plan(docs, statement)
    docs.execute(statement)
    assert calls(docs) == 1


def test_two_texts_in_one_statement_are_asked_for_once_each(docs: Connection) -> None:
    docs.execute(
        "SELECT id FROM docs"
        " ORDER BY least(embedding <=> embed('one'), embedding <=> embed('another')) LIMIT 5"
    )
    assert calls(docs) == 2


def test_the_same_text_in_a_later_statement_is_remembered(docs: Connection) -> None:
    for _ in range(3):
        docs.execute(NEAREST)
    assert calls(docs) == 1


def test_embed_document_and_embed_are_remembered_apart(docs: Connection) -> None:
    docs.execute("SELECT embed('x'), embed.embed_document('x'), embed('x'), embed.embed_document('x')")
    assert calls(docs) == 2


def test_a_switch_of_the_default_model_is_not_answered_from_memory(docs: Connection) -> None:
    other = {**CARD, "space_id": "another space"}
    docs.execute("SELECT embed.create_model('other', 'fake', card => %s)", [Jsonb(other)])
    docs.execute("SELECT embed('x')")
    docs.execute("SET embed.default_model = 'other'")
    docs.execute("SELECT embed('x')")
    assert calls(docs) == 2


def test_the_claim_reads_due_entries_by_index_and_no_more_than_it_takes(docs: Connection) -> None:
    docs.execute("DELETE FROM embed._queue")
    docs.execute(
        "INSERT INTO embed._queue (vectorizer_id, ids, n)"
        " SELECT v.id, ARRAY[i], 1 FROM embed._vectorizer AS v, generate_series(1, 50000) AS i"
    )
    docs.execute("ANALYZE embed._queue")
    docs.execute("SELECT pg_stat_force_next_flush()")
    docs.execute("SELECT pg_stat_reset()")
    row = docs.execute(
        "SELECT cardinality(c.entries)"
        " FROM embed._vectorizer AS v, embed._claim_v1(7, v.id, 1, 100, '1 minute') AS c"
    ).fetchone()
    assert row == (100,)
    docs.execute("SELECT pg_stat_force_next_flush()")
    scanned = docs.execute(
        "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relid = 'embed._queue'::regclass"
    ).fetchone()
    assert scanned is not None
    assert scanned[0] == 0
    assert scanned[1] <= 1_000
