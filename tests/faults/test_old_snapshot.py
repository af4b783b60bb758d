"""Sessions that hold an old snapshot, or locks on rows, for long."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.invariant import REST_TIMEOUT, rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, TWICE, set_up
from tests.faults.writers import new_seed, writing

ENTRIES = 200_000
BATCH = 2_048
CLAIM = "SELECT entries FROM embed._claim_v1(1, 1, 1, %s, '60 s')"
KEYS = "SELECT count(*) FROM embed._queue AS q, unnest(embed._keys(q)) AS k(key) WHERE k.key::integer"
UNLOCKED = f"{KEYS} > 50"
LOCKED = f"{KEYS} <= 50"


def entries_read(connection: psycopg.Connection[Any]) -> int:
    """How many entries of the queue's index all sessions have read, dead ones included."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT pg_stat_clear_snapshot(), idx_tup_read FROM pg_stat_user_indexes"
        " WHERE indexrelname = '_queue_due'"
    ).fetchone()
    assert row is not None
    return int(row[1])


def test_claims_do_not_step_over_all_finished_entries_while_no_vacuum_can_remove_them(
    dsn: str, db: psycopg.Connection[tuple[object, ...]]
) -> None:
    set_up(db, [NOTES])
    db.execute("DELETE FROM embed._backfill")
    with psycopg.connect(dsn) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM notes")
        db.execute(
            "INSERT INTO embed._queue (vectorizer_id, ids, n, available_at)"
            " SELECT 1, ARRAY[i], 1, now() - interval '10 hours' + i * interval '0.1 seconds'"
            " FROM generate_series(1, %s) AS i",
            (ENTRIES,),
        )
        before = entries_read(db)
        claims = 0
        while (row := db.execute(CLAIM, (BATCH,)).fetchone()) and row[0] is not None:
            db.execute("SELECT embed._settle_v1(1, 1, %s, '{}', '{}', '{}', now(), '[]')", (row[0],))
            claims += 1
            assert db.execute("SELECT count(*) FROM embed._work_v1()").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM embed._queue").fetchone() == (0,)
        reads = entries_read(db) - before
    from_the_start_each_time = 3 * claims * ENTRIES / 2  # two looks and the claim itself
    print(f"{reads} entries read in {claims} claims, {from_the_start_each_time:.0f} without a floor")
    assert reads < from_the_start_each_time / 4


def test_rows_that_a_transaction_holds_stop_nobody_and_are_written_when_it_ends(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    tables = [NOTES, TWICE]
    set_up(db, tables)
    for table in tables:
        db.execute(
            f"INSERT INTO {table.name} (id, body) SELECT i, 'before ' || i FROM generate_series(1, 100) AS i"
        )
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn) for _ in range(2)]
        rest(db, tables)
        with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as writer:
            writer.execute("SELECT embed.pause(name) FROM embed.vectorizers")  # until the rows are held
            for table in tables:
                writer.execute(f"UPDATE {table.name} SET body = 'after ' || id")
                holder.execute(f"SELECT FROM {table.name} WHERE id <= 50 FOR UPDATE")
            writer.execute("SELECT embed.resume(name) FROM embed.vectorizers")
            deadline = time.monotonic() + REST_TIMEOUT
            while writer.execute(UNLOCKED).fetchone() != (0,):
                assert time.monotonic() < deadline, "rows that nobody holds were not embedded"
                time.sleep(0.01)
            assert writer.execute(LOCKED).fetchone() == (150,)
            holder.execute("UPDATE notes SET body = 'held' WHERE id <= 25")
            holder.execute("DELETE FROM twice WHERE id <= 25")
        rest(db, tables)
        assert violations(db, tables) == []
        assert [processes.stop(worker) for worker in workers] == [0, 0]


def test_long_transactions_do_not_deadlock_with_workers(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    set_up(db, [TWICE])
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn) for _ in range(2)]
        with writing(dsn, [TWICE], seed, writers=3, rows=40):
            for _ in range(10):
                # rows in descending order: of the other writers none does that without its advisory locks
                with psycopg.connect(dsn) as slow:
                    numbers = sorted(rng.sample(range(40), 10))
                    for number in numbers:
                        slow.execute("SELECT pg_advisory_xact_lock(hashtext('twice'), %s)", (number,))
                    for number in reversed(numbers):
                        slow.execute(
                            "UPDATE twice SET body = %s WHERE id = %s", (f"slow {rng.random()}", number)
                        )
                        slow.execute("SELECT pg_sleep(%s)", (rng.uniform(0, 0.03),))
        rest(db, [TWICE])
        assert violations(db, [TWICE]) == []
        assert [processes.stop(worker) for worker in workers] == [0, 0]
