"""Whatever a user does to rows that a worker has in hand, and whenever it is committed, none is forgotten."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_embed.jobs import Batch, Lane
from pg_embed.jobs.store import SQL, _batch
from tests.fix_models import PATIENCE
from tests.fix_worker import Connection, broken_rows, create_fake_model, vector
from tests.sql.helpers import queued, value

OURS, OTHERS = 1, 2  # numbers of workers
LEASE = 3_600.0  # seconds
MOST = 1_000_000  # bytes of texts
KEY = "jsonb_build_array(part::text, name)::text"
TEXT = "CASE WHEN NOT draft THEN body END"
ROWS = """
    INSERT INTO docs (part, name, body, draft) VALUES
        (1, 'a', 'one', false), (1, 'b', 'two', false), (2, 'a', 'three', true), (2, 'b', NULL, false)
"""
FINISH = """
    SELECT * FROM embed._finish_v1(%s, %s, %s::bigint[], %s::text[], %s::bigint[], %s::text[]::halfvec[],
        %s::text[], %s)
"""
DUE = "UPDATE embed._queue SET available_at = clock_timestamp() - interval '1 second'"
BLOCKED = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
CHANGES = {
    "another text": "UPDATE docs SET body = 'new' WHERE part = 1",
    "another text and back": "UPDATE docs SET body = 'new'; UPDATE docs SET body = 'one' WHERE name = 'a'",
    "no text": "UPDATE docs SET body = NULL WHERE part = 1",
    "drafts and others change places": "UPDATE docs SET draft = NOT draft",
    "a draft for a moment": "UPDATE docs SET draft = true; UPDATE docs SET draft = false",
    "another key": "UPDATE docs SET name = 'c' WHERE name = 'a'",
    "another part": "UPDATE docs SET part = part + 2",
    "keys change places": """
        UPDATE docs SET name = 'x' WHERE name = 'a'; UPDATE docs SET name = 'a' WHERE name = 'b';
        UPDATE docs SET name = 'b' WHERE name = 'x'""",
    "a key is taken over": """
        DELETE FROM docs WHERE name = 'b'; UPDATE docs SET name = 'b', draft = false WHERE name = 'a'""",
    "deleted": "DELETE FROM docs WHERE name = 'a'",
    "deleted and inserted anew": f"DELETE FROM docs; {ROWS}",
    "deleted and inserted as others": f"""
        DELETE FROM docs; {ROWS}; UPDATE docs SET body = 'new', draft = false""",
    "truncated": "TRUNCATE docs",
    "truncated and filled again": f"TRUNCATE docs; {ROWS}; UPDATE docs SET draft = NOT draft",
    "an upsert": f"{ROWS} ON CONFLICT (part, name) DO UPDATE SET body = excluded.name || excluded.part",
    "a savepoint that is undone": """
        SAVEPOINT before; UPDATE docs SET body = 'undone', draft = NOT draft; ROLLBACK TO before;
        UPDATE docs SET body = 'done' WHERE name = 'b'""",
    "a savepoint that undoes a truncation": f"""
        SAVEPOINT before; TRUNCATE docs; {ROWS}; ROLLBACK TO before; UPDATE docs SET draft = NOT draft""",
    "a lower key than all that were read": "INSERT INTO docs (part, name, body) VALUES (0, 'a', 'zero')",
}


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, with a key of two columns and a filter, and four rows that are queued."""
    create_fake_model(db)
    db.execute(
        "CREATE TABLE docs (part integer, name text, body text, draft boolean NOT NULL DEFAULT false,"
        " PRIMARY KEY (part, name))"
    )
    db.execute("SELECT embed.create_vectorizer('docs', 'body', filter => 'NOT draft', backfill => false)")
    db.execute(ROWS)
    return db


