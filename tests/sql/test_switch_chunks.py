"""Switches of vectorizers with chunks in SQL: which table stands where, what goes over, what is refused."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_docs, create_fake_model, insert_docs
from tests.sql.helpers import clear_queue, queued, refused, value

FILL = (
    "INSERT INTO {} (id, chunk_no, chunk, context, chunk_hash, embedding)"
    " SELECT id, 1, body, '', 0, array_fill(id::real, ARRAY[{}])::vector::halfvec FROM docs"
)
RELATIONS = (
    "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    " AND relname LIKE 'docs\\_%' AND relkind IN ('r', 'v') ORDER BY 1"
)
WIDTH = "SELECT array_length(embedding::vector::real[], 1) FROM {} LIMIT 1"
BEFORE = [("docs_chunks", "v"), ("docs_embedding", "r")]


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with three rows that have a chunk each, of model `fake`, and a wider model `wide`."""
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    create_docs(db, "one", "two", "three")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', storage => 'table')")
    db.execute(FILL.format("docs_embedding", 4).encode())
    settle(db)
    return db


def settle(db: Connection) -> None:
    """Let nothing wait, as if a worker had done it."""
    clear_queue(db)
    db.execute("DELETE FROM embed._backfill")


def begin(db: Connection, arguments: str = "") -> str:
    """Begin a switch to `wide`, filled at once; the name of its shadow."""
    name = value(db, f"SELECT embed.switch_model('docs', 'wide'{arguments})")
    db.execute(FILL.format("docs_embedding_next", 7).encode())
    settle(db)
    return str(name)


def finish(db: Connection) -> None:
    db.execute("SELECT embed.compare_switch('docs')")
    db.execute("SELECT embed.finish_switch('docs')")


