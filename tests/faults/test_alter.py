"""An owner changes texts, filters and chunking while rows change and workers are killed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.invariant import rest, violations
from tests.faults.nursery import nursery
from tests.faults.tables import NOTES, PAGES, PAIR, Table, set_up
from tests.faults.writers import new_seed, writing
from tests.sql.helpers import tend

ROUNDS = 5
ALTERS = 4  # a round
SETTINGS = {"lease": 5.0, "tend_every": 0.3, "poll": 0.2, "page_rows": 9}
BOTH = "CASE WHEN num_nonnulls(title, body) > 0 THEN concat(title, body) END"
TEXTS = {"{body}": "body", "{title}{body}": BOTH, "{title}": "title"}
FILTERS = ("true", "NOT draft", "rating > 2", "10 / (rating + 1) > 2")
SIZES = (8, 16, 400)  # tokens


def alter(db: psycopg.Connection[Any], rng: random.Random, table: Table) -> Table:
    """One change; the table as the invariant must see it then."""
    template, text = rng.choice(list(TEXTS.items()))
    condition = rng.choice(FILTERS)
    told = {"template": template, "filter": condition if condition != "true" else ""}
    if table.name == PAGES.name:
        told["chunking"] = f'{{"size": {rng.choice(SIZES)}}}'
    given = ", ".join(f"{name} => %s" for name in told)
    statement = f"SELECT embed.alter_vectorizer('{table.name}_embedding', {given})"
    with db.transaction(force_rollback=rng.random() < 0.2) as block:
        db.execute(statement, list(told.values()))
    if block.force_rollback:
        return table
    text = f"CASE WHEN {condition} THEN {text} END"
    return replace(table, columns=[replace(column, text=text) for column in table.columns])


def change_unseen(db: psycopg.Connection[Any], table: Table) -> None:
    """Texts change while no trigger tells of it."""
    with db.transaction():
        db.execute(f"ALTER TABLE {table.name} DISABLE TRIGGER USER")
        db.execute(f"UPDATE {table.name} SET body = 'unseen ' || rating WHERE rating < 3")
        db.execute(f"ALTER TABLE {table.name} ENABLE TRIGGER USER")


@pytest.mark.timeout(400)
def test_every_row_has_the_vectors_of_the_text_that_was_said_last(
    dsn: str, db: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    tables = [NOTES, PAIR, PAGES]
    set_up(db, tables)
    with nursery(tmp_path / "workers.log") as processes:
        workers = [processes.worker(dsn, **SETTINGS) for _ in range(2)]
        with writing(dsn, tables, seed, writers=2, rows=40) as writers:
            for _ in range(ROUNDS):
                for _ in range(ALTERS):
                    place = rng.randrange(len(tables))
                    tables[place] = alter(db, rng, tables[place])
                    if rng.random() < 0.2:
                        change_unseen(db, rng.choice(tables))
                    if rng.random() < 0.3:
                        victim = rng.randrange(len(workers))
                        processes.kill(workers[victim])
                        workers[victim] = processes.worker(dsn, **SETTINGS)
                for writer in writers:
                    writer.hold()
                tend(db)
                rest(db, tables)
                assert violations(db, tables) == []
                for writer in writers:
                    writer.go_on()
        rest(db, tables)
        assert violations(db, tables) == []
        assert [processes.stop(worker) for worker in workers] == [0, 0]
    log = (tmp_path / "workers.log").read_text(encoding="utf-8")
    assert "deadlock" not in log, log[-3000:]
