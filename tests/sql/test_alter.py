"""embed.alter_vectorizer: what is embedded again is what has another text, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pg_embed.chunks import Chunking, Counter, split
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from tests.fix_pg import MakeRole
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

KINDS = {"column": "", "table": ", storage => 'table'", "pair": ", sparse => 'bm25'"}
LONG = "\n\n".join(f"Sentence number {number:03} of the text." for number in range(40))


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with two rows of title a and two of title b, and models; no vectorizer yet."""
    create_fake_model(db)
    create_bm25_model(db)
    create_docs(db, "one", "two", "three", "four")
    db.execute("UPDATE docs SET title = CASE WHEN id < 3 THEN 'a' ELSE 'b' END")
    return db


def make(db: Connection, kind: str = "column", **told: str) -> None:
    """A vectorizer of the fake model over `body`."""
    given = "".join(f", {name} => '{text}'" for name, text in told.items())
    source = "" if "template" in told else ", 'body'"
    db.execute(f"SELECT embed.create_vectorizer('docs'{source}, model => 'fake'{given}{KINDS[kind]})")


def alter(db: Connection, **told: str | None) -> None:
    given = ", ".join(f"{name} => %s" for name in told)
    db.execute(f"SELECT embed.alter_vectorizer('docs_embedding', {given})", list(told.values()))


def wait(db: Connection) -> None:
    db.execute("SELECT embed.wait('docs', '60 seconds')")


def embedded(db: Connection, kind: str) -> list[int]:
    """The rows that have vectors."""
    statement = (
        "SELECT DISTINCT id FROM docs_embedding ORDER BY id"
        if kind == "table"
        else "SELECT id FROM docs WHERE embedding IS NOT NULL ORDER BY id"
    )
    return [row[0] for row in db.execute(statement).fetchall()]


def wrong(db: Connection, kind: str, text: str) -> list[tuple[object, ...]]:
    """The invariant, where a row has one chunk at most; `text` is SQL over the columns of `docs`."""
    if kind != "table":
        return broken_rows(db, text=text)
    db.execute(
        "CREATE OR REPLACE TEMPORARY VIEW chunked AS SELECT d.*, c.embedding"
        " FROM docs AS d LEFT JOIN docs_embedding AS c USING (id)"
    )
    return broken_rows(db, "chunked", text=text)


@pytest.mark.parametrize("kind", KINDS)
def test_another_filter_embeds_the_rows_that_newly_meet_it_and_no_other(
    docs: Connection, dsn: str, start_worker: StartWorker, kind: str
) -> None:
    model = GatedFake()
    make(docs, kind, filter="title = ''a''")
    start_worker(dsn, {"fake": model})
    wait(docs)
    assert sorted(model.texts) == ["one", "two"]
    alter(docs, filter="title < 'x'")
    wait(docs)
    assert sorted(model.texts[2:]) == ["four", "three"]
    assert embedded(docs, kind) == [1, 2, 3, 4]
    alter(docs, filter="title = 'b'")
    wait(docs)
    assert embedded(docs, kind) == [3, 4]
    assert len(model.texts) == 4
    alter(docs, filter="")
    wait(docs)
    assert sorted(model.texts[4:]) == ["one", "two"]
    assert wrong(docs, kind, "body") == []
    if kind == "pair":
        assert value(docs, "SELECT count(sparse) FROM docs") == 4


@pytest.mark.parametrize("kind", KINDS)
def test_another_template_embeds_the_rows_whose_text_it_changes_and_no_other(
    docs: Connection, dsn: str, start_worker: StartWorker, kind: str
) -> None:
    model = GatedFake()
    docs.execute("UPDATE docs SET title = NULL WHERE id < 3")
    make(docs, kind)
    start_worker(dsn, {"fake": model})
    wait(docs)
    alter(docs, template="{title}{body}")
    wait(docs)
    assert sorted(model.texts[4:]) == ["bfour", "bthree"]
    alter(docs, template="{title}{body}")
    alter(docs, max_attempts="5", storage="table" if kind == "table" else "column", model="fake")
    wait(docs)
    assert len(model.texts) == 6
    assert wrong(docs, kind, "concat(title, body)") == []