def relations(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(RELATIONS.encode()).fetchall()


def width(db: Connection, relation: str = "docs_chunks") -> int:
    return int(value(db, WIDTH.format(relation)))


def test_a_switch_makes_chunks_that_no_search_sees(docs: Connection) -> None:
    assert begin(docs) == "docs_embedding_next"
    assert relations(docs) == [
        ("docs_chunks", "v"),
        ("docs_chunks_next", "v"),
        ("docs_embedding", "r"),
        ("docs_embedding_next", "r"),
    ]
    told = value(docs, "SELECT embed._search_legs_v1('docs'::regclass, NULL, NULL, false)")
    assert [leg["chunks"]["table"] for leg in told["legs"]["dense"]] == ["public.docs_embedding"]
    insert_docs(docs, "four")
    assert queued(docs) == queued(docs, "docs_embedding_next") == ["4"]
    docs.execute("DELETE FROM docs WHERE id = 2")
    assert queued(docs) == queued(docs, "docs_embedding_next") == ["4", "2"]


def test_the_swap_exchanges_tables_and_views_in_one_transaction(docs: Connection, dsn: str) -> None:
    begin(docs)
    docs.execute("SELECT embed.compare_switch('docs')")
    found = docs.execute("SELECT state, overlap_at_10, compared FROM embed.switches").fetchall()
    assert found == [("ready", 1.0, 3)]
    with psycopg.connect(dsn) as other:
        assert value(other, "SELECT embed.finish_switch('docs')") == "docs_embedding"
        assert (width(other), width(other, "docs_embedding"), width(other, "docs_chunks_old")) == (7, 7, 4)
    found = docs.execute("SELECT name, model, chunk_table::text, chunk_view::text FROM embed.vectorizers")
    assert found.fetchall() == [("docs_embedding", "wide", "docs_embedding", "docs_chunks")]
    told = value(docs, "SELECT embed._search_legs_v1('docs'::regclass, NULL, NULL, false)")
    assert [leg["model"] for leg in told["legs"]["dense"]] == ["wide"]
    assert [leg["chunks"]["table"] for leg in told["legs"]["dense"]] == ["public.docs_embedding"]
    for wide in (4, 7, 4):
        docs.execute("SELECT embed.rollback_switch('docs')")
        assert (width(docs), width(docs, "docs_embedding")) == (wide, wide)
    docs.execute("SELECT embed.forget_switch('docs')")
    assert relations(docs) == BEFORE
    assert value(docs, "SELECT model FROM embed.vectorizers") == "fake"


def test_what_is_made_or_kept_goes_when_nobody_wants_it(docs: Connection) -> None:
    begin(docs)
    docs.execute("SELECT embed.abort_switch('docs')")
    assert relations(docs) == BEFORE
    assert (width(docs), value(docs, "SELECT model FROM embed.vectorizers")) == (4, "fake")
    begin(docs, ", keep => 'drop'")
    finish(docs)
    assert relations(docs) == BEFORE
    assert (width(docs), value(docs, "SELECT count(*) FROM embed._vectorizer")) == (7, 1)
    docs.execute("SELECT embed.switch_model('docs', 'fake')")
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    assert relations(docs) == []


def test_rights_comments_and_options_go_over(docs: Connection, make_role: MakeRole) -> None:
    role = make_role("embed_reader")
    docs.execute(f'GRANT SELECT ON docs, docs_embedding TO "{role.name}"')
    docs.execute(f'GRANT SELECT (id, chunk, embedding) ON docs_chunks TO "{role.name}" WITH GRANT OPTION')
    begin(docs)
    docs.execute("COMMENT ON VIEW docs_chunks IS 'ours'")
    docs.execute("COMMENT ON COLUMN docs_embedding.chunk IS 'a part'")
    docs.execute("ALTER VIEW docs_chunks SET (security_barrier = true)")
    docs.execute("ALTER TABLE docs_embedding SET (fillfactor = 90)")
    docs.execute(f'GRANT SELECT ON docs_embedding_next, docs_chunks_next TO "{role.name}", PUBLIC')
    docs.execute("ALTER TABLE docs_embedding FORCE ROW LEVEL SECURITY")
    finish(docs)
    with psycopg.connect(role.dsn, autocommit=True) as reader:
        assert (
            value(reader, "SELECT array_length(embedding::vector::real[], 1) FROM docs_chunks LIMIT 1") == 7
        )
        assert refused(reader, "SELECT chunk_no FROM docs_chunks")[0] == "42501"
    assert value(docs, "SELECT obj_description('docs_chunks'::regclass)") == "ours"
    assert value(docs, "SELECT col_description('docs_embedding'::regclass, 4)") == "a part"
    assert value(docs, "SELECT reloptions FROM pg_class WHERE relname = 'docs_chunks'") == [
        "security_invoker=true", "security_barrier=true",
    ]  # fmt: skip
    same = (
        "SELECT count(DISTINCT (a.*)::text) FROM pg_class AS c, LATERAL (SELECT relacl, relrowsecurity,"
        " relforcerowsecurity, (SELECT array_agg(o ORDER BY o) FROM unnest(reloptions) AS o)) AS a"
        " WHERE c.relname IN ('{0}', '{0}_old')"
    )
    assert value(docs, same.format("docs_chunks")) == value(docs, same.format("docs_embedding")) == 1
    for relation in ("docs_embedding", "docs_embedding_old"):
        assert value(docs, "SELECT has_table_privilege('embed_worker', %s, 'INSERT')", relation)
    docs.execute(f'DROP OWNED BY "{role.name}"')


def test_columns_that_were_renamed_keep_their_names(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs_embedding RENAME chunk TO passage")
    docs.execute("ALTER VIEW docs_chunks RENAME chunk_no TO place")
    docs.execute("SELECT embed.switch_model('docs', 'wide')")
    settle(docs)
    docs.execute("SELECT embed.finish_switch('docs', force => true)")
    assert docs.execute("SELECT place, chunk FROM docs_chunks").fetchall() == []
    assert docs.execute("SELECT chunk_no, passage FROM docs_embedding").fetchall() == []


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("CREATE VIEW near AS SELECT chunk FROM docs_chunks", "view public.near"),
        (
            "CREATE TABLE notes (of bigint REFERENCES docs_embedding)",
            "constraint notes_of_fkey on table public.notes",
        ),
        ("CREATE POLICY mine ON docs_embedding AS RESTRICTIVE USING (false)", "policy mine on table"),
        ("ALTER TABLE docs_embedding ADD COLUMN note text", "column note of table public.docs_embedding"),
        (
            "CREATE OR REPLACE VIEW docs_chunks WITH (security_invoker) AS"
            " SELECT c.*, d AS source FROM docs_embedding AS c JOIN docs AS d USING (id) WHERE id > 1",
            "view public.docs_chunks with another text than it was given",
        ),
    ],
)
def test_what_would_keep_the_old_chunks_is_refused_or_told(
    docs: Connection, statement: str, told: str
) -> None:
    docs.execute(statement.encode())
    code, message, hint = refused(docs, "SELECT embed.switch_model('docs', 'wide')")
    assert code == "PE003"
    assert told in message
    assert hint
    assert not value(docs, "SELECT to_regclass('docs_embedding_next') IS NOT NULL")
    begin(docs, ", dependants => 'ignore'")
    finish(docs)
    assert width(docs, "docs_embedding") == 7


def test_indexes_that_the_new_chunks_lack_are_told(docs: Connection) -> None:
    docs.execute("CREATE INDEX by_hand ON docs_embedding USING hnsw (embedding halfvec_cosine_ops)")
    docs.execute("CREATE INDEX words ON docs_embedding USING gin (to_tsvector('english', chunk))")
    told: list[str] = []
    docs.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    begin(docs)
    assert "the new chunks have no indexes like these of public.docs_embedding: words" in told
    assert docs.execute("SELECT kind, min_rows FROM embed._index").fetchall() == [("auto", 0)]


