"""embed.alter_vectorizer with storage => 'table': vectors move to a table of chunks behind live rows."""

from __future__ import annotations

import psycopg
import pytest

from pg_embed.chunks import Chunking, Counter, split
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.worker.splitting import chunk_hash
from tests.fix_pg import MakeRole
from tests.fix_search import OPTIONS, answer, play_sidecar
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import queued, refused, value
from tests.sql.test_alter import altering

LONG = "\n\n".join(f"Sentence number {number:03} of the text." for number in range(40))
MOVE = "SELECT embed.alter_vectorizer('docs_embedding', storage => 'table', chunking => '{\"size\": 12}')"
PLACE = "SELECT name, id, chunk_table::text, chunk_view::text FROM embed._vectorizer"
COLUMNS = (
    "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute"
    " WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped"
)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a long text, two short ones and none; models, and no vectorizer yet."""
    play_sidecar(db)
    create_docs(db, LONG, "two", " three ", None)
    answer(db, "two", LONG)
    return db


def model() -> GatedFake:
    return GatedFake(**OPTIONS)


def wait(db: Connection) -> None:
    db.execute("SELECT embed.wait('docs', '60 seconds')")


def search(db: Connection, query: str) -> list[int]:
    """The rows that a search finds, the best first."""
    found = db.execute("SELECT (hit).id FROM embed.search(NULL::docs, %s, mode => 'dense')", [query])
    return [row[0] for row in found.fetchall()]


def chunks(db: Connection, key: int) -> list[str]:
    found = db.execute("SELECT chunk FROM docs_embedding WHERE id = %s ORDER BY chunk_no", [key])
    return [row[0] for row in found.fetchall()]


def expected(text: str) -> list[str]:
    count = Counter(FakeEmbedder(FakeOptions(**OPTIONS)).count_tokens)
    return [chunk.text for chunk in split(text, Chunking(size=12), count)]


def wrong(db: Connection) -> list[str]:
    """Chunks whose vector is not that of their text."""
    found = db.execute("SELECT chunk, embedding::text FROM docs_embedding").fetchall()
    fake = FakeEmbedder(FakeOptions(**OPTIONS))
    bad = []
    for text, vector in found:
        (row,) = fake.embed([text], "document").dense
        if not value(db, "SELECT %s::halfvec = %s::halfvec", vector, str(row.tolist())):
            bad.append(text)
    return bad


def test_vectors_move_and_only_long_texts_are_embedded_again(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = model()
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three')")
    first = start_worker(dsn, fake)
    wait(docs)
    first.stop()
    ((name, number, _, _),) = docs.execute(PLACE).fetchall()
    asked = len(fake.texts)
    docs.execute(MOVE)
    assert docs.execute(PLACE).fetchall() == [(name, number, "docs_embedding", "docs_chunks")]
    assert value(docs, COLUMNS) == "id,title,body"
    assert search(docs, "two")[0] == 2
    assert search(docs, LONG)[0] == 1, "each row is found by the vector that it had"
    assert [chunks(docs, key) for key in (1, 2, 3, 4)] == [[LONG], ["two"], [" three "], []]
    kept = value(docs, "SELECT chunk_id FROM docs_embedding WHERE id = 2")
    docs.execute("DELETE FROM docs WHERE id = 3")
    start_worker(dsn, fake)
    wait(docs)
    insert_docs(docs, "five")
    wait(docs)
    assert [chunks(docs, key) for key in (1, 2, 3, 4, 5)] == [expected(LONG), ["two"], [], [], ["five"]]
    assert value(docs, "SELECT chunk_id FROM docs_embedding WHERE id = 2") == kept
    assert sorted(fake.texts[asked:]) == sorted([*expected(LONG), "five"])
    assert wrong(docs) == []
    assert sorted(search(docs, "two")) == [1, 2, 5]


def test_what_waits_to_be_embedded_is_embedded_after_the_move(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three')")
    first = start_worker(dsn, model())
    wait(docs)
    first.stop()
    docs.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
    insert_docs(docs, "five")
    with docs.transaction(force_rollback=True):
        docs.execute(MOVE)
    assert value(docs, "SELECT count(embedding) FROM docs") == 3
    docs.execute(MOVE)
    assert chunks(docs, 2) == ["changed"], "with its old vector, until it gets another"
    start_worker(dsn, model())
    wait(docs)
    assert [chunks(docs, key) for key in (2, 5)] == [["changed"], ["five"]]
    assert wrong(docs) == []


def test_rows_in_the_hands_of_a_worker_go_to_the_new_place(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    fake = GatedFake(shut=True, **OPTIONS)
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three')")
    start_worker(dsn, fake)
    fake.next_call()
    docs.execute(MOVE)
    fake.open()
    wait(docs)
    assert chunks(docs, 1) == expected(LONG)
    assert len(chunks(docs, 2)) == len(chunks(docs, 3)) == 1
    assert wrong(docs) == []
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


def test_rows_that_change_while_vectors_are_copied_have_their_own_chunks_in_the_end(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three')")
    start_worker(dsn, model())
    wait(docs)
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
        writer.execute("DELETE FROM docs WHERE id = 3")
        writer.execute("INSERT INTO docs VALUES (5, NULL, 'five')")
        with altering(docs, dsn, storage="table"):
            writer.commit()
    wait(docs)
    while value(docs, "SELECT count(*) FROM docs_embedding WHERE id = 3"):
        pass  # a worker's round of maintenance
    assert [chunks(docs, key) for key in (2, 5)] == [["changed"], ["five"]]
    assert wrong(docs) == []


def test_a_pair_moves_with_its_postings(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_bm25_model(docs)
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three', sparse => 'bm25')")
    fake = model()
    first = start_worker(dsn, {"three": fake})
    wait(docs)
    first.stop()
    docs.execute(MOVE)
    number = value(docs, "SELECT id FROM embed._vectorizer")
    assert value(docs, f"SELECT count(*) FROM embed._postings_{number} WHERE term = 0") == 3
    asked = len(fake.texts)
    start_worker(dsn, {"three": fake})
    wait(docs)
    assert sorted(fake.texts[asked:]) == sorted([*expected(LONG), *expected(" three ")])
    assert value(docs, "SELECT count(sparse) = count(*) FROM docs_embedding")
    assert value(docs, f"SELECT count(*) FROM embed._postings_{number} WHERE term = 0") == value(
        docs, "SELECT count(*) FROM docs_embedding"
    )


def test_a_partitioned_table_with_a_key_of_two_columns_moves(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    db.execute(
        'CREATE TABLE docs ("A b" int, at date, body text, PRIMARY KEY ("A b", at)) PARTITION BY RANGE (at)'
    )
    db.execute("CREATE TABLE docs_1 PARTITION OF docs DEFAULT")
    db.execute("INSERT INTO docs SELECT i, '2026-01-01', 'text ' || i FROM generate_series(1, 5) AS i")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    fake = GatedFake()
    start_worker(dsn, fake)
    wait(db)
    db.execute(MOVE)
    wait(db)  # its backfill reads the change too, if that comes before it ends
    assert len(fake.texts) == 5
    db.execute("UPDATE docs SET body = 'changed' WHERE \"A b\" = 5")
    wait(db)
    found = db.execute('SELECT "A b", at::text, chunk FROM docs_embedding ORDER BY 1').fetchall()
    texts = ["text 1", "text 2", "text 3", "text 4", "changed"]
    assert found == [(number, "2026-01-01", text) for number, text in enumerate(texts, 1)]
    assert fake.texts[5:] == ["changed"]


def test_the_column_stays_for_those_who_read_it_when_that_is_asked(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_type => 'vector')")
    docs.execute("UPDATE docs SET embedding = '[1,2,3,4,5,6,7,8]' WHERE id < 3")
    docs.execute("CREATE VIEW reader AS SELECT id, embedding FROM docs")
    state, message, hint = refused(docs, MOVE)
    assert (state, "reader" in message, "keep_column => true" in hint) == ("PE003", True, True)
    docs.execute(
        "SELECT embed.alter_vectorizer('docs', storage => 'table', chunk_table => 'parts',"
        " chunk_view => 'seen', keep_column => true)"
    )
    assert value(docs, "SELECT count(embedding) FROM reader") == 2
    assert value(docs, "SELECT embedding::text FROM parts WHERE id = 2") == "[1,2,3,4,5,6,7,8]"
    assert value(docs, "SELECT count(*) FROM seen") == 2
    state, message, hint = refused(docs, "SELECT embed.alter_vectorizer('docs', storage => 'column')")
    assert (state, message.endswith(": embedding"), "drop or rename it" in hint) == ("PE003", True, True)
    docs.execute("SELECT embed.alter_vectorizer('docs', storage => 'table')")


def test_a_move_says_what_is_in_its_way(docs: Connection, make_role: MakeRole) -> None:
    create_fake_model(docs, "other")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three')")
    for call, word in (
        ("storage => 'table', template => '{title}'", "change one, and then the other"),
        ("keep_column => true", "leave them out"),
        ("storage => 'table', chunking => '{\"size\": 1}'", "size is 8"),
    ):
        state, _, hint = refused(docs, f"SELECT embed.alter_vectorizer('docs', {call})")
        assert (state, word in hint) == ("PE003", True), call
    docs.execute("GRANT SELECT, UPDATE ON docs TO PUBLIC")
    with psycopg.connect(make_role("embed_owner").dsn, autocommit=True) as stranger:
        state, message, _ = refused(stranger, MOVE)
        assert (state, message) == ("42501", "you must own the table of vectorizer 'docs_embedding'")
    docs.execute("SELECT embed.switch_model('docs', 'other')")
    assert "embed.abort_switch" in refused(docs, MOVE)[2]
    docs.execute("SELECT embed.abort_switch('docs')")
    docs.execute("CREATE TABLE docs_embedding ()")
    assert "exists already" in refused(docs, MOVE)[1]


def test_an_owner_moves_and_a_worker_splits_with_no_more_rights_than_before(
    db: Connection, dsn: str, make_role: MakeRole, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    owner, worker = make_role("embed_owner"), make_role("embed_worker")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{owner.name}"')
    with psycopg.connect(owner.dsn, autocommit=True) as owned:
        owned.execute("CREATE TABLE mine.notes (id int PRIMARY KEY, body text)")
        owned.execute("INSERT INTO mine.notes VALUES (1, 'one')")
        owned.execute("SELECT embed.create_vectorizer('mine.notes', 'body')")
        fake = GatedFake()
        start_worker(worker.dsn, fake)
        owned.execute("SELECT embed.wait('mine.notes')")
        owned.execute("SELECT embed.alter_vectorizer('notes_embedding', filter => 'id < 9')")
        owned.execute("SELECT embed.wait('mine.notes')")
        owned.execute("SELECT embed.alter_vectorizer('notes_embedding', storage => 'table')")
        owned.execute("SELECT embed.wait('mine.notes')")
        owned.execute("SELECT embed.alter_vectorizer('notes_embedding', chunking => '{\"size\": 50}')")
        owned.execute("SELECT embed.wait('mine.notes')")
        owned.execute("INSERT INTO mine.notes VALUES (2, 'two')")
        owned.execute("SELECT embed.wait('mine.notes')")
        found = owned.execute("SELECT id, chunk FROM mine.notes_embedding ORDER BY id").fetchall()
    assert found == [(1, "one"), (2, "two")]
    assert fake.texts == ["one", "two"]


def test_a_chunk_has_one_hash_in_sql_and_in_workers(db: Connection) -> None:
    for text in ("", "one", "Größe 漢字 \U0001f600", "a\nb"):
        assert value(db, "SELECT embed._chunk_hash(%s, %s)", text, "fake v1 ü") == chunk_hash(
            text, "fake v1 ü"
        )


def test_a_queue_of_a_moved_vectorizer_has_no_row_twice_for_nothing(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three', backfill => false)")
    docs.execute(MOVE)
    assert queued(docs) + queued(docs, priority=2) == []
    assert value(docs, "SELECT mode FROM embed._backfill") == "all"
