"""The essentials on the oldest server that is tested, PostgreSQL 15 with ICU and contrib types."""

from __future__ import annotations

import time

import pytest

from tests import fix_search
from tests.fix_models import PATIENCE
from tests.fix_pg import MakeRole
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import clear_queue, queued, refused, value
from tests.sql.test_postings import (
    DIMENSIONS,
    TABLES,
    TOP,
    brute,
    difference,
    fill,
    make,
    same_ranking,
    vectorizer,
)
from tests.sql.test_storage_column import until

pytestmark = pytest.mark.dblink  # the marker of the second server


@pytest.fixture
def docs15(db15: Connection) -> Connection:
    """`docs` with three rows and a vectorizer, on the second server."""
    create_fake_model(db15)
    create_docs(db15, "one", None, "three")
    db15.execute("SELECT embed.create_vectorizer('docs', 'body')")
    return db15


def test_chunks(db15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    create_fake_model(db15)
    create_docs(db15, "one", None, "three. " * 300)
    db15.execute(
        "SELECT embed.create_vectorizer('docs', 'body', storage => 'table', chunking => '{\"size\": 40}')"
    )
    start_worker(dsn15)
    db15.execute("SELECT embed.wait('docs')")
    db15.execute("DELETE FROM docs WHERE id = 1")
    db15.execute("UPDATE docs SET body = 'Quite another one. ' || body, id = 4 WHERE id = 3")
    db15.execute("SELECT embed.wait('docs')")
    found = db15.execute(
        "SELECT id, max(chunk_no), count(*), count(source) FROM docs_chunks GROUP BY id"
    ).fetchall()
    assert len(found) == 1
    key, last, number, rows = found[0]
    assert (key, last, rows) == (4, number, number)
    assert number > 10
    db15.execute("TRUNCATE docs")
    db15.execute("SELECT embed.wait('docs')")
    assert value(db15, "SELECT count(*) FROM docs_embedding") == 0
    db15.execute("SELECT embed.drop_vectorizer('docs_embedding', drop_column => true)")


def test_chunks_become_a_column(db15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    create_fake_model(db15)
    create_docs(db15, "one", None, "three. " * 300)
    db15.execute("SELECT embed.create_vectorizer('docs', 'body', storage => 'table')")
    start_worker(dsn15, switch_every=0.02)
    db15.execute("SELECT embed.wait('docs')")
    db15.execute("SELECT embed.alter_vectorizer('docs', storage => 'column')")
    until(lambda: value(db15, "SELECT storage FROM embed.vectorizers") == "column", "a swap")
    assert broken_rows(db15) == []


def test_the_whole_cycle(docs15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    start_worker(dsn15, tend_every=0.05)
    insert_docs(docs15, "four", "five")
    docs15.execute("UPDATE docs SET body = 'changed' WHERE id = 1; DELETE FROM docs WHERE id = 3")
    docs15.execute(
        "MERGE INTO docs USING (VALUES (2), (9)) AS s (id) ON docs.id = s.id"
        " WHEN MATCHED THEN UPDATE SET body = 'merged'"
        " WHEN NOT MATCHED THEN INSERT (id, body) VALUES (9, 'new')"
    )
    docs15.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs15) == []
    assert docs15.execute("SELECT pending, in_flight, failed FROM embed.status").fetchall() == [(0, 0, 0)]
    assert value(docs15, "SELECT state FROM embed.why('docs', 1)") == "embedded"


def test_a_filter_a_template_and_a_failure(docs15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    create_fake_model(docs15, "picky", fail_on="bad", document_prompt="p")
    docs15.execute(
        "SELECT embed.create_vectorizer('docs', template => '{id}: {body}', model => 'picky',"
        " column_name => 'e2', column_type => 'vector', filter => 'id <> 1 AND title IS NULL')"
    )
    insert_docs(docs15, "bad", "good")
    start_worker(dsn15)
    docs15.execute("SELECT embed.wait('docs')")
    assert [row[0] for row in docs15.execute("SELECT key FROM embed.failures").fetchall()] == ["4"]
    text = "CASE WHEN id <> 1 AND title IS NULL THEN concat(id, ': ', body) END"
    assert broken_rows(docs15, text=text, column="e2", vectorizer="docs_e2", document_prompt="p") == []


def test_partitions_and_renames(db15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    create_fake_model(db15)
    db15.execute("CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db15.execute("CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (1) TO (10)")
    db15.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db15.execute("INSERT INTO docs_1 VALUES (1, 'one'); INSERT INTO docs VALUES (2, 'two')")
    db15.execute("CREATE TABLE docs_2 PARTITION OF docs DEFAULT; INSERT INTO docs_2 VALUES (20, 'twenty')")
    db15.execute("ALTER TABLE docs RENAME id TO number; INSERT INTO docs VALUES (3, 'three')")
    start_worker(dsn15)
    db15.execute("SELECT embed.wait('docs')")
    assert broken_rows(db15, key="number::text") == []
    assert value(db15, "SELECT count(embedding) FROM docs") == 4


def test_a_text_that_a_collation_takes_for_the_same_is_another_text(docs15: Connection) -> None:
    docs15.execute(
        "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    docs15.execute("CREATE TABLE names (id text COLLATE caseless PRIMARY KEY, body text COLLATE caseless)")
    docs15.execute("SELECT embed.create_vectorizer('names', 'body')")
    docs15.execute("INSERT INTO names VALUES ('a', 'text')")
    clear_queue(docs15)
    docs15.execute("UPDATE names SET body = 'TEXT'")
    assert queued(docs15, "names_embedding") == ["a"]


def test_keys_under_a_caseless_collation_find_their_rows(
    docs15: Connection, dsn15: str, start_worker: StartWorker
) -> None:
    docs15.execute(
        "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    docs15.execute("CREATE TABLE names (id text COLLATE caseless PRIMARY KEY, body text COLLATE caseless)")
    docs15.execute("INSERT INTO names VALUES ('a', 'one'), ('B', 'two'), ('é', 'three')")
    docs15.execute("SELECT embed.create_vectorizer('names', 'body')")
    start_worker(dsn15, page_rows=1)
    docs15.execute("SELECT embed.wait('names')")
    docs15.execute("UPDATE names SET id = upper(id), body = upper(body)")
    docs15.execute("SELECT embed.wait('names')")
    assert value(docs15, "SELECT count(embedding) FROM names") == 3
    assert broken_rows(docs15, "names", text='body COLLATE "C"', vectorizer="names_embedding") == []


def test_a_key_of_an_extension_s_type_is_refused(docs15: Connection) -> None:
    docs15.execute("CREATE EXTENSION IF NOT EXISTS citext")
    docs15.execute("CREATE TABLE names (id citext PRIMARY KEY, body citext)")
    state, message, hint = refused(docs15, "SELECT embed.create_vectorizer('names', 'body')")
    assert state == "PE003"
    assert "citext" in message
    assert "enums" in hint


def test_a_text_of_an_extension_s_type_is_input_like_any_other(
    docs15: Connection, dsn15: str, start_worker: StartWorker
) -> None:
    docs15.execute("CREATE EXTENSION IF NOT EXISTS citext")
    docs15.execute("CREATE TABLE names (id int PRIMARY KEY, body citext)")
    docs15.execute("SELECT embed.create_vectorizer('names', 'body')")
    docs15.execute("INSERT INTO names VALUES (1, 'text')")
    start_worker(dsn15)
    docs15.execute("SELECT embed.wait('names')")
    docs15.execute("UPDATE names SET body = 'TEXT'")
    docs15.execute("SELECT embed.wait('names')")
    assert broken_rows(docs15, "names", text="body::text", vectorizer="names_embedding") == []


@pytest.mark.parametrize("name", ["no", "no such", "a.b.c.d", 'odd "quote', "", "public."])
def test_an_odd_name_of_a_vectorizer_is_told_in_our_words(docs15: Connection, name: str) -> None:
    state, message, _ = refused(docs15, "SELECT embed.drop_vectorizer(%s)", name)
    assert state == "PE003"
    assert name in message


def test_the_roles_hold_here_too(
    docs15: Connection, make_role15: MakeRole, start_worker: StartWorker
) -> None:
    worker, writer = make_role15("embed_worker"), make_role15()
    docs15.execute(f'GRANT INSERT ON docs TO "{writer.name}"')
    docs15.execute(f'SET ROLE "{writer.name}"')
    docs15.execute("INSERT INTO docs (id, body) VALUES (9, 'nine')")
    docs15.execute("RESET ROLE")
    start_worker(worker.dsn)
    docs15.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs15) == []
    docs15.execute(f'SET ROLE "{worker.name}"')
    assert refused(docs15, "SELECT title FROM docs")[0] == "42501"
    docs15.execute("RESET ROLE")


def test_searches_by_both_legs_exactly_and_by_index(db15: Connection) -> None:
    fix_search.create_docs(db15, 200, multi=True)
    fix_search.answer(db15, "quick red fox")
    db15.execute("CREATE EXTENSION IF NOT EXISTS citext; ALTER TABLE docs ADD name citext")
    db15.execute("UPDATE docs SET name = lang; CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    statement = "SELECT (hit).id, score FROM embed.search(NULL::docs, 'quick red fox'{})"
    for arguments in (
        "",
        ", fusion => 'rrf'",
        ", rerank => 'multi'",
        ', filter => \'{"name": "EN", "year": [2003, 2006]}\'',
        ', diversity => 0.5, skip => 2, boost => \'{"year": {"weight": 1}}\'',
    ):
        db15.execute("RESET embed.exact_rows; RESET enable_seqscan")
        exact = db15.execute(statement.format(arguments).encode()).fetchall()
        db15.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
        assert db15.execute(statement.format(arguments).encode()).fetchall() == exact
        assert len(exact) == 10 or "EN" in arguments
    told = value(db15, "SELECT embed.explain_search(NULL::docs, mode => 'dense')")
    assert "docs_embedding_idx" in told["plan"]
    found = db15.execute(statement.format(', filter => \'{"name": "EN"}\', k => 200').encode()).fetchall()
    assert {row[0] % 3 for row in found} == {0}


def test_an_index_is_planned_built_and_measured(
    docs15: Connection, dsn15: str, start_worker: StartWorker
) -> None:
    insert_docs(docs15, *(f"text {number}" for number in range(60)))
    docs15.execute("SELECT embed.create_index('docs', min_rows => 50)")
    start_worker(dsn15, index_every=0.02)
    docs15.execute("SELECT embed.wait('docs')")
    deadline = time.monotonic() + PATIENCE
    while value(docs15, "SELECT state FROM embed.indexes") != "valid":
        assert time.monotonic() < deadline, "no valid index"
        time.sleep(0.01)
    found = docs15.execute("SELECT index_name, recall FROM embed.recall('docs', 5, 10)").fetchone()
    assert found is not None
    assert found[0] == "docs_embedding_hnsw"
    assert found[1] > 0.5


@pytest.mark.parametrize("table", list(TABLES))
def test_postings_follow_the_column_and_are_searched(db15: Connection, table: str) -> None:
    make(db15, table)
    fill(db15)
    db15.execute("SELECT embed.create_postings('docs')")
    fill(db15, 20, first=50, seed=2)
    db15.execute(f"UPDATE docs SET words = '{{2:0.5,9:3}}/{DIMENSIONS}' WHERE id::text > '2'")
    db15.execute("DELETE FROM docs WHERE id::text LIKE '1%'")
    assert difference(db15) == 0
    query = f"{{1:1,2:2,9:0.3}}/{DIMENSIONS}"
    same_ranking(db15.execute(TOP, [vectorizer(db15), query, 10]).fetchall(), brute(db15, query, 10))


def test_a_reload_makes_no_call(docs15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    docs15.execute("SELECT embed.set_reuse('fake', true, max_rows => 2)")
    model = GatedFake()
    start_worker(dsn15, model, tend_every=0.05)
    docs15.execute("SELECT embed.wait('docs')")
    docs15.execute("TRUNCATE docs")
    insert_docs(docs15, "three", "one")
    docs15.execute("SELECT embed.wait('docs')")
    assert sorted(model.texts) == ["one", "three"]
    assert broken_rows(docs15) == []
    insert_docs(docs15, "four")
    docs15.execute("SELECT embed.wait('docs')")
    deadline = time.monotonic() + PATIENCE
    while value(docs15, "SELECT rows FROM embed.reuse") > 2:
        assert time.monotonic() < deadline, "nothing is evicted"
        time.sleep(0.01)


def test_a_switch_of_models_and_back(docs15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    create_fake_model(docs15, "wide", dimensions=7)
    docs15.execute("SELECT embed.create_index('docs', 'hnsw')")
    start_worker(dsn15, index_every=0.02, switch_every=0.02)
    docs15.execute("SELECT embed.switch_model('docs', 'wide', auto => true)")
    for model, dimensions, step in (("wide", 7, "rollback_switch"), ("fake", 4, "forget_switch")):
        deadline = time.monotonic() + PATIENCE
        while docs15.execute("SELECT model, state FROM embed.switches").fetchall() != [(model, "swapped")]:
            assert time.monotonic() < deadline, "it was never swapped"
            time.sleep(0.02)
        assert broken_rows(docs15, dimensions=dimensions) == []
        assert value(docs15, "SELECT model FROM embed.vectorizers") == model
        docs15.execute(f"SELECT embed.{step}('docs')".encode())


def test_a_switch_of_chunks_and_back(db15: Connection, dsn15: str, start_worker: StartWorker) -> None:
    create_fake_model(db15)
    create_fake_model(db15, "wide", dimensions=7)
    create_docs(db15, "one", "two", "three. " * 300)
    db15.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', storage => 'table')")
    start_worker(dsn15, index_every=0.02, switch_every=0.02)
    db15.execute("SELECT embed.switch_model('docs', 'wide', auto => true, chunking => '{\"size\": 40}')")
    for dimensions, few, step in ((7, False, "rollback_switch"), (4, True, "forget_switch")):
        deadline = time.monotonic() + PATIENCE
        wide = "SELECT state, vector_dims(embedding::vector) FROM embed.switches, docs_chunks LIMIT 1"
        while db15.execute(wide.encode()).fetchall() != [("swapped", dimensions)]:
            assert time.monotonic() < deadline, "it was never swapped"
            time.sleep(0.02)
        counted = db15.execute("SELECT count(*), count(DISTINCT id) FROM docs_chunks").fetchall()[0]
        assert (counted[1], counted[0] < 10) == (3, few)
        db15.execute(f"SELECT embed.{step}('docs')".encode())
    assert value(db15, "SELECT to_regclass('docs_chunks_old') IS NULL")