def take(db: Connection, worker: int = OURS, lane: Lane = Lane.LIVE) -> Batch | None:
    """What is due, claimed and read."""
    number = value(db, "SELECT id FROM embed._vectorizer")
    words = {
        "worker": worker,
        "vectorizer": number,
        "lane": int(lane),
        "rows": 100,
        "lease": LEASE,
        "most": MOST,
    }
    taken = db.execute(SQL["take"], words).fetchall()
    return _batch(lane, taken) if taken else None


def finish(db: Connection, batch: Batch | None, worker: int = OURS) -> None:
    """Write the vectors of what was read."""
    if batch is None:
        return
    keys = [*batch.keys, *batch.empty]
    bare = [None] * len(batch.empty)
    vectors = [*map(vector, batch.texts), *bare]
    number = value(db, "SELECT id FROM embed._vectorizer")
    words = (worker, number, list(batch.entries), keys, [*batch.hashes, *bare], vectors, list(batch.gone))
    db.execute(FINISH, (*words, Jsonb([])))


def come_to_rest(db: Connection, key: str = KEY, text: str = TEXT) -> None:
    """Work until nothing is queued; then every row must have the vector of its text, and no other."""
    for _ in range(10):
        db.execute(DUE)
        for lane in Lane:
            finish(db, take(db, OTHERS, lane), OTHERS)
    assert value(db, "SELECT count(*) FROM embed._queue") == 0
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
    assert broken_rows(db, key=key, text=text) == []


@pytest.fixture
def unreadable(db: Connection) -> Connection:
    """`docs` with one row, on which the filter fails."""
    create_fake_model(db)
    db.execute("CREATE TABLE docs (id integer PRIMARY KEY, n integer, body text)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', filter => '10 / n > 1', backfill => false)")
    db.execute("INSERT INTO docs VALUES (1, 0, 'one')")
    return db


def execute(db: Connection, statement: str) -> None:
    db.execute(statement)


def failed(db: Connection) -> list[str]:
    return [key for (key,) in db.execute("SELECT key FROM embed.failures")]


def settled(db: Connection, pid: int, *works: Future[None]) -> None:
    """Return when the works are done, or wait for somebody's lock."""
    deadline = time.monotonic() + PATIENCE
    while not all(work.done() for work in works) and not value(db, BLOCKED, pid):
        assert time.monotonic() < deadline, "it neither ends nor waits"
        wait(works, 0.01)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("late", [False, True], ids=["before the others", "after the others"])
def test_a_change_is_committed_between_claim_and_finish(docs: Connection, change: str, late: bool) -> None:
    batch = take(docs)
    with docs.transaction():
        docs.execute(change)
    if late:
        finish(docs, take(docs, OTHERS), OTHERS)
    finish(docs, batch)
    come_to_rest(docs)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("since", ["before the claim", "the claim"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "undone"])
def test_a_change_is_open_while_rows_are_finished(
    docs: Connection, dsn: str, change: str, kept: bool, since: str
) -> None:
    with psycopg.connect(dsn) as user, psycopg.connect(dsn, autocommit=True) as ours:
        pid = ours.info.backend_pid
        with ThreadPoolExecutor(1) as pool:
            if since == "the claim":
                batch = pool.submit(take, ours)
                batch.result(PATIENCE)
                user.execute(change)
            else:
                user.execute(change)
                batch = pool.submit(take, ours)
                settled(docs, pid, batch)
            finished = pool.submit(lambda: finish(ours, batch.result(PATIENCE)))
            settled(docs, pid, finished)
            user.commit() if kept else user.rollback()
            finished.result(PATIENCE)
    come_to_rest(docs)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("mode", ["missing", "all"])
def test_a_change_is_open_while_the_backfill_passes_it(
    docs: Connection, dsn: str, change: str, mode: str
) -> None:
    come_to_rest(docs)
    docs.execute("SELECT embed.backfill('docs_embedding', mode => %s)", [mode])
    words = {"vectorizer": value(docs, "SELECT id FROM embed._vectorizer"), "rows": 2}
    with psycopg.connect(dsn) as user, psycopg.connect(dsn, autocommit=True) as ours:
        user.execute(change)
        with ThreadPoolExecutor(1) as pool:
            page = pool.submit(lambda: ours.execute(SQL["page"], words).fetchone())
            settled(docs, ours.info.backend_pid, page)
            user.commit()
            assert page.result(PATIENCE) == (True,)
        while ours.execute(SQL["page"], words).fetchone() == (True,):
            pass
    come_to_rest(docs)


