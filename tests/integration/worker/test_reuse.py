"""A text that comes again needs no call: in a batch, in other rows and tables, after its row was deleted."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pg_embed.errors import InputRejected, ModelUnavailable
from tests.fix_pg import MakeRole
from tests.fix_worker import (
    DIMENSIONS,
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.integration.worker.test_chunks import ContextualFake, chunk_docs, long_text, text
from tests.sql.helpers import value

SIZES = {"dimensions": 8, "sparse_dimensions": 250_002, "multi_dimensions": 4}
OUTPUTS = ", sparse_column => 'words', multi_column => 'tokens'"
WORDS = ("one fish two fish", "red fish", "", "blue")


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, empty, with a vectorizer whose model's vectors are reused."""
    create_fake_model(db)
    db.execute("SELECT embed.set_reuse('fake', true)")
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    return db


def wait(db: Connection, table: str = "docs") -> None:
    db.execute("SELECT embed.wait(%s::regclass)", [table])


def reload(db: Connection, table: str = "docs") -> None:
    """Take all rows out and copy them in again."""
    rows = db.execute(f"SELECT id, body FROM {table} ORDER BY id").fetchall()
    with db.transaction():
        db.execute(f"TRUNCATE {table}")
        with db.cursor().copy(f"COPY {table} (id, body) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)


def kept(db: Connection) -> tuple[Any, ...]:
    """Rows and bytes as they are counted, which must be what is there."""
    row = db.execute(
        "SELECT sum(k.rows), sum(k.bytes), r.rows, r.bytes FROM embed.reuse AS k,"
        " (SELECT count(*) AS rows, COALESCE(sum(size), 0) AS bytes FROM embed._reuse) AS r GROUP BY 3, 4"
    ).fetchone()
    assert row is not None
    assert row[:2] == row[2:]
    return row[:2]


def test_equal_texts_of_a_batch_are_embedded_once_by_every_model(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.set_reuse('fake', false)")
    insert_docs(docs, *["same", "other"] * 20, "last")
    model = GatedFake()
    worker = start_worker(dsn, model)
    wait(docs)
    worker.stop()
    assert sorted(model.texts) == ["last", "other", "same"]
    assert broken_rows(docs) == []
    assert docs.execute("SELECT inputs, reused FROM embed.usage").fetchall() == [(3, 38)]
    assert kept(docs) == (0, 0)


def test_a_reload_makes_no_call(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    insert_docs(docs, *(f"text {number}" for number in range(500)))
    model = GatedFake()
    worker = start_worker(dsn, model)
    wait(docs)
    assert len(model.texts) == 500
    before = len(model.calls)
    reload(docs)
    wait(docs)
    assert len(model.calls) == before
    assert value(docs, "SELECT count(embedding) FROM docs") == 500
    assert broken_rows(docs) == []
    worker.stop()
    used = docs.execute("SELECT inputs, reused FROM embed.usage").fetchall()
    assert used == [(500, 500)]
    assert value(docs, "SELECT reused FROM embed.reuse") == 500
    assert kept(docs)[0] == 500


def test_a_row_that_comes_back_and_a_text_that_comes_back_make_no_call(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    start_worker(dsn, model)
    insert_docs(docs, "one", "two")
    wait(docs)
    docs.execute("DELETE FROM docs WHERE id = 1")
    insert_docs(docs, "one", "three")
    docs.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
    wait(docs)
    docs.execute("UPDATE docs SET body = 'two' WHERE id = 2")
    wait(docs)
    assert sorted(model.texts) == ["changed", "one", "three", "two"]
    assert broken_rows(docs) == []


def test_known_and_new_texts_of_a_batch_come_to_their_rows(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    start_worker(dsn, model)
    insert_docs(docs, *(f"text {number}" for number in range(0, 90, 3)))
    wait(docs)
    insert_docs(docs, *(f"text {number % 60}" for number in range(120)))
    wait(docs)
    assert sorted(model.texts) == sorted({f"text {n}" for n in (*range(60), *range(60, 90, 3))})
    assert broken_rows(docs) == []


@pytest.mark.parametrize("kinds", [("halfvec", "vector"), ("vector", "halfvec")])
def test_two_tables_share_vectors_and_neither_gets_rounded_ones(
    db: Connection, dsn: str, start_worker: StartWorker, kinds: tuple[str, str]
) -> None:
    create_fake_model(db, dimensions=300)
    db.execute("SELECT embed.set_reuse('fake', true)")
    model = GatedFake(dimensions=300)
    start_worker(dsn, model)
    texts = [f"text {number}" for number in range(50)]
    create_docs(db, *texts)
    db.execute("CREATE TABLE others AS TABLE docs; ALTER TABLE others ADD PRIMARY KEY (id)")
    for table, kind in zip(("docs", "others"), kinds, strict=True):
        db.execute("SELECT embed.create_vectorizer(%s::regclass, 'body', column_type => %s)", [table, kind])
        wait(db, table)
    for table in ("docs", "others"):
        assert broken_rows(db, table, vectorizer=f"{table}_embedding", dimensions=300) == []
    # what was rounded is no vector of float32; the other way round it is rounded then
    assert len(model.texts) == (100 if kinds[1] == "vector" else 50)
    assert kept(db) == (50, 50 * (100 + 4 * 300))


def test_what_is_under_way_for_one_table_is_waited_for_by_another(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE others (id bigint PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('others', 'body', backfill => false)")
    model = GatedFake(shut=True, concurrency=4)
    start_worker(dsn, model)
    docs.execute("INSERT INTO docs (id, body) SELECT n, 'text ' || n FROM generate_series(1, 50) AS n")
    first = model.next_call()
    docs.execute("INSERT INTO others SELECT id, body FROM docs UNION ALL SELECT 51, 'another'")
    assert model.next_call().texts == ["another"]
    first.go()
    model.open()
    for table in ("docs", "others"):
        wait(docs, table)
        assert broken_rows(docs, table, vectorizer=f"{table}_embedding") == []
    assert len(model.texts) == 51


def test_a_text_whose_call_failed_is_tried_again_by_who_waited_for_it(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE others (id bigint PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('others', 'body', backfill => false)")
    model = GatedFake(shut=True, concurrency=4)
    start_worker(dsn, model)
    insert_docs(docs, "text")
    first = model.next_call()
    docs.execute("INSERT INTO others VALUES (1, 'text')")
    while value(docs, "SELECT count(*) FROM embed._queue WHERE worker IS NOT NULL") < 2:
        time.sleep(0.01)
    docs.execute("SELECT embed.pause('docs')")
    first.go(ModelUnavailable("not now"))
    assert model.next_call().texts == ["text"]
    model.open()
    wait(docs, "others")
    assert broken_rows(docs, "others", vectorizer="others_embedding") == []


def test_owners_do_not_share(
    docs: Connection, dsn: str, start_worker: StartWorker, make_role: MakeRole
) -> None:
    model = GatedFake()
    start_worker(dsn, model)
    insert_docs(docs, "a secret")
    wait(docs)
    other = make_role("embed_owner").name
    docs.execute("CREATE TABLE guesses AS TABLE docs; ALTER TABLE guesses ADD PRIMARY KEY (id)")
    docs.execute(f'ALTER TABLE guesses OWNER TO "{other}"')
    docs.execute("SELECT embed.create_vectorizer('guesses', 'body')")
    wait(docs, "guesses")
    assert model.texts == ["a secret", "a secret"], "what one owner embeds tells nothing of another's texts"


def test_all_outputs_come_back_exactly(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db, **SIZES)
    db.execute("SELECT embed.set_reuse('fake', true)")
    create_docs(db, *WORDS)
    db.execute(f"SELECT embed.create_vectorizer('docs', 'body'{OUTPUTS})")
    model = GatedFake(**SIZES)
    start_worker(dsn, model)
    wait(db)
    db.execute("CREATE TABLE before AS SELECT body, embedding, words, tokens FROM docs")
    reload(db)
    wait(db)
    assert sorted(model.texts) == sorted(WORDS)
    assert broken_rows(db, **SIZES) == []
    same = (
        "SELECT count(*) FROM docs AS d JOIN before AS b USING (body) WHERE d.embedding = b.embedding"
        " AND d.words = b.words AND d.tokens = b.tokens"
    )
    assert value(db, same) == len(WORDS)


def test_outputs_that_were_not_kept_are_made_and_kept_with_the_others(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db, **SIZES)
    db.execute("SELECT embed.set_reuse('fake', true)")
    create_docs(db, *WORDS)
    model = GatedFake(**SIZES)
    start_worker(dsn, model)
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    wait(db)
    for calls, columns in ((2, "sparse_column => 'words'"), (3, "multi_column => 'tokens'")):
        db.execute(f"SELECT embed.create_vectorizer('docs', 'body', column_name => NULL, {columns})")
        wait(db)
        assert len(model.texts) == calls * len(WORDS)
        assert kept(db)[0] == len(WORDS)
    db.execute("CREATE TABLE others AS SELECT id, body FROM docs; ALTER TABLE others ADD PRIMARY KEY (id)")
    db.execute(f"SELECT embed.create_vectorizer('others', 'body'{OUTPUTS})")
    wait(db, "others")
    assert len(model.texts) == 3 * len(WORDS)
    same = "SELECT count(*) FROM docs AS d JOIN others AS o USING (id, embedding, words, tokens)"
    assert value(db, same) == len(WORDS)


def test_two_models_of_a_vectorizer_are_each_their_own(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_fake_model(db, "words", sparse_dimensions=1_000)
    create_docs(db, *WORDS)
    db.execute("SELECT embed.set_reuse('words', true)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'words')")
    models = {"fake": GatedFake(), "words": GatedFake(sparse_dimensions=1_000)}
    start_worker(dsn, models)
    wait(db)
    db.execute("CREATE TABLE before AS SELECT id, embedding, sparse FROM docs")
    reload(db)
    wait(db)
    assert [len(models[name].texts) for name in ("fake", "words")] == [2 * len(WORDS), len(WORDS)]
    same = "SELECT count(*) FROM docs JOIN before USING (id, embedding, sparse)"
    assert value(db, same) == len(WORDS)


def test_a_model_of_another_space_meets_no_old_vectors(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(docs, "one")
    worker = start_worker(dsn)
    wait(docs)
    worker.stop()
    assert kept(docs)[0] == 1
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true), embed.drop_model('fake')")
    assert value(docs, "SELECT count(*) FROM embed._reuse") == 0
    create_fake_model(docs, document_prompt="passage: ")
    docs.execute("SELECT embed.set_reuse('fake', true), embed.create_vectorizer('docs', 'body')")
    start_worker(dsn)
    wait(docs)
    assert broken_rows(docs, document_prompt="passage: ") == []


def test_an_altered_model_of_another_space_meets_no_old_vectors(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(docs, "one")
    worker = start_worker(dsn)
    wait(docs)
    worker.stop()
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    create_fake_model(docs, "other", document_prompt="passage: ")
    docs.execute(
        "SELECT embed.alter_model('fake', m.options, m.card) FROM embed._model AS m WHERE m.name = 'other'"
    )
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
    start_worker(dsn)
    wait(docs)
    assert broken_rows(docs, document_prompt="passage: ") == []
    assert kept(docs)[0] == 2


def test_switched_off_it_forgets_at_once_and_keeps_nothing(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    start_worker(dsn, model)
    insert_docs(docs, "one", "two")
    wait(docs)
    assert kept(docs)[0] == 2
    docs.execute("SELECT embed.set_reuse('fake', false)")
    assert kept(docs) == (0, 0)
    reload(docs)
    wait(docs)
    assert len(model.texts) == 4
    assert kept(docs) == (0, 0)


def test_what_is_beyond_the_bound_is_evicted_the_longest_unused_first(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.set_reuse('fake', true, max_rows => 10)")
    model = GatedFake()
    start_worker(dsn, model, tend_every=0.05)
    for number in range(30):
        insert_docs(docs, f"text {number}")
        wait(docs)
    while kept(docs)[0] > 10:
        time.sleep(0.01)
    before = len(model.texts)
    docs.execute("DELETE FROM docs WHERE id <= 20")
    reload(docs)
    wait(docs)
    assert len(model.texts) == before, "the last ten are known"
    insert_docs(docs, "text 3")
    wait(docs)
    assert model.texts[before:] == ["text 3"]
    assert broken_rows(docs) == []


def test_what_a_killed_worker_had_embedded_is_not_paid_twice(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(docs, "one", "two")
    model = GatedFake()
    with docs.transaction():
        docs.execute("SELECT FROM docs FOR UPDATE")  # no worker can write them
        first = start_worker(dsn, model)
        while kept(docs)[0] < 2:
            time.sleep(0.01)
        first.abort()
    start_worker(dsn, model)
    wait(docs)
    assert sorted(model.texts) == ["one", "two"]
    assert broken_rows(docs) == []


def test_a_text_that_the_model_rejects_is_charged_alone_and_not_kept(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    model.refuse = lambda texts: InputRejected("no") if "bad" in texts else None
    start_worker(dsn, model)
    insert_docs(docs, "good", "bad", "fine", "bad")
    wait(docs)
    assert value(docs, "SELECT array_agg(key ORDER BY key) FROM embed.failures") == ["2", "4"]
    assert broken_rows(docs) == []
    assert kept(docs) == (2, 2 * (100 + 2 * DIMENSIONS))


def test_rows_are_embedded_where_the_database_keeps_nothing(
    docs: Connection, dsn: str, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    docs.execute("DROP TABLE embed._reuse")
    insert_docs(docs, "one", "two")
    start_worker(dsn)
    wait(docs)
    assert broken_rows(docs) == []
    assert any("vectors are not reused" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("contextual", [False, True])
def test_chunks_come_again_but_for_those_that_know_of_their_document(
    db: Connection, dsn: str, start_worker: StartWorker, contextual: bool
) -> None:
    chunk_docs(db)
    db.execute("SELECT embed.set_reuse('fake', true)")
    model = ContextualFake() if contextual else GatedFake()
    start_worker(dsn, model)
    wait(db)  # or rows come from the backfill, too
    texts = [text(*long_text(5 + number)) for number in range(3)]
    insert_docs(db, *texts)
    wait(db)
    stored = "SELECT array_agg(embedding::text ORDER BY id, chunk_no) FROM docs_embedding"
    before, made = value(db, stored), len(model.texts)
    db.execute("TRUNCATE docs")
    wait(db)
    assert value(db, stored) is None
    insert_docs(db, *texts)
    wait(db)
    assert value(db, stored) == before
    assert len(model.texts) == (2 * made if contextual else made)
    assert (kept(db)[0] == 0) == contextual
