"""Claims and leases: who holds what, what becomes of the entries of the dead, and how workers share."""

from __future__ import annotations

import time
from typing import Any

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
from tests.sql.helpers import queued, value

DEAD = 7  # the number of a worker whose session never was


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with four rows, queued one by one for a vectorizer of three attempts."""
    create_fake_model(db)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false, max_attempts => 3)")
    for text in ("one", "two", "three", "four"):
        insert_docs(db, text)
    return db


def claim(db: Connection, worker: int, rows: int = 100, lease: str = "1 hour", lane: int = 1) -> list[str]:
    """The keys that a worker gets."""
    row = db.execute(
        "SELECT array_agg(t.key)"
        " FROM embed._vectorizer AS v, embed._take_v1(%s, v.id, %s, %s, %s, 1000000) AS t",
        [worker, lane, rows, lease],
    ).fetchone()
    return sorted(row[0]) if row and row[0] else []


def expire(db: Connection) -> None:
    """Let every lease have ended, before anything else was due."""
    db.execute(
        "UPDATE embed._queue SET available_at = clock_timestamp() - interval '30 seconds'"
        " WHERE worker IS NOT NULL"
    )


def make_due(db: Connection) -> None:
    """Let the entries that nobody holds wait no longer, in the order of their ids."""
    db.execute(
        "UPDATE embed._queue SET available_at ="
        " clock_timestamp() - interval '30 seconds' + id * interval '1 us' WHERE worker IS NULL"
    )


def entries(db: Connection, columns: str) -> list[tuple[Any, ...]]:
    return db.execute(f"SELECT {columns} FROM embed._queue ORDER BY id").fetchall()


def test_claim_skips_rows_leased_by_another_worker(docs: Connection) -> None:
    assert claim(docs, 1, rows=2) == ["1", "2"]
    assert claim(docs, 2, rows=1) == ["3"]
    assert claim(docs, 1) == ["4"]
    assert claim(docs, 2) == []
    assert entries(docs, "worker, attempts") == [(1, 1), (1, 1), (2, 1), (1, 1)]


def test_claim_takes_the_oldest_first_and_stops_at_the_number_of_rows(docs: Connection) -> None:
    insert_docs(docs, "five", "six", "seven")
    assert claim(docs, 1, rows=3) == ["1", "2", "3"]
    assert claim(docs, 1, rows=2) == ["4", "5", "6", "7"], "an entry is taken whole"


def test_claim_of_one_lane_leaves_the_other(docs: Connection) -> None:
    docs.execute("UPDATE embed._queue SET priority = 2 WHERE 4 = ANY (ids)")
    assert claim(docs, 1, lane=1) == ["1", "2", "3"]
    assert claim(docs, 1, lane=2) == ["4"]


def test_claim_of_a_paused_vectorizer_gets_nothing(docs: Connection) -> None:
    docs.execute("SELECT embed.pause('docs')")
    assert claim(docs, 1) == []


def test_an_expired_lease_is_taken_over(docs: Connection) -> None:
    claim(docs, 1)
    assert claim(docs, 2) == []
    expire(docs)
    assert claim(docs, 2) == ["1", "2", "3", "4"]
    assert entries(docs, "worker, attempts") == [(2, 2)] * 4


def test_a_lease_is_renewed_by_its_holder_only(docs: Connection) -> None:
    claim(docs, 1, lease="1 second")
    renew = "SELECT embed._renew_v1(%s, array_agg(id), '1 hour') FROM embed._queue"
    assert value(docs, renew, 2) == 0
    assert value(docs, renew, 1) == 4
    assert value(docs, "SELECT bool_and(available_at > now() + interval '30 minutes') FROM embed._queue")


def test_what_is_put_back_is_put_back_by_its_holder_only(docs: Connection) -> None:
    claim(docs, 1)
    postpone = "SELECT embed._postpone_v1(%s, array_agg(id), '0', 'why', %s) FROM embed._queue"
    assert value(docs, postpone, 2, True) == 0
    assert value(docs, postpone, 1, True) == 4
    assert entries(docs, "worker, attempts, last_error") == [(None, 1, "why")] * 4
    claim(docs, 1)
    assert value(docs, postpone, 1, False) == 4
    assert entries(docs, "attempts") == [(1,)] * 4, "without charge the attempt is not counted"


def test_entries_of_the_dead_are_cut_into_eighths_from_the_second_death_on(docs: Connection) -> None:
    docs.execute("DELETE FROM embed._queue")
    everything = [str(number) for number in range(1, 21)]
    docs.execute(
        "INSERT INTO embed._queue (vectorizer_id, ids, n) SELECT id, %s::bigint[], 20 FROM embed._vectorizer",
        [everything],
    )
    assert claim(docs, DEAD) == sorted(everything)
    expire(docs)
    assert claim(docs, DEAD) == sorted(everything)
    expire(docs)
    assert claim(docs, DEAD) == ["1", "2", "3"]
    assert sorted(entries(docs, "ids, n, attempts, worker")) == [
        ([1, 2, 3], 3, 3, DEAD),
        *((list(range(first, first + 3)), 3, 2, None) for first in range(4, 19, 3)),
        ([19, 20], 2, 2, None),
    ]


def test_parts_of_an_entry_of_the_dead_wait_apart_and_go_one_by_one(docs: Connection) -> None:
    docs.execute("DELETE FROM embed._queue")
    docs.execute(
        "INSERT INTO embed._queue (vectorizer_id, keys, n, attempts, worker, priority)"
        " SELECT id, '{1,2,3}', 3, 2, %s, 2 FROM embed._vectorizer",
        [DEAD],
    )
    assert claim(docs, 1, lane=2) == ["1"]
    waits = "SELECT bool_and(available_at > enqueued_at) FROM embed._queue WHERE worker IS NULL"
    assert value(docs, waits) is True
    make_due(docs)
    assert claim(docs, 1, lane=2) == ["2"]
    assert claim(docs, 1, lane=2) == ["3"]
    assert sorted(entries(docs, "keys, n, priority")) == [(["1"], 1, 2), (["2"], 1, 2), (["3"], 1, 2)]


def test_a_row_that_kills_its_workers_is_given_up_alone(docs: Connection) -> None:
    for _ in range(3):
        claim(docs, DEAD, rows=1)
        expire(docs)
    assert claim(docs, 1) == ["2", "3", "4"]
    found = docs.execute("SELECT key, code, error, attempts FROM embed.failures").fetchall()
    assert found == [("1", "PE020", "the worker was lost 3 times while it held this row", 3)]


def test_a_text_that_came_after_the_one_that_kills_workers_is_not_listed(docs: Connection) -> None:
    for _ in range(3):
        claim(docs, DEAD, rows=1)
        expire(docs)
    docs.execute("UPDATE docs SET body = 'another' WHERE id = 1")
    make_due(docs)
    assert claim(docs, 1, rows=3) == ["2", "3"]
    assert claim(docs, 1) == ["1", "4"], "by the entry of its new text"
    assert entries(docs, "attempts") == [(1,)] * 4
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


def test_a_row_that_a_transaction_changes_is_not_given_up_yet(docs: Connection, dsn: str) -> None:
    for _ in range(3):
        claim(docs, DEAD, rows=1)
        expire(docs)
    with psycopg.connect(dsn) as writer:
        writer.execute("UPDATE docs SET body = 'another' WHERE id = 1")
        assert claim(docs, 1) == ["2", "3", "4"]
        assert entries(docs, "ids, attempts, alone")[0] == ([1], 3, True)
        due = "SELECT min(available_at) > clock_timestamp() - interval '20 seconds' FROM embed._queue"
        assert value(docs, due) is True, "it is put off, not in the way of others"
        assert value(docs, "SELECT count(*) FROM embed.failures") == 0
        writer.rollback()
    expire(docs)
    docs.execute("UPDATE embed._queue SET worker = NULL WHERE 1 <> ALL (ids)")
    assert claim(docs, 1) == ["2", "3", "4"]
    assert value(docs, "SELECT key FROM embed.failures") == "1"


def test_a_text_that_may_have_killed_a_worker_is_noted_before_it_is_read(docs: Connection) -> None:
    for _ in range(3):
        claim(docs, DEAD, rows=1)
        expire(docs)
    noted = "SELECT q.hash = embed._hash('one') FROM embed._queue AS q WHERE 1 = ANY (q.ids)"
    assert value(docs, noted) is True
    assert value(docs, "SELECT count(*) FROM embed._queue WHERE hash IS NOT NULL") == 1
    docs.execute("UPDATE embed._queue SET hash = NULL")
    assert claim(docs, DEAD, rows=1) == ["1"], "whose text is not known is not given up"
    assert value(docs, noted) is True


def test_rows_that_are_split_are_given_up_likewise(docs: Connection, dsn: str) -> None:
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    docs.execute(
        "SELECT embed.create_vectorizer("
        "'docs', 'body', storage => 'table', backfill => false, max_attempts => 3)"
    )
    insert_docs(docs, "five")
    insert_docs(docs, "six")

    def claimed(worker: int) -> list[str]:
        found = docs.execute(
            "SELECT c.key FROM embed._vectorizer AS v,"
            " embed._claim_documents_v1(%s, v.id, 1, 1, '1 hour') AS c ORDER BY c.key",
            [worker],
        )
        return [key for (key,) in found.fetchall()]

    for _ in range(3):
        assert claimed(DEAD) == ["5"]
        expire(docs)
    with psycopg.connect(dsn) as busy:
        stripe = "(v.id & 33554431) * 64 + (embed._hash('5') & 63)::integer"
        busy.execute(f"SELECT pg_advisory_xact_lock(1885695334, {stripe}) FROM embed._vectorizer AS v")
        assert claimed(1) == [], "somebody writes its chunks"
        assert value(docs, "SELECT count(*) FROM embed.failures") == 0
    assert claimed(1) == ["6"]
    expire(docs)
    make_due(docs)
    assert claimed(2) == []
    assert value(docs, "SELECT key FROM embed.failures") == "5"


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 10])
@pytest.mark.parametrize("poison", ["5", "16", "50", "100"])
def test_a_poison_row_among_many_takes_no_other_with_it(
    docs: Connection, poison: str, max_attempts: int
) -> None:
    docs.execute("DELETE FROM embed._queue")
    docs.execute("SELECT embed.alter_vectorizer('docs', max_attempts => %s)", [max_attempts])
    insert_docs(docs, *(f"text {number}" for number in range(5, 101)))
    done = set()
    while value(docs, "SELECT count(*) FROM embed._queue"):
        keys = claim(docs, DEAD, rows=1)  # it dies as soon as it holds the poison, and does all else
        if poison in keys:
            expire(docs)
        else:
            docs.execute("DELETE FROM embed._queue WHERE worker = %s", [DEAD])
            done.update(keys)
        make_due(docs)
    assert [row[0] for row in docs.execute("SELECT key FROM embed.failures").fetchall()] == [poison]
    assert done == {str(number) for number in range(5, 101)} - {poison}


def test_rows_that_died_in_one_batch_are_tried_alone_before_they_are_given_up(docs: Connection) -> None:
    docs.execute("SELECT embed.alter_vectorizer('docs', max_attempts => 1)")
    claim(docs, DEAD)
    expire(docs)
    assert [claim(docs, 1) for _ in range(5)] == [["1"], ["2"], ["3"], ["4"], []]
    assert entries(docs, "attempts, alone") == [(2, True)] * 4


def test_a_dead_worker_s_rows_are_due_as_soon_as_another_comes(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    assert claim(docs, DEAD) == ["1", "2", "3", "4"]
    start_worker(dsn, poll=NEVER)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_living_worker_s_rows_are_left_to_it(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(shut=True)
    holder = start_worker(dsn, model, live_slots=1)
    call = model.next_call()
    start_worker(dsn, tend_every=0.01)
    insert_docs(docs, "five")
    while value(docs, "SELECT embedding FROM docs WHERE id = 5") is None:
        pass
    docs.execute("SELECT embed._rescue_v1()")
    assert {row[0] for row in entries(docs, "worker")} == {holder.number}
    call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_lease_lasts_as_long_as_its_worker_works(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model, lease=3.0)  # a busy machine may be late with a renewal by a second
    model.next_call()
    first = value(docs, "SELECT max(available_at) FROM embed._queue")
    while value(docs, "SELECT min(available_at) FROM embed._queue") <= first:
        pass
    assert value(docs, "SELECT count(*) FROM embed._queue WHERE attempts = 1 AND worker IS NOT NULL") > 0
    model.open()
    docs.execute("SELECT embed.wait('docs')")


def test_two_workers_share_the_work(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    insert_docs(docs, *(f"text {number}" for number in range(960)))
    models = [GatedFake(shut=True), GatedFake(shut=True)]
    for model in models:
        start_worker(dsn, model, batch_rows=240)
    calls = [model.next_call() for model in models]
    assert not set(calls[0].texts) & set(calls[1].texts)
    for model in models:
        model.open()
    docs.execute("SELECT embed.wait('docs')")
    texts = [text for model in models for text in model.texts]
    assert len(texts) == len(set(texts)) == 964, "each row was embedded once"
    assert broken_rows(docs) == []


def test_what_a_slow_worker_finishes_after_its_lease_does_no_harm(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model, lease=NEVER, live_slots=1)
    call = model.next_call()
    docs.execute("UPDATE embed._queue SET available_at = now() - interval '30 seconds', worker = NULL")
    docs.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_busy_worker_notices_that_it_counts_as_dead(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    worker = start_worker(dsn, model, lease=NEVER, tend_every=NEVER)
    model.next_call()
    before = worker.number
    alive = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1885695331 AND objid = %s"
    docs.execute("SELECT pg_terminate_backend(%s)", [value(docs, alive, before)])
    deadline = time.monotonic() + PATIENCE
    while worker.number == before or value(docs, "SELECT embed._workers()") != 1:
        assert time.monotonic() < deadline, "it works on, and counts as dead"
        time.sleep(0.01)
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


@pytest.mark.parametrize("holder", [None, 2])
def test_an_id_that_is_given_again_after_commits_were_lost_is_another_entry_s(
    docs: Connection, holder: int | None
) -> None:
    assert claim(docs, 1) == ["1", "2", "3", "4"]
    numbers = [number for (number,) in entries(docs, "id")]
    docs.execute(
        "DELETE FROM embed._queue"
    )  # a crash, or another server in its place, and workers that live on
    docs.execute(
        "INSERT INTO embed._queue (id, vectorizer_id, ids, n, worker, attempts) OVERRIDING SYSTEM VALUE"
        " SELECT %s, v.id, '{4}', 1, %s, %s FROM embed._vectorizer AS v",
        [numbers[0], holder, 0 if holder is None else 1],
    )
    docs.execute(
        "SELECT embed._settle_v1(1, v.id, %s, '{}', '{}', '{}', now(), '[]') FROM embed._vectorizer AS v",
        [numbers],
    )
    assert entries(docs, "id, worker, ids") == [(numbers[0], holder, [4])]


def test_who_finishes_late_ends_what_another_has_taken_over_or_freed(docs: Connection) -> None:
    assert claim(docs, 1) == ["1", "2", "3", "4"]
    numbers = [number for (number,) in entries(docs, "id")]
    expire(docs)
    assert claim(docs, 2, rows=1) == ["1"]
    docs.execute(
        "SELECT embed._rescue_v1(), embed._rescue_v1()"
    )  # a server that has just started charges nobody
    docs.execute("UPDATE embed._queue SET last_error = 'its worker was lost' WHERE worker IS NULL")
    docs.execute(
        "SELECT embed._settle_v1(1, v.id, %s, '{}', '{}', '{}', now(), '[]') FROM embed._vectorizer AS v",
        [numbers],
    )
    assert entries(docs, "id") == []


def die(db: Connection, worker: int, rows: int) -> list[str]:
    """What a worker without a session gets in two slots and is lost with; then it is due again."""
    held = claim(db, worker, rows=rows) + claim(db, worker, rows=rows)
    db.execute("SELECT embed._rescue_v1()")
    make_due(db)
    return held


def test_a_row_is_given_up_when_it_was_all_that_its_lost_worker_held(docs: Connection) -> None:
    docs.execute("DELETE FROM embed._queue WHERE ids <> '{1}'")
    docs.execute("SELECT embed._rescue_v1()")  # the first one after a start charges nobody
    for _ in range(3):
        assert die(docs, DEAD, rows=1) == ["1"]
    assert die(docs, DEAD, rows=1) == []
    assert docs.execute("SELECT key, attempts FROM embed.failures").fetchall() == [("1", 3)]


def test_a_row_beside_which_another_may_have_killed_the_worker_has_more_attempts(docs: Connection) -> None:
    docs.execute("DELETE FROM embed._queue WHERE ids <> '{1}' AND ids <> '{2}'")
    docs.execute("SELECT embed._rescue_v1()")
    for _ in range(3 + 10):
        assert die(docs, DEAD, rows=1) == ["1", "2"]
    assert die(docs, DEAD, rows=1) == []
    assert docs.execute("SELECT key, attempts FROM embed.failures ORDER BY key").fetchall() == [
        ("1", 13),
        ("2", 13),
    ]


def test_a_row_that_may_be_innocent_is_done_once_the_other_is_gone(docs: Connection) -> None:
    docs.execute("DELETE FROM embed._queue WHERE ids <> '{1}' AND ids <> '{2}'")
    docs.execute("SELECT embed._rescue_v1()")
    for _ in range(5):
        die(docs, DEAD, rows=1)
    assert claim(docs, 1, rows=1) == ["1"], "by another worker, which lives"
    assert claim(docs, DEAD) == ["2"]
    docs.execute("SELECT pg_advisory_lock(1885695331, 1)")
    docs.execute("SELECT embed._rescue_v1()")
    make_due(docs)
    assert claim(docs, 2) == []
    assert docs.execute("SELECT key, attempts FROM embed.failures").fetchall() == [("2", 6)]
    assert entries(docs, "worker, ids") == [(1, [1])]


def test_small_entries_are_packed_when_they_are_many(docs: Connection) -> None:
    docs.execute(
        "INSERT INTO embed._queue (vectorizer_id, ids, n) SELECT v.id, ARRAY[i], 1"
        " FROM embed._vectorizer AS v, generate_series(1, 51000) AS i"
    )
    before = set(queued(docs))
    oldest = value(docs, "SELECT min(enqueued_at) FROM embed._queue")
    while value(docs, "SELECT embed._pack_v1(id) FROM embed._vectorizer"):
        pass
    assert set(queued(docs)) == before
    assert value(docs, "SELECT count(*) FROM embed._queue") < 51_000
    assert value(docs, "SELECT max(n) FROM embed._queue") <= 240
    assert value(docs, "SELECT bool_and(n = cardinality(coalesce(keys, ids::text[]))) FROM embed._queue")
    assert value(docs, "SELECT min(enqueued_at) FROM embed._queue") == oldest