@pytest.mark.parametrize("mode", ["missing", "all"])
def test_a_row_that_came_after_the_backfill_began_is_left_to_its_own_entry(
    docs: Connection, mode: str
) -> None:
    come_to_rest(docs)
    docs.execute("UPDATE docs SET embedding = NULL")
    docs.execute("SELECT embed.backfill('docs_embedding', mode => %s)", [mode])
    words = {"vectorizer": value(docs, "SELECT id FROM embed._vectorizer"), "rows": 2}
    docs.execute(SQL["page"], words)
    docs.execute("INSERT INTO docs (part, name, body) VALUES (2, 'aa', 'between'), (9, 'z', 'behind')")
    while docs.execute(SQL["page"], words).fetchone() == (True,):
        pass
    assert queued(docs, priority=1) == ['["2", "aa"]', '["9", "z"]']
    assert '["2", "aa"]' in queued(docs, priority=2)
    assert '["9", "z"]' not in queued(docs, priority=2)
    come_to_rest(docs)


def test_a_row_that_is_queued_often_is_embedded_once_and_forgotten_never(docs: Connection) -> None:
    for body in ("new", "newer", "newest"):
        docs.execute("UPDATE docs SET body = %s WHERE part = 1", [body])
    batch = take(docs)
    assert batch is not None
    assert sorted(batch.keys) == ['["1", "a"]', '["1", "b"]']
    assert set(batch.texts) == {"newest"}
    assert len(batch.entries) == 7, "one of the insert, six of the updates"
    docs.execute("UPDATE docs SET draft = NOT draft")
    finish(docs, batch)
    come_to_rest(docs)


def test_a_text_that_cannot_be_read_is_not_listed_when_a_newer_one_is_embedded_meanwhile(
    unreadable: Connection, dsn: str
) -> None:
    with psycopg.connect(dsn) as ours, psycopg.connect(dsn, autocommit=True) as user:
        batch = take(ours)
        with ThreadPoolExecutor(1) as pool:
            change = pool.submit(execute, user, "UPDATE docs SET n = 2")
            settled(unreadable, user.info.backend_pid, change)
            finish(unreadable, take(unreadable, OTHERS), OTHERS)
            ours.commit()
            change.result(PATIENCE)
        finish(ours, batch)
        ours.commit()
    come_to_rest(unreadable, key="id::text", text="body")


def test_a_text_that_cannot_be_read_is_not_listed_while_somebody_holds_its_row(
    unreadable: Connection, dsn: str
) -> None:
    with psycopg.connect(dsn) as user:
        user.execute("SELECT FROM docs FOR UPDATE")
        finish(unreadable, take(unreadable))
        assert failed(unreadable) == []
        assert (
            value(unreadable, "SELECT last_error FROM embed._queue")
            == "the row is locked by another transaction"
        )
    unreadable.execute(DUE)
    finish(unreadable, take(unreadable))
    assert failed(unreadable) == ["1"]
    unreadable.execute("UPDATE docs SET n = 2")
    come_to_rest(unreadable, key="id::text", text="body")


def test_a_row_that_is_given_up_does_not_wait_for_who_retries_it(unreadable: Connection, dsn: str) -> None:
    finish(unreadable, take(unreadable))
    unreadable.execute("UPDATE docs SET body = 'two'")
    with psycopg.connect(dsn) as user:
        user.execute("SELECT embed.retry('docs')")
        unreadable.execute("SET lock_timeout = '10s'")
        finish(unreadable, take(unreadable))
        user.rollback()
    assert failed(unreadable) == ["1"]