def test_chunks_are_as_long_as_before_or_as_the_model_reads(docs: Connection) -> None:
    assert value(docs, "SELECT (chunking ->> 'size')::int FROM embed._vectorizer") == 400
    create_fake_model(docs, "short", dimensions=3, max_tokens=64)
    docs.execute("SELECT embed.switch_model('docs', 'short')")
    sizes = "SELECT array_agg((chunking ->> 'size')::int ORDER BY id) FROM embed._vectorizer"
    assert value(docs, sizes) == [400, 64]
    docs.execute("SELECT embed.abort_switch('docs')")
    code, message, _ = refused(
        docs, "SELECT embed.switch_model('docs', 'short', chunking => '{\"size\": 65}')"
    )
    assert (code, message) == ("PE003", "chunks of 65 tokens are too long: the model reads 64")
    docs.execute("SELECT embed.switch_model('docs', 'wide', chunking => '{\"size\": 50, \"overlap\": 5}')")
    assert value(docs, sizes) == [400, 50]


def test_prepared_statements_and_functions_go_over(docs: Connection) -> None:
    docs.execute(f"PREPARE width AS {WIDTH.format('docs_chunks')}".encode())
    docs.execute(
        "CREATE FUNCTION width() RETURNS int STABLE LANGUAGE plpgsql AS"
        f" $$ BEGIN RETURN ({WIDTH.format('docs_chunks')}); END $$".encode()
    )
    assert (value(docs, "EXECUTE width"), value(docs, "SELECT width()")) == (4, 4)
    begin(docs)
    finish(docs)
    assert (value(docs, "EXECUTE width"), value(docs, "SELECT width()")) == (7, 7)


def test_readers_of_the_view_hold_a_swap_up_and_nobody_waits_for_it(docs: Connection, dsn: str) -> None:
    begin(docs)
    docs.execute("SELECT embed.compare_switch('docs')")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT FROM docs_chunks")
        assert refused(docs, "SELECT embed.finish_switch('docs', timeout => '0.2 s')")[0] == "55P03"
    docs.execute("SELECT embed.finish_switch('docs')")


def test_a_switch_begins_while_the_table_is_read(docs: Connection, dsn: str) -> None:
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT FROM docs_chunks")
        begin(docs)


def test_an_owner_switches_with_no_other_right(db: Connection, make_role: MakeRole) -> None:
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    role = make_role("embed_owner")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
        owner.execute(
            "SELECT embed.create_vectorizer('mine.docs', 'body', model => 'fake', storage => 'table')"
        )
        owner.execute("SELECT embed.switch_model('mine.docs', 'wide')")
        settle(db)
        owner.execute("SELECT embed.compare_switch('mine.docs')")
        owner.execute("SELECT embed.finish_switch('mine.docs')")
        assert value(owner, "SELECT state FROM embed.switches") == "swapped"
        owner.execute("SELECT embed.rollback_switch('mine.docs')")
        owner.execute("SELECT embed.forget_switch('mine.docs')")
    assert db.execute("SELECT name, model, chunk_table::text FROM embed.vectorizers").fetchall() == [
        ("docs_embedding", "fake", "mine.docs_embedding")
    ]


def test_a_partitioned_table_with_a_key_of_two_columns(docs: Connection) -> None:
    docs.execute(
        "CREATE TABLE parts (lang text, no int, body text, PRIMARY KEY (lang, no)) PARTITION BY LIST (lang)"
    )
    docs.execute("CREATE TABLE parts_rest PARTITION OF parts DEFAULT")
    docs.execute("INSERT INTO parts SELECT 'en', n, 'text' FROM generate_series(1, 15) AS n")
    docs.execute("SELECT embed.create_vectorizer('parts', 'body', model => 'fake', storage => 'table')")
    docs.execute("SELECT embed.switch_model('parts', 'wide')")
    for table, size in (("parts_embedding", 4), ("parts_embedding_next", 7)):
        docs.execute(
            f"INSERT INTO {table} (lang, no, chunk_no, chunk, context, chunk_hash, embedding)"
            " SELECT lang, no, c, '', '', 0,"
            f" array_append(array_fill(c::real, ARRAY[{size - 1}]), no::real)::vector::halfvec"
            " FROM parts, generate_series(1, 2) AS c".encode()
        )
    settle(docs)
    assert 0 < value(docs, "SELECT embed.compare_switch('parts')") <= 1
    docs.execute("SELECT embed.finish_switch('parts')")
    assert (width(docs, "parts_chunks"), width(docs, "parts_chunks_old")) == (7, 4)
