"""embed.alter_vectorizer with storage => 'column': from a table of chunks to a column, behind live rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.fix_models import PATIENCE
from tests.fix_pg import MakeRole
from tests.fix_search import OPTIONS, answer, play_sidecar
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import clear_queue, queued, refused, value
from tests.sql.test_postings import difference
from tests.sql.test_storage import COLUMNS, LONG, expected, search, wait

SOON = {"index_every": 0.02, "switch_every": 0.02}
BACK = "SELECT embed.alter_vectorizer('docs', storage => 'column')"
CREATE = (
    "SELECT embed.create_vectorizer('docs', 'body', model => 'three', storage => 'table',"
    " chunking => '{\"size\": 12}'"
)
SHOWN = "SELECT name, storage, columns, chunk_table::text, chunk_view::text FROM embed.vectorizers"
FILL = (
    "INSERT INTO docs_embedding (id, chunk_no, chunk, context, chunk_hash, embedding)"
    " SELECT id, 1, body, '', 0, array_fill(id::real, ARRAY[8])::vector::halfvec FROM docs"
)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a long text, a short one, one with spaces around it and none; models, no vectorizer yet."""
    play_sidecar(db)
    create_docs(db, LONG, "two", " three ", None)
    answer(db, "two", LONG)
    return db


@pytest.fixture
def filled(docs: Connection) -> Connection:
    """The same with a chunk for each row, as of unknown texts, and nothing that waits."""
    docs.execute("UPDATE docs SET body = 'four' WHERE body IS NULL")
    docs.execute(f"{CREATE})".encode())
    docs.execute(FILL.encode())
    settle(docs)
    return docs


def model() -> GatedFake:
    return GatedFake(**OPTIONS)


def settle(db: Connection) -> None:
    """Let nothing wait, as if a worker had done it."""
    clear_queue(db)
    db.execute("DELETE FROM embed._backfill")


def embed_chunks(db: Connection, dsn: str, start_worker: StartWorker, fake: GatedFake, more: str = "") -> int:
    """A vectorizer with chunks, made by a worker that has ended; how many texts it asked for."""
    db.execute(f"{CREATE}{more})".encode())
    first = start_worker(dsn, {"three": fake})
    wait(db)
    first.stop()
    return len(fake.texts)


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def moved(db: Connection) -> None:
    until(lambda: value(db, "SELECT storage FROM embed.vectorizers") == "column", "a swap")


def wrong(db: Connection, table: str = "docs") -> list[tuple[object, ...]]:
    return broken_rows(db, table, vectorizer=f"{table}_embedding", **OPTIONS)


