"""Operating: status, failures, retry, pause, resume, why and wait, in each state of a row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

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
)
from tests.sql.helpers import queued, refused, value


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, empty, with a vectorizer whose model refuses "bad" and is unavailable for "later"."""
    create_fake_model(db, fail_on="bad", unavailable_on="later")
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', max_attempts => 3, backfill => false)")
    return db


def why(db: Connection, key: int | str) -> tuple[str, str]:
    found = db.execute("SELECT state, explanation FROM embed.why('docs', %s)", [key]).fetchall()
    assert len(found) == 1
    return found[0][0], found[0][1]


def counts(db: Connection) -> tuple[int, int, int, int]:
    row = db.execute("SELECT pending, in_flight, failed, backfill FROM embed.status").fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


def test_status_of_a_vectorizer_with_nothing_to_do(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    found = docs.execute(
        "SELECT vectorizer_name, source::text, model, state, reason, oldest, time_left,"
        " last_error FROM embed.status"
    ).fetchall()
    assert found == [("docs_embedding", "docs", "fake", "active", None, None, None, None)]
    assert counts(docs) == (0, 0, 0, 0)


def test_status_counts_rows_exactly_in_each_state(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    insert_docs(docs, "one", "two")
    start_worker(dsn, model, live_slots=1)
    call = model.next_call()
    insert_docs(docs, "three", "four", "five")
    assert counts(docs)[:3] == (3, 2, 0)
    assert value(docs, "SELECT oldest > '0' FROM embed.status")
    call.go()
    model.next_call().go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert counts(docs)[:3] == (0, 0, 0)
    assert value(docs, "SELECT rows_per_second FROM embed.status") > 0


def test_status_counts_the_rows_of_a_backfill(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db)
    create_docs(db, *(str(number) for number in range(25)))
    db.execute("ANALYZE docs")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    assert counts(db)[0] == 25
    db.execute("SELECT embed._page_v1(id, 10) FROM embed._vectorizer")
    assert counts(db) == (25, 0, 0, 15)
    db.execute("SELECT embed._page_v1(id, 10) FROM embed._vectorizer")
    assert counts(db) == (25, 0, 0, 5)
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert counts(db) == (0, 0, 0, 0)


def test_status_of_one_vectorizer_by_its_name_or_table(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'title', column_name => 'other')")
    for name in ("docs_other", "docs_embedding"):
        assert docs.execute("SELECT vectorizer_name FROM embed.status(%s)", [name]).fetchall() == [(name,)]
    assert refused(docs, "SELECT * FROM embed.status('docs')")[0] == "PE003"
    assert refused(docs, "SELECT * FROM embed.failures('no')")[0] == "PE003"


def test_a_refused_row_is_a_failure_with_the_text_of_the_error(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    insert_docs(docs, "good", "bad", "fine")
    docs.execute("SELECT embed.wait('docs')")
    found = docs.execute(
        "SELECT vectorizer_name, source::text, key, code, error, attempts FROM embed.failures"
    ).fetchall()
    assert found == [("docs_embedding", "docs", "2", "PE021", "the fake model was told to refuse 'bad'", 1)]
    assert counts(docs) == (0, 0, 1, 0)
    state, explanation = why(docs, 2)
    assert state == "failed"
    assert "told to refuse 'bad'" in explanation
    assert "embed.retry('docs_embedding', '2')" in explanation
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(embedding) FROM docs") == 2


def test_a_row_whose_attempts_are_spent_is_a_failure(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    insert_docs(docs, "later")
    docs.execute("SELECT embed.wait('docs')")
    found = docs.execute("SELECT key, code, attempts FROM embed.failures").fetchall()
    assert found == [("1", "PE020", 3)]


def test_the_old_vector_of_a_row_that_fails_is_taken_away(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    insert_docs(docs, "good")
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("UPDATE docs SET body = 'bad'")
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT embedding FROM docs") is None
    assert value(docs, "SELECT count(*) FROM embed.failures") == 1


@pytest.mark.parametrize(
    "mend", ["UPDATE docs SET body = 'good'", "UPDATE docs SET body = NULL", "DELETE FROM docs"]
)
def test_a_failure_ends_with_its_cause(
    docs: Connection, dsn: str, start_worker: StartWorker, mend: str
) -> None:
    start_worker(dsn, tend_every=0.05)
    insert_docs(docs, "bad")
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(*) FROM embed.failures") == 1
    docs.execute(mend)
    docs.execute("SELECT embed.wait('docs')")
    while not mend.endswith("'good'") and value(docs, "SELECT count(*) FROM embed.failures"):
        docs.execute("SELECT embed._prune_v1(id) FROM embed._vectorizer")  # passes over what a worker prunes
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0
    assert broken_rows(docs) == []


def test_retry_sends_failures_again(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake()
    model.refuse = lambda texts: None
    worker = start_worker(dsn)
    insert_docs(docs, "bad 1", "bad 2", "bad 3")
    docs.execute("SELECT embed.wait('docs')")
    worker.stop()
    assert value(docs, "SELECT embed.retry('docs', '2')") == 1
    assert queued(docs) == ["2"]
    assert [row[0] for row in docs.execute("SELECT key FROM embed.failures").fetchall()] == ["1", "3"]
    assert value(docs, "SELECT embed.retry('docs', 'none')") == 0
    assert value(docs, "SELECT embed.retry()") == 2
    start_worker(dsn, model)
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(embedding) FROM docs") == 3
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


def test_retry_does_not_wait_for_a_backoff(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("SELECT embed.alter_vectorizer('docs', max_attempts => 100)")
    worker = start_worker(dsn, backoff=NEVER, backoff_limit=NEVER)
    insert_docs(docs, "later")
    while value(docs, "SELECT last_error FROM embed.status") is None:
        pass
    worker.stop()
    state, explanation = why(docs, 1)
    assert state == "pending"
    assert "told to fail on 'later' for now" in explanation or "no worker" in explanation
    start_worker(dsn, GatedFake())
    assert value(docs, "SELECT embed.retry('docs')") == 1
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(embedding) FROM docs") == 1


def test_pause_keeps_changes_for_resume(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.pause('docs')")
    insert_docs(docs, "one")
    assert docs.execute("SELECT state, reason FROM embed.status").fetchone() == (
        "paused",
        "paused by postgres",
    )
    state, explanation = why(docs, 1)
    assert state == "paused"
    assert "embed.resume('docs_embedding')" in explanation
    state, message, hint = refused(docs, "SELECT embed.wait('docs')")
    assert state == "PE040"
    assert "paused by postgres" in message
    assert "embed.resume" in hint
    docs.execute("SELECT embed.pause('docs')")
    docs.execute("SELECT embed.resume('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(embedding) FROM docs") == 1
    docs.execute("SELECT embed.resume('docs')")
    assert value(docs, "SELECT state FROM embed.vectorizers") == "active"


def test_why_tells_each_state(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    insert_docs(docs, "one", None)
    docs.execute("DELETE FROM embed._backfill")
    assert why(docs, 1)[0] == "pending"
    assert "no worker is connected" in why(docs, 1)[1]
    assert why(docs, 77) == ("no row", "no committed row of public.docs has the key 77")
    model = GatedFake(shut=True)
    start_worker(dsn, model)
    call = model.next_call()
    assert why(docs, 1)[0] == "in flight"
    assert "lease ends" in why(docs, 1)[1]
    call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert why(docs, 1)[0] == "embedded"
    assert why(docs, "1")[0] == "embedded"
    assert why(docs, "001")[0] == "embedded"
    assert why(docs, 2)[0] == "no input"
    docs.execute("UPDATE docs SET embedding = NULL")
    assert why(docs, 1)[0] == "missed"
    assert "embed.backfill('docs_embedding')" in why(docs, 1)[1]


def test_why_of_a_row_that_waits_for_its_backoff_names_the_error(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, backoff=NEVER, backoff_limit=NEVER)
    insert_docs(docs, "later")
    while value(docs, "SELECT last_error FROM embed.status") is None:
        pass
    state, explanation = why(docs, 1)
    assert state == "pending"
    assert "tried 1 times" in explanation
    assert "told to fail on 'later' for now" in explanation
    assert "told to fail" in value(docs, "SELECT last_error FROM embed.status")


def test_why_before_the_backfill_has_come(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    assert why(db, 1)[0] == "pending"
    assert "backfill" in why(db, 1)[1]


def test_why_finds_a_queued_row_however_its_key_is_written(docs: Connection) -> None:
    docs.execute("CREATE TABLE days (id timestamptz PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('days', 'body', backfill => false)")
    docs.execute("INSERT INTO days VALUES ('2024-01-01 00:00+00', 'x')")
    found = docs.execute("SELECT state FROM embed.why('days', '2024-01-01 02:00+02')").fetchall()
    assert found == [("pending",)]
    insert_docs(docs, "one")
    assert why(docs, "+1")[0] == "pending"


def test_why_of_a_composite_key_and_of_several_vectorizers(docs: Connection) -> None:
    docs.execute("CREATE TABLE pairs (a int, b text, body text, PRIMARY KEY (a, b))")
    for column in ("x", "y"):
        docs.execute(
            "SELECT embed.create_vectorizer('pairs', 'body', column_name => %s, backfill => false)", [column]
        )
    docs.execute("INSERT INTO pairs VALUES (1, 'k', 'text')")
    found = docs.execute("SELECT vectorizer, state FROM embed.why('pairs', '[\"1\", \"k\"]')").fetchall()
    assert found == [("pairs_x", "pending"), ("pairs_y", "pending")]


def test_why_of_what_is_no_key_is_no_row(docs: Connection) -> None:
    insert_docs(docs, "one")
    for key in ("abc", "1e400", "99999999999999999999"):
        assert why(docs, key) == ("no row", f"no committed row of public.docs has the key {key}")
    docs.execute("CREATE TABLE pairs (a int, b text, body text, PRIMARY KEY (a, b))")
    docs.execute("INSERT INTO pairs VALUES (1, 'k', 'text')")
    docs.execute("SELECT embed.create_vectorizer('pairs', 'body')")
    assert value(docs, "SELECT state FROM embed.why('pairs', 'k')") == "no row"


def test_wait_without_a_timeout_takes_the_default(docs: Connection) -> None:
    insert_docs(docs, "one")
    text = value(docs, "SELECT pg_get_functiondef('embed.wait(regclass, interval)'::regprocedure)")
    docs.execute(text.replace("60 seconds", "10 milliseconds").replace("00:01:00", "00:00:00.01"))
    state, message, _ = refused(docs, "SET statement_timeout = '5s'; SELECT embed.wait('docs', NULL)")
    assert state == "PE040"
    assert "within 00:00:00.01" in message


def test_why_of_a_table_without_a_vectorizer(docs: Connection) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY)")
    state, message, hint = refused(docs, "SELECT * FROM embed.why('other', 1)")
    assert (state, message) == ("PE003", "table public.other has no vectorizer")
    assert "embed.create_vectorizer" in hint


def test_wait_of_a_table_without_a_vectorizer(docs: Connection) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY)")
    assert refused(docs, "SELECT embed.wait('other')")[0] == "PE003"


def test_wait_says_that_no_worker_is_there(docs: Connection) -> None:
    insert_docs(docs, "one")
    state, message, hint = refused(docs, "SELECT embed.wait('docs', '10 milliseconds')")
    assert state == "PE040"
    assert message == "1 rows of public.docs were not embedded within 00:00:00.01"
    assert hint == "no worker is connected; start one with pg-embed worker"


def test_wait_tells_the_last_error(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn, backoff=NEVER, backoff_limit=NEVER)
    insert_docs(docs, "later")
    while value(docs, "SELECT last_error FROM embed.status") is None:
        pass
    state, _, hint = refused(docs, "SELECT embed.wait('docs', '10 milliseconds')")
    assert state == "PE040"
    assert "told to fail on 'later' for now" in hint


def test_wait_cannot_wait_for_its_own_transaction(docs: Connection) -> None:
    docs.execute("BEGIN")
    insert_docs(docs, "one")
    state, message, _ = refused(docs, "SELECT embed.wait('docs')")
    assert state == "PE003"
    assert "commit" in message


def test_wait_cannot_wait_for_a_savepoint_of_its_own_transaction(docs: Connection) -> None:
    docs.execute("BEGIN")
    with docs.transaction():
        insert_docs(docs, "one")
    state, message, _ = refused(docs, "SELECT embed.wait('docs', '2 seconds')")
    assert state == "PE003"
    assert "commit" in message


def test_wait_wants_to_see_other_transactions(docs: Connection) -> None:
    docs.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    state, message, hint = refused(docs, "SELECT embed.wait('docs')")
    assert state == "PE003"
    assert "isolation" in message
    assert "READ COMMITTED" in hint


def test_wait_is_over_while_others_go_on_writing(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model, live_slots=1)
    insert_docs(docs, "one")
    first = model.next_call()
    with psycopg.connect(dsn, autocommit=True) as connection, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(connection.execute, "SELECT embed.wait('docs')")
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        while not value(docs, asleep, connection.info.backend_pid):
            pass
        insert_docs(docs, "two")
        first.go()
        waiting.result(PATIENCE)
    assert value(docs, "SELECT count(embedding) FROM docs") == 1


def test_wait_goes_on_while_another_vectorizer_of_the_table_is_paused_with_nothing_to_do(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'title', column_name => 'other', backfill => false)")
    docs.execute("SELECT embed.pause('docs_other')")
    model = GatedFake(shut=True)
    insert_docs(docs, "one")
    docs.execute(
        "DELETE FROM embed._queue AS q USING embed._vectorizer AS v WHERE v.id ="
        " q.vectorizer_id AND v.name = 'docs_other'"
    )
    start_worker(dsn, model)
    call = model.next_call()
    state, _, hint = refused(docs, "SELECT embed.wait('docs', '10 milliseconds')")
    assert state == "PE040"
    assert "embed.resume" not in hint
    call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
