"""An owner changes tables and vectorizers while workers and writers are busy with them."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, TWICE, set_up
from tests.faults.writers import new_seed, writing

SECONDS = 8.0
TABLES = [NOTES, TWICE]
NAMES = [("notes", "embedding"), ("twice", "embedding"), ("twice", "other")]
BACK = {
    ("notes", "embedding"): "input => 'body', model => 'faulty'",
    ("twice", "embedding"): "input => 'body', model => 'faulty'",
    ("twice", "other"): "input => ARRAY['title', 'body'], model => 'second', column_name => 'other'",
}


def change(db: psycopg.Connection[Any], rng: random.Random) -> None:
    """One change, in one transaction."""
    table, column = rng.choice(NAMES)
    name = f"{table}_{column}"
    statements = {
        "drop and make": [
            f"SELECT embed.drop_vectorizer('{name}')",
            f"SELECT embed.create_vectorizer('{table}', {BACK[table, column]}, max_attempts => 100)",
        ],
        "same input": [
            f"SELECT embed.alter_vectorizer('{name}', input => ARRAY['title'])",
            f"SELECT embed.alter_vectorizer('{name}', {BACK[table, column].split(', model')[0]})"
            if column == "other"
            else f"SELECT embed.alter_vectorizer('{name}', input => ARRAY['body'])",
        ],
        "truncate and retry": [f"TRUNCATE {table}", "SELECT embed.retry()"],
        "alter and backfill": [
            f"ALTER TABLE {table} ALTER rating SET DEFAULT {rng.randrange(9)}",
            f"SELECT embed.backfill('{name}', mode => 'all')",
        ],
        "backfill and alter": [
            f"SELECT embed.backfill('{name}', mode => 'all')",
            f"ALTER TABLE {table} ALTER rating SET DEFAULT {rng.randrange(9)}",
        ],
        "retry and truncate": ["SELECT embed.retry()", f"TRUNCATE {table}"],
        "index": [f"CREATE INDEX ON {table} (rating)"],
        "attempts": [f"SELECT embed.alter_vectorizer('{name}', max_attempts => {rng.randrange(50, 100)})"],
        "rename": [
            f"ALTER TABLE {table} RENAME body TO text",
            f"ALTER TABLE {table} RENAME text TO body",
        ],
    }
    with db.transaction():
        for statement in statements[rng.choice(list(statements))]:
            db.execute(statement)


@pytest.mark.timeout(120)
def test_changes_of_vectorizers_do_not_deadlock_with_workers_and_lose_no_row(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    set_up(db, TABLES)
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, tend_every=0.2, page_rows=9) for _ in range(2)]
        end = time.monotonic() + SECONDS
        with writing(dsn, TABLES, seed, writers=2, rows=60) as writers:
            while time.monotonic() < end:
                for _ in range(rng.randrange(20)):
                    change(db, rng)
                for writer in writers:
                    writer.hold()
                rest(db, TABLES)
                assert violations(db, TABLES) == []
                for writer in writers:
                    writer.go_on()
        rest(db, TABLES)
        assert violations(db, TABLES) == []
        assert [processes.stop(worker) for worker in workers] == [0, 0]
    log = (tmp_path / "workers.log").read_text(encoding="utf-8")
    assert "deadlock" not in log, log[-3000:]