def test_only_texts_that_were_split_are_embedded_again(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = model()
    asked = embed_chunks(docs, dsn, start_worker, fake)
    assert value(docs, BACK) == "docs_embedding"
    told = docs.execute("SELECT state, rows_left > 0, auto, keep, columns, chunk_table FROM embed.switches")
    assert told.fetchall() == [("filling", True, True, "drop", ["embedding"], None)]
    assert docs.execute(SHOWN).fetchall() == [
        ("docs_embedding", "table", ["embedding"], "docs_embedding", "docs_chunks")
    ]
    assert search(docs, "two")[0] == 2
    assert search(docs, LONG)[0] == 1, "over the chunks"
    start_worker(dsn, fake, **SOON)
    moved(docs)
    assert sorted(fake.texts[asked:]) == sorted([LONG, " three "])
    assert docs.execute(SHOWN).fetchall() == [("docs_embedding", "column", ["embedding"], None, None)]
    assert value(docs, COLUMNS) == "id,title,body,embedding"
    assert value(docs, "SELECT to_regclass('docs_embedding') IS NULL AND to_regclass('docs_chunks') IS NULL")
    assert value(docs, "SELECT count(*) FROM embed.switches") == 0
    assert value(docs, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass") == 2
    insert_docs(docs, "five")
    wait(docs)
    assert fake.texts[-1] == "five"
    assert wrong(docs) == []
    assert sorted(search(docs, "two")) == [1, 2, 3, 5]
    assert value(docs, "SELECT DISTINCT vectorizer FROM embed.usage") == "docs_embedding"


def test_there_and_back_and_there_again(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    fake = model()
    asked = embed_chunks(docs, dsn, start_worker, fake)
    start_worker(dsn, fake, **SOON)
    docs.execute(BACK)
    moved(docs)
    docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'table', chunking => '{\"size\": 12}')")
    wait(docs)
    docs.execute(BACK)
    moved(docs)
    texts = [LONG, " three "]
    again = [*expected(LONG), *expected(" three ")]
    assert sorted(fake.texts[asked:]) == sorted([*texts, *again, *texts])
    assert wrong(docs) == []


def test_rows_that_change_meanwhile_have_the_vectors_of_their_texts(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = model()
    embed_chunks(docs, dsn, start_worker, fake)
    docs.execute(BACK)
    docs.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
    docs.execute("UPDATE docs SET body = NULL WHERE id = 1")
    docs.execute("DELETE FROM docs WHERE id = 3")
    insert_docs(docs, "five")
    docs.execute("SELECT embed.alter_vectorizer('docs', template => '{body}!')")
    start_worker(dsn, fake, **SOON)
    moved(docs)
    wait(docs)
    assert broken_rows(docs, text="body || '!'", **OPTIONS) == []
    assert value(docs, "SELECT count(embedding) FROM docs") == 2


def test_rows_that_others_hold_are_not_waited_for(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = model()
    embed_chunks(docs, dsn, start_worker, fake)
    docs.execute("INSERT INTO docs (id, body) SELECT i, 'row ' || i FROM generate_series(5, 9) AS i")
    first = start_worker(dsn, fake)
    wait(docs)
    first.stop()
    docs.execute(BACK)
    asked = len(fake.texts)
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET title = 'held' WHERE id = 6")
        start_worker(dsn, fake, **SOON)
        until(lambda: value(docs, "SELECT count(embedding) FROM docs") == 7, "the others")
        writer.commit()
    moved(docs)
    assert set(fake.texts[asked:]) == {LONG, " three ", "row 6"}
    assert wrong(docs) == []


def test_a_trigger_that_fails_on_a_row_fails_that_row_alone(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = model()
    embed_chunks(docs, dsn, start_worker, fake)
    docs.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;"
        "CREATE TRIGGER no BEFORE UPDATE ON docs FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION no()"
    )
    docs.execute(BACK)
    start_worker.expected = "no"
    start_worker(dsn, fake, **SOON)
    until(lambda: value(docs, "SELECT count(embedding) FROM docs") == 2, "the others")
    until(lambda: value(docs, "SELECT string_agg(key, ',') FROM embed._failure") == "2", "its failure")
    assert value(docs, "SELECT storage FROM embed.vectorizers") == "table"
    docs.execute("DROP TRIGGER no ON docs")
    docs.execute("SELECT embed.retry('docs_embedding_next')")
    moved(docs)
    assert wrong(docs) == []


def test_a_pair_moves_with_its_postings_and_its_index(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_bm25_model(docs)
    fake = model()
    asked = embed_chunks(docs, dsn, start_worker, fake, ", sparse => 'bm25', column_type => 'vector'")
    docs.execute("CREATE INDEX by_hand ON docs_embedding USING hnsw (embedding vector_cosine_ops)")
    docs.execute(BACK)
    start_worker(dsn, {"three": fake}, **SOON)
    moved(docs)
    assert sorted(fake.texts[asked:]) == sorted([LONG, " three "])
    insert_docs(docs, "a lamp")
    docs.execute("DELETE FROM docs WHERE id = 3")
    wait(docs)
    assert wrong(docs) == []
    assert difference(docs, column="sparse") == 0
    assert docs.execute("SELECT kind, state FROM embed.indexes").fetchall() == [("hnsw", "valid")]
    assert value(docs, "SELECT to_regclass('embed._postings_1') IS NULL"), "of the chunks"


def test_a_partitioned_table_with_a_key_of_two_columns_and_quoted_names(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    db.execute(
        'CREATE TABLE "My docs" ("A b" int, at date, "the Text" text, PRIMARY KEY ("A b", at))'
        " PARTITION BY RANGE (at)"
    )
    db.execute('CREATE TABLE part PARTITION OF "My docs" DEFAULT')
    db.execute(
        """INSERT INTO "My docs" SELECT i, '2026-01-01', 'text ' || i FROM generate_series(1, 5) AS i"""
    )
    db.execute(
        """SELECT embed.create_vectorizer('"My docs"', 'the Text', storage => 'table', name => 'mine',"""
        """ column_name => 'The vector', filter => '"A b" > 1')"""
    )
    fake = GatedFake()
    first = start_worker(dsn, fake)
    db.execute("""SELECT embed.wait('"My docs"')""")
    first.stop()
    db.execute("SELECT embed.alter_vectorizer('mine', storage => 'column', rename_to => 'yours')")
    db.execute("""UPDATE "My docs" SET "the Text" = 'changed' WHERE "A b" = 5""")
    start_worker(dsn, fake, page_rows=2, **SOON)
    moved(db)
    db.execute("""SELECT embed.wait('"My docs"')""")
    assert set(fake.texts[4:]) == {"changed"}
    text, key = 'CASE WHEN "A b" > 1 THEN "the Text" END', 'jsonb_build_array("A b", at)::text'
    told = {"key": key, "text": text, "column": '"The vector"', "vectorizer": "yours"}
    assert broken_rows(db, '"My docs"', **told) == []
    assert value(db, "SELECT name FROM embed.vectorizers") == "yours"


def test_an_aborted_move_leaves_the_chunks_and_nothing_else(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = model()
    embed_chunks(docs, dsn, start_worker, fake)
    before = docs.execute("SELECT * FROM docs_embedding ORDER BY chunk_id").fetchall()
    fake.shut()
    start_worker(dsn, fake, **SOON)
    with docs.transaction(force_rollback=True):
        docs.execute(BACK)
    assert value(docs, COLUMNS) == "id,title,body"
    docs.execute(BACK)
    fake.next_call()
    docs.execute("SELECT embed.abort_switch('docs')")
    fake.open()
    until(lambda: value(docs, "SELECT count(*) FROM embed._queue") == 0, "an empty queue")
    assert value(docs, COLUMNS) == "id,title,body"
    assert docs.execute(SHOWN).fetchall()[0][1] == "table"
    assert docs.execute("SELECT * FROM docs_embedding ORDER BY chunk_id").fetchall() == before
    assert value(docs, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass") == 3


def test_a_move_outlives_its_workers(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    fake = model()
    asked = embed_chunks(docs, dsn, start_worker, fake)
    fake.shut()
    doomed = start_worker(dsn, fake, **SOON)
    docs.execute(BACK)
    fake.next_call()
    doomed.abort()
    fake.open()
    assert value(docs, "SELECT state FROM embed.switches") == "filling"
    assert search(docs, "two")[0] == 2
    start_worker(dsn, fake, tend_every=0.05, **SOON)
    moved(docs)
    assert set(fake.texts[asked:]) == {LONG, " three "}
    assert wrong(docs) == []


def test_chunks_are_kept_up_to_date_for_those_who_ask(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = model()
    embed_chunks(docs, dsn, start_worker, fake)
    docs.execute("CREATE VIEW reader AS SELECT id, chunk FROM docs_chunks")
    docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'column', keep_chunks => true)")
    start_worker(dsn, fake, **SOON)
    moved(docs)
    insert_docs(docs, "five")
    wait(docs)
    until(lambda: value(docs, "SELECT count(*) FROM embed._queue") == 0, "both in step")
    assert value(docs, "SELECT chunk FROM reader WHERE id = 5") == "five"
    assert wrong(docs) == []
    docs.execute("SELECT embed.rollback_switch('docs')")
    until(lambda: value(docs, "SELECT storage FROM embed.vectorizers") == "table", "the way back")
    assert sorted(search(docs, "two")) == [1, 2, 3, 5]
    assert docs.execute(SHOWN).fetchall() == [
        ("docs_embedding", "table", ["embedding"], "docs_embedding", "docs_chunks")
    ]
    docs.execute("SELECT embed.rollback_switch('docs')")
    moved(docs)
    docs.execute("DROP VIEW reader")
    docs.execute("SELECT embed.forget_switch('docs')")
    assert value(docs, "SELECT to_regclass('docs_embedding') IS NULL AND to_regclass('docs_chunks') IS NULL")
    assert sorted(search(docs, "two")) == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("CREATE VIEW near AS SELECT chunk FROM docs_chunks", "view public.near"),
        ("CREATE TABLE notes (of bigint REFERENCES docs_embedding)", "constraint notes_of_fkey on table"),
        ("CREATE POLICY mine ON docs_embedding AS RESTRICTIVE USING (false)", "policy mine on table"),
        ("ALTER TABLE docs_embedding ADD COLUMN note text", "column note of table public.docs_embedding"),
    ],
)
def test_what_would_go_with_the_chunks_is_refused_before_and_at_the_swap(
    filled: Connection, statement: str, told: str
) -> None:
    filled.execute(BACK)
    filled.execute("UPDATE docs SET embedding = array_fill(id::real, ARRAY[8])::vector::halfvec")
    settle(filled)
    filled.execute(statement.encode())
    for call in ("SELECT embed.finish_switch('docs')", BACK):
        code, message, hint = refused(filled, call)
        assert (code, told in message, "keep_chunks => true" in hint) == ("PE003", True, True)
        if call != BACK:
            filled.execute("SELECT embed.abort_switch('docs')")
    assert value(filled, COLUMNS) == "id,title,body"
    filled.execute("SELECT embed.alter_vectorizer('docs', storage => 'column', keep_chunks => true)")


def test_a_move_says_what_is_in_its_way(filled: Connection, make_role: MakeRole) -> None:
    create_fake_model(filled, "other")
    for call, word in (
        ("storage => 'column', template => '{title}'", "change one, and then the other"),
        ("storage => 'column', chunking => '{\"size\": 20}'", "add storage => 'table'"),
        ("storage => 'column', keep_column => true", "leave them out"),
        ("storage => 'table', keep_chunks => true", "leave it out"),
        ("keep_chunks => true", "leave it out"),
        ("storage => 'column', model => 'other'", "embed.switch_model"),
    ):
        state, _, hint = refused(filled, f"SELECT embed.alter_vectorizer('docs', {call})")
        assert (state, word in hint) == ("PE003", True), call
    filled.execute("GRANT SELECT, UPDATE ON docs TO PUBLIC")
    with psycopg.connect(make_role("embed_owner").dsn, autocommit=True) as stranger:
        assert refused(stranger, BACK)[:2] == ("42501", "you must own the table of vectorizer 'docs'")
    filled.execute("ALTER TABLE docs ADD COLUMN embedding text")
    state, message, hint = refused(filled, BACK)
    assert (state, message.endswith(": embedding"), "RENAME COLUMN" in hint) == ("PE003", True, True)
    filled.execute("ALTER TABLE docs_embedding RENAME embedding TO vec")
    filled.execute(BACK)
    assert value(filled, COLUMNS) == "id,title,body,embedding,vec"
    assert refused(filled, "SELECT embed.switch_model('docs', 'other')")[0] == "PE003"


def test_what_was_begun_is_begun_once_and_given_up_for_what_is_there(filled: Connection) -> None:
    keep = "SELECT keep, dependants FROM embed._switch"
    filled.execute(BACK)
    filled.execute(f"{BACK[:-1]}, keep_chunks => true)")
    assert filled.execute(keep).fetchall() == [("in step", "ignore")]
    filled.execute("CREATE VIEW near AS SELECT chunk FROM docs_chunks")
    assert "view public.near" in refused(filled, BACK)[1]
    filled.execute("DROP VIEW near")
    filled.execute(BACK)
    assert filled.execute(keep).fetchall() == [("drop", "refuse")]
    filled.execute("SELECT embed.alter_vectorizer('docs', storage => 'table', chunk_view => 'docs_chunks')")
    assert value(filled, COLUMNS) == "id,title,body"
    assert value(filled, "SELECT count(*) FROM embed._vectorizer") == 1


def test_chunks_that_are_kept_come_back_by_a_rollback_only(filled: Connection) -> None:
    filled.execute(f"{BACK[:-1]}, keep_chunks => true)")
    settle(filled)
    filled.execute("SELECT embed.finish_switch('docs')")
    state, _, hint = refused(filled, "SELECT embed.alter_vectorizer('docs', storage => 'table')")
    assert (state, "embed.rollback_switch" in hint) == ("PE003", True)
    filled.execute(BACK)
    assert value(filled, "SELECT embed.compare_switch('docs')") is None
    filled.execute("SELECT embed.rollback_switch('docs')")
    assert value(filled, "SELECT storage FROM embed.vectorizers") == "table"


def test_nobody_waits_for_a_move_that_waits_to_begin(filled: Connection, dsn: str) -> None:
    def begin() -> None:
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(BACK)

    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT FROM docs")
        beginning = threading.Thread(target=begin)
        beginning.start()
        filled.execute("SET lock_timeout = '2 s'")
        for _ in range(20):
            filled.execute("SELECT FROM docs")
            filled.execute("UPDATE docs SET title = 'seen'")
        assert beginning.is_alive()
    beginning.join(PATIENCE)
    assert value(filled, "SELECT count(*) FROM embed.switches") == 1


def test_who_reads_the_chunks_reads_the_column(filled: Connection, make_role: MakeRole) -> None:
    reader = make_role("embed_reader")
    filled.execute(f'GRANT SELECT (id, title, body) ON docs TO "{reader.name}"')
    filled.execute(f'GRANT SELECT ON docs_embedding, docs_chunks TO "{reader.name}"')
    filled.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    filled.execute("CREATE POLICY mine ON docs USING (id < 3)")
    find = "SELECT (hit).id FROM embed.search(NULL::docs, 'two', mode => 'dense') ORDER BY 1"
    with psycopg.connect(reader.dsn, autocommit=True) as connection:
        before = connection.execute(find).fetchall()
        filled.execute(BACK)
        assert connection.execute(find).fetchall() == before == [(1,), (2,)]
        filled.execute("UPDATE docs SET embedding = array_fill(id::real, ARRAY[8])::vector::halfvec")
        settle(filled)
        filled.execute("SELECT embed.finish_switch('docs')")
        assert connection.execute(find).fetchall() == before
    assert value(filled, "SELECT has_column_privilege('embed_worker', 'docs', 'embedding', 'UPDATE')")
    filled.execute(f'DROP OWNED BY "{reader.name}"')


def test_a_paused_vectorizer_stays_paused(filled: Connection) -> None:
    filled.execute("SELECT embed.pause('docs')")
    filled.execute(BACK)
    filled.execute("UPDATE docs SET embedding = array_fill(id::real, ARRAY[8])::vector::halfvec")
    settle(filled)
    filled.execute("SELECT embed.finish_switch('docs')")
    assert filled.execute("SELECT state, reason, storage FROM embed.vectorizers").fetchall() == [
        ("paused", "paused by postgres", "column")
    ]


def test_budgets_failures_and_what_waits_stay_with_the_vectorizer(filled: Connection) -> None:
    filled.execute("SELECT embed.set_budget('docs', 1000)")
    filled.execute(BACK)
    filled.execute("UPDATE docs SET embedding = array_fill(id::real, ARRAY[8])::vector::halfvec")
    settle(filled)
    filled.execute("UPDATE docs SET body = 'later' WHERE id = 1")
    filled.execute("INSERT INTO embed._failure SELECT id, '2', 'PE021', 'refused', 1 FROM embed._vectorizer")
    filled.execute("SELECT embed.finish_switch('docs', force => true)")
    assert queued(filled) == ["1"]
    assert filled.execute("SELECT vectorizer_name, key FROM embed.failures").fetchall() == [
        ("docs_embedding", "2")
    ]
    assert value(filled, "SELECT tokens FROM embed._budget") == 1000


def test_an_owner_moves_and_a_worker_copies_with_no_more_rights_than_before(
    db: Connection, dsn: str, make_role: MakeRole, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    owner, worker = make_role("embed_owner"), make_role("embed_worker")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{owner.name}"')
    with psycopg.connect(owner.dsn, autocommit=True) as owned:
        owned.execute("CREATE TABLE mine.notes (id int PRIMARY KEY, body text)")
        owned.execute("INSERT INTO mine.notes VALUES (1, 'one')")
        owned.execute("SELECT embed.create_vectorizer('mine.notes', 'body', storage => 'table')")
        fake = GatedFake()
        start_worker(worker.dsn, fake, **SOON)
        owned.execute("SELECT embed.wait('mine.notes')")
        owned.execute("SELECT embed.alter_vectorizer('notes_embedding', storage => 'column')")
        until(lambda: value(db, "SELECT needs_owner FROM embed._switch"), "the worker's word")
        assert "owner must end it" in value(owned, "SELECT explanation FROM embed.switches")
        owned.execute("SELECT embed.finish_switch('mine.notes')")
        owned.execute("INSERT INTO mine.notes VALUES (2, 'two')")
        owned.execute("SELECT embed.wait('mine.notes')")
    assert broken_rows(db, "mine.notes", vectorizer="notes_embedding") == []
    assert fake.texts == ["one", "two"]


def test_texts_of_a_hook_are_made_again(docs: Connection) -> None:
    docs.execute(f"{CREATE}, prepare => 'hook')".encode())
    docs.execute(BACK)
    assert value(docs, "SELECT count(*) FROM embed._vectorizer WHERE prepare = 'hook'") == 2
    (shadow,) = docs.execute("SELECT id FROM embed._vectorizer WHERE shadow_of IS NOT NULL").fetchone() or ()
    assert value(docs, "SELECT statement FROM embed._copying_v1(%s)", shadow) is None
