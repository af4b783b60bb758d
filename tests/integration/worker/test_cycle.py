"""From a changed row to its vector: the whole cycle, with a real worker and the fake model."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pg_embed.jobs import Batch, Store, sessions
from pg_embed.worker.worker import SESSION
from tests.fix_models import PATIENCE
from tests.fix_worker import (
    NEVER,
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
    vector,
)
from tests.sql.helpers import value


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with three rows and a vectorizer on its body."""
    create_fake_model(db)
    create_docs(db, "one", None, "three")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    return db


def test_rows_that_exist_and_rows_that_come_are_embedded(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    insert_docs(docs, "four")
    docs.execute("SELECT embed.wait('docs')")
    found = docs.execute(
        "SELECT id, embedding = %s::halfvec FROM docs ORDER BY id", [vector("one")]
    ).fetchall()
    assert found == [(1, True), (2, None), (3, False), (4, False)]
    assert broken_rows(docs) == []


@pytest.mark.parametrize("kind", ["halfvec", "vector"])
def test_vectors_of_both_types_are_written_exactly(
    db: Connection, dsn: str, start_worker: StartWorker, kind: str
) -> None:
    create_fake_model(db, dimensions=300)
    create_docs(db, *(f"text {number}" for number in range(50)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body', column_type => %s)", [kind])
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert broken_rows(db, dimensions=300) == []
    assert value(db, "SELECT pg_typeof(embedding)::text FROM docs LIMIT 1") == kind


def test_texts_of_every_sort_come_through_whole(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    texts = [
        "",
        " ",
        "\n\t",
        "Zwölf Boxkämpfer",
        "模型 🦆 \u200b",
        "a" * 1_000_000,
        "%s :x $1 \\ {} '\"",
        "e\u0301",
    ]
    start_worker(dsn)
    insert_docs(docs, *texts)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(embedding) FROM docs") == 2 + len(texts)


def test_a_backfill_of_several_pages_is_read_to_the_end(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_docs(db, *(f"text {number}" for number in range(1_000)))
    db.execute("DELETE FROM docs WHERE id % 7 = 0")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    start_worker(dsn, page_rows=90, batch_rows=40)
    db.execute("SELECT embed.wait('docs')")
    assert broken_rows(db) == []
    assert value(db, "SELECT count(*) FROM embed._backfill") == 0


def test_live_rows_go_before_the_backfill(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db)
    create_docs(db, *(f"old {number}" for number in range(400)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    model = GatedFake(shut=True, concurrency=4)
    start_worker(dsn, model, page_rows=400, batch_rows=32, backfill_slots=1)
    first = model.next_call()
    assert first.texts[0].startswith("old")
    insert_docs(db, "new")
    live = model.next_call()
    assert live.texts == ["new"], "changed rows have slots of their own"
    live.go()
    while value(db, "SELECT count(*) FROM docs WHERE body = 'new' AND embedding IS NOT NULL") == 0:
        pass
    assert value(db, "SELECT count(embedding) FROM docs") == 1
    first.go()
    model.open()
    db.execute("SELECT embed.wait('docs')")
    assert broken_rows(db) == []


def test_a_row_that_is_to_be_backfilled_and_changes_gets_its_new_vector(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_docs(db, "old")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    model = GatedFake(shut=True, concurrency=4)
    start_worker(dsn, model)
    assert model.next_call().texts == ["old"]
    db.execute("UPDATE docs SET body = 'new'")
    assert model.next_call().texts == ["new"]
    model.open()
    db.execute("SELECT embed.wait('docs')")
    assert broken_rows(db) == []


@pytest.mark.parametrize("late", [True, False], ids=["old result last", "old result first"])
def test_a_row_that_changes_while_its_vector_is_computed_gets_the_new_one(
    docs: Connection, dsn: str, start_worker: StartWorker, late: bool
) -> None:
    model = GatedFake(shut=True, concurrency=4)
    docs.execute("DELETE FROM embed._backfill")
    start_worker(dsn, model, live_slots=2)
    docs.execute("UPDATE docs SET body = 'first' WHERE id = 1")
    first = model.next_call()
    docs.execute("UPDATE docs SET body = 'second' WHERE id = 1")
    second = model.next_call()
    assert (first.texts, second.texts) == (["first"], ["second"])
    for left, call in enumerate((second, first) if late else (first, second)):
        call.go()
        while value(docs, "SELECT count(*) FROM embed._queue") > 1 - left:
            pass
    docs.execute("SELECT embed.wait('docs')")
    found = docs.execute("SELECT id FROM docs WHERE embedding = %s::halfvec", [vector("second")]).fetchall()
    assert found == [(1,)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE docs SET body = NULL WHERE id = 1",
        "DELETE FROM docs WHERE id = 1",
        "TRUNCATE docs",
        "UPDATE docs SET id = 100 WHERE id = 1",
        "DELETE FROM docs WHERE id = 1; INSERT INTO docs (id, body) VALUES (1, 'another')",
        "UPDATE docs SET id = id + 100; INSERT INTO docs (id, body) VALUES (1, 'another')",
    ],
)
def test_whatever_happens_to_a_row_meanwhile_no_vector_is_wrong(
    docs: Connection, dsn: str, start_worker: StartWorker, change: str
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model)
    call = model.next_call()
    docs.execute(change)
    call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(*) FROM embed._queue") == 0


def test_a_text_that_comes_back_has_its_vector(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(shut=True, concurrency=4)
    docs.execute("DELETE FROM embed._backfill")
    start_worker(dsn, model, live_slots=3)
    calls = []
    for text in ("a", "b", "a"):
        docs.execute("UPDATE docs SET body = %s WHERE id = 1", [text])
        calls.append(model.next_call())
    for call in reversed(calls):
        call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="CASE WHEN id = 1 THEN body END") == []


def test_rows_that_a_user_s_transaction_holds_are_passed_over_and_embedded_after(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("UPDATE docs SET embedding = NULL")
    with psycopg.connect(dsn) as user:
        user.execute("SELECT * FROM docs WHERE id = 1 FOR UPDATE")
        docs.execute("SELECT embed.backfill('docs')")
        docs.execute("SELECT embed.backfill('docs', 'all')")
        while value(docs, "SELECT embedding FROM docs WHERE id = 3") is None:
            pass
        assert value(docs, "SELECT embedding FROM docs WHERE id = 1") is None
        user.execute("UPDATE docs SET title = 'changed' WHERE id IN (1, 3)")
        user.commit()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


def test_a_user_that_takes_rows_in_the_other_order_never_waits_for_ever(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    insert_docs(docs, *(f"text {number}" for number in range(20)))
    start_worker(dsn, model)
    call = model.next_call()
    with psycopg.connect(dsn) as user:
        user.execute("UPDATE docs SET title = 'x' WHERE id = 20")
        call.go()
        model.open()
        while value(docs, "SELECT count(embedding) FROM docs") < 19:
            pass
        for number in range(19, 0, -1):
            user.execute("UPDATE docs SET title = 'x' WHERE id = %s", [number])
        user.commit()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_row_that_its_holder_changes_gets_the_vector_of_what_was_committed(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model)
    call = model.next_call()
    with psycopg.connect(dsn) as user:
        user.execute("UPDATE docs SET body = 'changed' WHERE id = 1")
        call.go()
        model.open()
        while value(docs, "SELECT embedding FROM docs WHERE id = 3") is None:
            pass
        user.commit()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_notification_wakes_an_idle_worker(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn, poll=NEVER, busy_poll=NEVER)
    docs.execute("SELECT embed.wait('docs')")
    idle = (
        "SELECT count(*) FROM pg_locks"
        " WHERE locktype = 'advisory' AND classid = 1885695330 AND objid = 1 AND granted"
    )
    for number in range(3):
        while not value(docs, idle):
            pass
        insert_docs(docs, f"text {number}")
        docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_busy_worker_is_not_notified(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model)
    model.next_call()
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("LISTEN pg_embed_work")
        insert_docs(docs, "four")
        docs.execute("NOTIFY pg_embed_work, 'end'")
        assert [notice.payload for notice in listener.notifies(timeout=PATIENCE, stop_after=1)] == ["end"]
    model.open()


def test_several_vectorizers_of_a_table_are_all_served(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(docs, "second", dimensions=7)
    docs.execute(
        "SELECT embed.create_vectorizer('docs', template => '{title}: {body}', model =>"
        " 'second', column_name => 'e2')"
    )
    start_worker(dsn)
    docs.execute("UPDATE docs SET title = 'T', body = 'B'")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    text = "concat(title, ': ', body)"
    assert broken_rows(docs, text=text, column="e2", vectorizer="docs_e2", dimensions=7) == []


def test_a_vectorizer_made_altered_and_dropped_under_a_running_worker_is_followed(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, poll=NEVER)
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("SELECT embed.wait('docs')")
    db.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', name => 'again', column_type => 'vector')")
    db.execute("SELECT embed.wait('docs')")
    assert broken_rows(db, vectorizer="again") == []


def test_a_vectorizer_may_be_dropped_while_its_rows_are_in_hand(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model)
    call = model.next_call()
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    call.go()
    model.open()
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(*) FROM embed._queue") == 0


def test_a_table_may_be_dropped_while_its_rows_are_in_hand(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('other', 'body')")
    model = GatedFake(shut=True)
    start_worker.expected = 'relation "public.docs" does not exist'
    worker = start_worker(dsn, model, tend_every=0.05)
    call = model.next_call()
    docs.execute("DROP TABLE docs")
    call.go()
    model.open()
    docs.execute("INSERT INTO other VALUES (1, 'one')")
    docs.execute("SELECT embed.wait('other')")
    while value(docs, "SELECT count(*) FROM embed._vectorizer") > 1:
        pass
    worker.stop()
    assert broken_rows(docs, "other", vectorizer="other_embedding") == []


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_isolation = 'repeatable read'",
        "default_transaction_read_only = on",
        "DateStyle = 'German'",
        "search_path = ''",
        "statement_timeout = '1ms'",
        "default_transaction_deferrable = on",
        "enable_indexscan = off",
        "client_encoding = 'LATIN1'",
        "standard_conforming_strings = off",
    ],
)
def test_the_database_s_settings_do_not_disturb_a_worker(
    docs: Connection, dsn: str, start_worker: StartWorker, setting: str
) -> None:
    docs.execute(f'ALTER DATABASE "{docs.info.dbname}" SET {setting}')
    model = GatedFake(shut=True)
    start_worker(dsn, model, live_slots=2)
    insert_docs(docs, "Zwölf 模型")
    model.next_call()
    docs.execute("UPDATE docs SET body = body || '!'")
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


@pytest.mark.parametrize("setting", ["transaction_timeout", "idle_session_timeout", "statement_timeout"])
def test_a_worker_s_sessions_have_timeouts_of_their_own(docs: Connection, dsn: str, setting: str) -> None:
    if value(docs, "SELECT current_setting(%s, true)", setting) is None:
        pytest.skip(f"this server knows no {setting}")
    docs.execute(f'ALTER DATABASE "{docs.info.dbname}" SET {setting} = 7654321')

    async def shown() -> str:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session:
            await sessions.set_up(session, SESSION)
            row = await (await session.execute("SELECT current_setting(%s)", [setting])).fetchone()
        assert row is not None
        return str(row[0])

    assert asyncio.run(shown()) == SESSION[setting].replace("300s", "5min")


def test_a_worker_s_sessions_may_be_idle_for_long(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute(f'ALTER DATABASE "{docs.info.dbname}" SET idle_session_timeout = 300')
    with psycopg.connect(dsn, autocommit=True) as another:
        worker = start_worker(dsn, poll=NEVER)
        number = worker.number
        time.sleep(2)
        with pytest.raises(psycopg.OperationalError):
            another.execute("SELECT")  # its session has been ended
        assert worker.number == number
        assert value(docs, "SELECT embed._workers()") == 1
    insert_docs(docs, "late")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert worker.number == number


def test_writers_in_stricter_isolation_are_not_disturbed(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    for level in (psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE):
        with psycopg.connect(dsn) as user:
            user.isolation_level = level
            user.execute("SELECT count(*) FROM docs")
            insert_docs(docs, "between")
            docs.execute("SELECT embed.wait('docs')")
            user.execute("INSERT INTO docs (id, body) VALUES (%s, 'strict')", [-level.value])
            user.commit()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_many_writers_at_once_leave_no_row_behind(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)

    def write(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for turn in range(20):
                key = 1_000 + (number * 7 + turn * 3) % 30
                connection.execute(
                    "INSERT INTO docs (id, body) VALUES (%s, %s) ON CONFLICT (id) DO"
                    " UPDATE SET body = excluded.body",
                    [key, f"{number}-{turn}"],
                )
                if turn % 5 == 4:
                    connection.execute("DELETE FROM docs WHERE id = %s", [key])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(6)))
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(*) FROM embed._queue") == 0


def test_rows_of_long_texts_are_read_a_few_at_a_time(
    db: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pg_embed.worker.dispatcher.ROW_BYTES", 100_000)
    read = list[int]()

    async def take(self: Store, *arguments: Any) -> Batch | None:
        batch = await claim(self, *arguments)
        read.append(sum(len(text.encode()) for text in batch.texts) if batch else 0)
        return batch

    claim = Store.take
    monkeypatch.setattr(Store, "take", take)
    create_fake_model(db)
    create_docs(db, *(f"{number} " + "é" * 20_000 for number in range(20)), "", None, "short")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert max(read) < 100_000 + 40_010, "one text may go beyond"
    assert broken_rows(db) == []
    assert value(db, "SELECT count(*) FROM embed._queue") == 0


def test_rows_that_are_put_back_are_due_as_before(docs: Connection) -> None:
    docs.execute("TRUNCATE embed._queue")
    docs.execute("DELETE FROM embed._backfill")
    docs.execute("UPDATE docs SET body = repeat('x', 100) || id")
    docs.execute("SELECT embed._pack_v1(1)")
    taken = docs.execute("SELECT * FROM embed._take_v1(7, 1, 1, 10, '1 minute', 150)").fetchall()
    entries = list({row[0] for row in taken})
    later = [key for _, _, key, _, text, hash in taken if text is None and hash is not None]
    assert len(later) == 1, "two texts reach 150 bytes"
    docs.execute("SELECT embed._put_back_v1(8, %s, %s)", [entries, later])
    assert value(docs, "SELECT count(*) FROM embed._queue WHERE worker IS NULL") == 0, "it is another's"
    docs.execute("SELECT embed._put_back_v1(7, %s, %s)", [entries, later])
    waiting = "SELECT keys, n, attempts, available_at = enqueued_at FROM embed._queue WHERE worker IS NULL"
    assert docs.execute(waiting).fetchall() == [(later, 1, 0, True)]
    held = (
        "SELECT array_agg(k ORDER BY k) FROM embed._queue AS q, unnest(embed._keys(q)) AS k WHERE worker = 7"
    )
    assert value(docs, held) == sorted({"1", "2", "3"} - set(later))
