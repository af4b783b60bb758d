"""A model with several outputs: each into its own column, of one call and in one write."""

from __future__ import annotations

from typing import Any

import pytest

from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import refused, value

SIZES = {"dimensions": 8, "sparse_dimensions": 250_002, "multi_dimensions": 4}
MADE = (
    "SELECT embed.create_vectorizer('docs', 'body', model => 'three',"
    " sparse_column => 'words', multi_column => 'tokens')"
)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with three rows, and a vectorizer with all three outputs."""
    create_fake_model(db, "three", **SIZES)
    create_docs(db, "one fish two fish", None, "red")
    db.execute(MADE)
    return db


def stored(db: Connection, key: int) -> tuple[Any, ...]:
    row = db.execute(
        "SELECT words::text, tokens::text, cardinality(tokens) FROM docs WHERE id = %s", [key]
    ).fetchone()
    assert row is not None
    return row


def expected(db: Connection, text: str) -> tuple[Any, ...]:
    """What the model makes of a text, read by pgvector."""
    model = FakeEmbedder(FakeOptions(**SIZES))
    found = model.embed([text], "document")
    assert found.sparse is not None
    assert found.multi is not None
    indices, values = found.sparse.row(0)
    # the text form counts from 1
    words = ",".join(f"{index + 1}:{value:g}" for index, value in zip(indices, values, strict=True))
    tokens = [str(row.tolist()) for row in found.multi.row(0)]
    row = db.execute(
        "SELECT %s::sparsevec::text, %s::halfvec(4)[]::text, %s", [f"{{{words}}}/250002", tokens, len(tokens)]
    ).fetchone()
    assert row is not None
    return row


def test_each_output_is_written_exactly(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn)
    insert_docs(docs, "blue fish blue", "")
    docs.execute("SELECT embed.wait('docs')")
    for key, text in ((1, "one fish two fish"), (3, "red"), (4, "blue fish blue"), (5, "")):
        assert stored(docs, key) == expected(docs, text)
    assert stored(docs, 2) == (None, None, None)
    assert broken_rows(docs, **SIZES) == []


def test_the_columns_have_the_types_of_the_model(docs: Connection) -> None:
    found = docs.execute(
        "SELECT outputs, columns, column_name, column_type FROM embed.vectorizers"
    ).fetchone()
    assert found == (
        ["dense", "sparse", "multi"],
        ["embedding", "words", "tokens"],
        "embedding",
        "halfvec(8)",
    )
    types = docs.execute(
        "SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a"
        " WHERE a.attrelid = 'docs'::regclass AND a.attname IN ('words', 'tokens') ORDER BY a.attname"
    ).fetchall()
    assert types == [("halfvec(4)[]",), ("sparsevec(250002)",)]


def test_a_changed_text_renews_them_all_and_a_lost_one_empties_them(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("UPDATE docs SET body = 'green fish' WHERE id = 1")
    docs.execute("UPDATE docs SET body = NULL WHERE id = 3")
    docs.execute("SELECT embed.wait('docs')")
    assert stored(docs, 1) == expected(docs, "green fish")
    assert stored(docs, 3) == (None, None, None)
    assert broken_rows(docs, **SIZES) == []


def test_a_row_without_one_of_them_is_missing(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("UPDATE docs SET words = NULL WHERE id = 1")
    assert value(docs, "SELECT state FROM embed.why('docs', 1)") == "missed"
    docs.execute("SELECT embed.backfill('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert stored(docs, 1) == expected(docs, "one fish two fish")
    assert value(docs, "SELECT state FROM embed.why('docs', 1)") == "embedded"


def test_a_rejected_text_empties_them_all(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db, "three", **SIZES, fail_on="bad")
    create_docs(db, "good", "fine")
    db.execute(MADE)
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    db.execute("UPDATE docs SET body = 'bad' WHERE id = 1")
    db.execute("SELECT embed.wait('docs')")
    assert stored(db, 1) == (None, None, None)
    assert stored(db, 2) == expected(db, "fine")
    assert value(db, "SELECT count(*) FROM embed.failures") == 1


def test_some_outputs_alone(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db, "three", **SIZES)
    create_docs(db, "one fish")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_name => NULL,"
        " sparse_column => 'words')"
    )
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_name => NULL,"
        " multi_column => 'tokens')"
    )
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert stored(db, 1) == expected(db, "one fish")
    assert value(db, "SELECT array_agg(name ORDER BY name) FROM embed.vectorizers") == [
        "docs_tokens",
        "docs_words",
    ]


def test_columns_that_are_there_are_taken(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db, "three", **SIZES)
    create_docs(db, "one fish")
    db.execute("ALTER TABLE docs ADD words sparsevec(250002), ADD tokens halfvec(4)[]")
    db.execute(MADE)
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert stored(db, 1) == expected(db, "one fish")


def test_a_dropped_column_stops_the_vectorizer_and_says_so(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("ALTER TABLE docs DROP COLUMN words")
    docs.execute("INSERT INTO docs (id, body) VALUES (9, 'x')")
    state, message, _ = refused(docs, "SELECT embed.wait('docs')")
    assert state == "PE040"
    assert "a column of its vectors was dropped" in message


def test_dropping_the_vectorizer_takes_the_columns_that_are_left(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs DROP COLUMN words")
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    left = value(
        docs,
        "SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped",
    )
    assert left == ["id", "title", "body"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("sparse_column => 'embedding'", "two outputs cannot have the same column"),
        ("column_name => NULL", "the column of the vectors needs a name"),
        ("sparse_column => ''", "the column of the vectors needs a name"),
        ("sparse_column => 'title'", "column title of public.docs exists with type text"),
        ("multi_column => 'body'", "column body of public.docs exists with type text"),
    ],
)
def test_columns_that_cannot_be_are_refused(db: Connection, columns: str, message: str) -> None:
    create_fake_model(db, "three", **SIZES)
    create_docs(db)
    state, told, _ = refused(
        db, f"SELECT embed.create_vectorizer('docs', 'body', model => 'three', {columns})"
    )
    assert state == "PE003"
    assert message in told


def test_a_model_says_what_it_does_not_make(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db)
    state, message, hint = refused(db, "SELECT embed.create_vectorizer('docs', 'body', sparse_column => 's')")
    assert (state, message, hint) == (
        "PE003",
        "model 'fake' makes no sparse vectors",
        "it makes dense vectors",
    )


def test_a_model_of_scores_makes_no_vectorizer(db: Connection) -> None:
    card = '{"outputs": ["score"], "dimensions": 1, "metric": "ip", "space_id": "s"}'
    db.execute("SELECT embed.create_model('judge', 'fake', card => %s)", [card])
    create_docs(db)
    state, message, hint = refused(db, "SELECT embed.create_vectorizer('docs', 'body', model => 'judge')")
    assert state == "PE003"
    assert message == "model 'judge' makes scores of texts for a query, no vectors"
    assert "embed.rerank" in hint
    assert (
        refused(db, "SELECT embed.create_model('j', 'fake', card => %s, is_default => true)", card)[0]
        == "PE003"
    )