def test_another_filter_and_back_before_a_worker_looks_costs_nothing(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    make(docs)
    first = start_worker(dsn, model)
    wait(docs)
    first.stop()
    alter(docs, filter="title = 'a'")
    alter(docs, filter="")
    start_worker(dsn, model)
    wait(docs)
    assert wrong(docs, "column", "body") == []
    assert len([text for text in model.texts if text in ("one", "two")]) == 2


def test_old_vectors_stay_until_the_new_ones_come_and_live_rows_go_first(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    make(docs)
    worker = start_worker(dsn)
    wait(docs)
    worker.stop()
    alter(docs, template="{title}: {body}")
    assert embedded(docs, "column") == [1, 2, 3, 4]
    assert queued(docs, priority=2) == ["1", "2", "3", "4"]
    insert_docs(docs, "five")
    assert queued(docs) == ["5"]


def test_what_is_rolled_back_has_changed_nothing(docs: Connection) -> None:
    make(docs)
    clear_queue(docs)
    docs.execute("DELETE FROM embed._backfill")
    docs.execute("UPDATE docs SET embedding = '[1,2,3,4]'")
    with docs.transaction(force_rollback=True):
        alter(docs, template="{title}: {body}", filter="title = 'a'", rename_to="other")
        assert queued(docs, "other", priority=2) == ["1", "2", "3", "4"]
    assert queued(docs, priority=2) == []
    assert value(docs, "SELECT count(*) FROM embed._backfill") == 0
    assert docs.execute("SELECT name, template, filter FROM embed.vectorizers").fetchall() == [
        ("docs_embedding", "{body}", None)
    ]
    docs.execute("UPDATE docs SET title = 'c' WHERE id = 1")
    assert queued(docs) == []


@pytest.mark.parametrize("kind", ["column", "table"])
def test_rows_in_the_hands_of_a_worker_get_the_vectors_of_their_new_text(
    docs: Connection, dsn: str, start_worker: StartWorker, kind: str
) -> None:
    model = GatedFake(shut=True)
    make(docs, kind)
    start_worker(dsn, model)
    model.next_call()
    alter(docs, template="{title}: {body}")
    model.open()
    wait(docs)
    assert wrong(docs, kind, "title || ': ' || body") == []
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


@contextmanager
def altering(db: Connection, dsn: str, **told: str) -> Iterator[None]:
    """Alter in another session, which waits for a lock when the block begins, and ends behind it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                alter(connection, **told)
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'docs'::regclass"
    while value(db, waiting) == 0 and thread.is_alive():
        pass
    yield
    thread.join(60)
    assert not thread.is_alive()
    assert failed == []


def test_a_row_that_is_written_while_the_table_is_read_is_looked_at_again(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    docs.execute("UPDATE docs SET title = NULL")
    make(docs)
    start_worker(dsn, model)
    wait(docs)
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET title = 'late ' WHERE id = 2")
        with altering(docs, dsn, template="{title}{body}"):
            writer.commit()
    wait(docs)
    assert model.texts[4:] == ["late two"]
    assert wrong(docs, "column", "concat(title, body)") == []


def test_a_row_that_is_written_again_afterwards_was_looked_at_before(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("UPDATE docs SET title = NULL")
    docs.execute("ALTER TABLE docs ADD COLUMN seen int")
    make(docs)
    first = start_worker(dsn)
    wait(docs)
    first.stop()
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET title = 'late ' WHERE id = 2")
        with altering(docs, dsn, template="{title}{body}"):
            writer.commit()
    docs.execute("UPDATE docs SET seen = 1")
    assert queued(docs, priority=2) == ["2"]
    start_worker(dsn)
    wait(docs)
    assert wrong(docs, "column", "concat(title, body)") == []


def test_a_paused_vectorizer_waits_with_what_is_to_be_embedded_again(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    make(docs)
    start_worker(dsn)
    wait(docs)
    docs.execute("SELECT embed.pause('docs')")
    alter(docs, filter="title = 'b'")
    assert value(docs, "SELECT state FROM embed.vectorizers") == "paused"
    assert queued(docs, priority=2) == ["1", "2"]
    docs.execute("SELECT embed.resume('docs')")
    wait(docs)
    assert embedded(docs, "column") == [3, 4]


def test_a_filter_that_fails_on_a_row_looks_at_every_row(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    make(docs)
    start_worker(dsn)
    wait(docs)
    alter(docs, filter="10 / (id - 2) > -100")
    wait(docs)
    assert docs.execute("SELECT key FROM embed.failures").fetchall() == [("2",)]
    assert broken_rows(docs) == []


def test_a_vectorizer_that_had_stopped_looks_at_every_row(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    make(docs)
    start_worker(dsn)
    wait(docs)
    docs.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    docs.execute("UPDATE docs SET body = 'changed' WHERE id = 1")
    docs.execute("ALTER TABLE docs ADD COLUMN other text")
    alter(docs, input=None, template="{body}")
    wait(docs)
    assert broken_rows(docs) == []
    docs.execute("ALTER TABLE docs DROP COLUMN body CASCADE")
    state, message, _ = refused(docs, "SELECT embed.alter_vectorizer('docs', filter => 'id > 1')")
    assert (state, "dropped" in message) == ("PE003", True)
    alter(docs, template="{title}!")
    wait(docs)
    assert broken_rows(docs, text="title || '!'") == []


def chunk_ids(db: Connection) -> dict[str, int]:
    return dict(db.execute("SELECT chunk, chunk_id FROM docs_embedding").fetchall())


def expected_chunks(text: str, size: int) -> list[str]:
    count = Counter(FakeEmbedder(FakeOptions(dimensions=4)).count_tokens)
    return [chunk.text for chunk in split(text, Chunking(size=size), count)]


def test_another_chunking_splits_behind_live_rows_and_keeps_equal_chunks_with_their_ids(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("UPDATE docs SET body = %s WHERE id = 1", [LONG])
    model = GatedFake()
    make(docs, "table", chunking='{"size": 12}')
    first = start_worker(dsn, model)
    wait(docs)
    first.stop()
    before = chunk_ids(docs)
    asked = len(model.texts)
    alter(docs, chunking='{"size": 24}')
    assert chunk_ids(docs) == before, "the old chunks are searched until their documents are done"
    start_worker(dsn, model)
    wait(docs)
    after = chunk_ids(docs)
    assert list(after) != list(before)
    assert set(after) == {*expected_chunks(LONG, 24), "two", "three", "four"}
    same = before.keys() & after.keys()
    assert same >= {"two", "three", "four"}
    assert {chunk: before[chunk] for chunk in same} == {chunk: after[chunk] for chunk in same}
    assert sorted(model.texts[asked:]) == sorted(after.keys() - before.keys())
    alter(docs, chunking='{"size": 24}')
    wait(docs)
    assert chunk_ids(docs) == after
    assert len(model.texts) == asked + len(after.keys() - before.keys())
    alter(docs, chunking="{}")
    assert value(docs, "SELECT chunking ->> 'size' FROM embed.vectorizers") == "400"


def test_documents_in_the_hands_of_a_worker_are_split_as_is_said_now(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("UPDATE docs SET body = %s WHERE id = 1", [LONG])
    model = GatedFake(shut=True)
    make(docs, "table", chunking='{"size": 12}')
    start_worker(dsn, model)
    model.next_call()
    alter(docs, chunking='{"size": 30}')
    model.open()
    wait(docs)
    assert set(chunk_ids(docs)) == {*expected_chunks(LONG, 30), "two", "three", "four"}


def test_a_result_that_was_split_in_another_way_is_not_written(docs: Connection) -> None:
    make(docs, "table", chunking='{"size": 12}')
    insert_docs(docs, "five")
    entry = value(
        docs,
        "SELECT c.entry FROM embed._vectorizer AS v, embed._claim_documents_v1(7, v.id, 1, 9, '1 hour') AS c",
    )
    finish = (
        "SELECT f.written FROM embed._vectorizer AS v, embed._finish_documents_v1(7, v.id, ARRAY[%s::bigint],"
        " '{5}', ARRAY[embed._hash('five')], '{}', '{}', '{}',"
        " '{1}', '{NULL}', '{1}', '{five}', '{\"\"}', '{9}',"
        " ARRAY['[1,2,3,4]'::halfvec], chunking => %s) AS f"
    )
    told = value(docs, "SELECT chunking::text FROM embed.vectorizers")
    assert value(docs, finish, entry, told.replace("12", "13")) == 0
    assert queued(docs) == ["5"]
    assert value(docs, finish, entry, told) == 1
    assert queued(docs) == []


@pytest.mark.parametrize("kind", ["column", "table"])
def test_what_was_made_without_the_hook_of_now_is_not_written(docs: Connection, kind: str) -> None:
    make(docs, kind)
    insert_docs(docs, "five")
    alter(docs, prepare="hook")
    number = value(docs, "SELECT id FROM embed._vectorizer")
    if kind == "column":
        taken = docs.execute(
            "SELECT entry, hash, input FROM embed._take_v1(7, %s, 1, 9, '1 hour', 999)", [number]
        )
        finish = (
            "SELECT written FROM embed._finish_v1(7, %s, ARRAY[%s::bigint], '{5}', ARRAY[%s::bigint],"
            " ARRAY['[1,2,3,4]'::halfvec], hook => %s)"
        )
    else:
        taken = docs.execute(
            "SELECT entry, hash, input FROM embed._claim_documents_v1(7, %s, 1, 9, '1 hour'),"
            " embed._read_documents_v1(%s, '{5}', 999, 1)",
            [number, number],
        )
        finish = (
            "SELECT written FROM embed._finish_documents_v1(7, %s, ARRAY[%s::bigint], '{5}',"
            " ARRAY[%s::bigint], '{}', '{}', '{}', '{1}', '{NULL}', '{1}', '{text}', ARRAY[''], '{9}',"
            " ARRAY['[1,2,3,4]'::halfvec], hook => %s)"
        )
    ((entry, hash_, read),) = taken.fetchall()
    assert json.loads(read) == {"row": {"body": "five"}, "bytes": [], "hook": "hook"}
    for hook in (None, "another"):
        assert value(docs, finish, number, entry, hash_, hook) == 0
        assert queued(docs) == ["5"]
    assert value(docs, finish, number, entry, hash_, "hook") == 1
    assert queued(docs) == []


def test_alter_vectorizer_says_what_cannot_be_changed(docs: Connection) -> None:
    make(docs)
    create_fake_model(docs, "other")
    for call, word in (
        ("chunking => '{\"size\": 12}'", "storage => 'table'"),
        ("storage => 'no'", "'column'"),
        ("model => 'other'", "embed.switch_model('docs_embedding', 'other')"),
        ("model => 'no'", "embed.switch_model"),
    ):
        state, _, hint = refused(docs, f"SELECT embed.alter_vectorizer('docs', {call})")
        assert (state, word in hint) == ("PE003", True), call
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    make(docs, "table")
    for chunking in ('{"size": 1}', '{"no": 1}', '{"overlap": 400}', "[]", '{"size": 1000000}'):
        call = "SELECT embed.{}, chunking => %s{})"
        created = refused(
            docs,
            call.format("create_vectorizer('docs', 'body', model => 'fake'", ", storage => 'table'"),
            chunking,
        )
        assert refused(docs, call.format("alter_vectorizer('docs'", ""), chunking) == created


def test_only_the_owner_alters(docs: Connection, make_role: MakeRole) -> None:
    make(docs, "table")
    docs.execute("GRANT SELECT, UPDATE ON docs TO PUBLIC")
    with psycopg.connect(make_role("embed_owner").dsn, autocommit=True) as stranger:
        for call in ("chunking => '{}'", "filter => 'id > 1'", "max_attempts => 3"):
            state, message, _ = refused(stranger, f"SELECT embed.alter_vectorizer('docs', {call})")
            assert (state, message) == ("42501", "you must own the table of vectorizer 'docs'")
