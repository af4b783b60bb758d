"""Ten vectorizers and one worker: a broken provider, a long backfill, a flood of changes and locked tables
keep no changed row of another table waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql

from pg_embed.errors import ModelMisconfigured, ModelUnavailable
from pg_embed.worker.worker import POOL_SESSION
from tests.fix_worker import Connection, GatedFake, StartWorker, broken_rows, create_fake_model
from tests.sql.helpers import value

OTHERS = [f"docs_{number}" for number in range(8)]
OLD_ROWS = 20_000
PACED = {"delay": 0.02, "max_batch_items": 16}  # 20,000 rows are 1,250 calls, one after another


class Paced(GatedFake):
    """A model of short calls, which tells when it has been asked for so many."""

    def __init__(self) -> None:
        super().__init__(**PACED, concurrency=1)

    def wait_for_calls(self, count: int) -> None:
        """Wait for so many more calls to begin."""
        for _ in range(count):
            self.next_call()


@pytest.fixture
def ten(db: Connection) -> Connection:
    """Eight tables over model "quick" and one over model "broken", all empty, with vectorizers."""
    for tokens, model in enumerate(("quick", "broken", "slow"), 1_000):
        create_fake_model(db, model, max_tokens=tokens)  # of one configuration there would be one model
    for table, model in zip([*OTHERS, "broken"], [*["quick"] * len(OTHERS), "broken"], strict=True):
        create(db, table)
        vectorize(db, table, model)
    return db


def create(db: Connection, table: str) -> None:
    """A table of texts."""
    db.execute(sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, body text)").format(sql.Identifier(table)))


def vectorize(db: Connection, table: str, model: str) -> None:
    """A vectorizer of a table."""
    db.execute("SELECT embed.create_vectorizer(%s::regclass, 'body'::text, model => %s)", [table, model])


def insert(db: Connection, table: str, text: str, rows: int = 1) -> None:
    """Rows with this text and their number."""
    statement = "INSERT INTO {} SELECT n, %s || n FROM generate_series(1, %s) AS n"
    db.execute(sql.SQL(statement).format(sql.Identifier(table)), [text, rows])


def embedded(db: Connection, table: str) -> int:
    """How many rows have a vector."""
    row = db.execute(sql.SQL("SELECT count(embedding) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    return int(str(row[0]))


def change_the_others(db: Connection) -> None:
    """A row for each of the eight tables; come back when all can be found."""
    for table in OTHERS:
        insert(db, table, "live ")
    for table in OTHERS:
        db.execute("SELECT embed.wait(%s::regclass)", [table])
        assert embedded(db, table) == 1
        assert broken_rows(db, table, vectorizer=f"{table}_embedding") == []


def unavailable(texts: Sequence[str]) -> BaseException:
    return ModelUnavailable("the provider is down")


def refused(texts: Sequence[str]) -> BaseException:
    return ModelMisconfigured("the provider wants another key")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backfilled", ["slow", "quick"])
@pytest.mark.parametrize("refuse", [None, unavailable, refused], ids=["hangs", "fails", "misconfigured"])
def test_a_changed_row_passes_a_broken_provider_and_a_backfill(
    ten: Connection,
    dsn: str,
    start_worker: StartWorker,
    backfilled: str,
    refuse: Callable[[Sequence[str]], BaseException] | None,
) -> None:
    models = {"quick": Paced(), "slow": Paced(), "broken": GatedFake(shut=refuse is None)}
    if refuse is not None:
        models["broken"].refuse = refuse
    create(ten, "old")
    insert(ten, "old", "old ", OLD_ROWS)
    vectorize(ten, "old", backfilled)
    insert(ten, "broken", "broken ", 500)
    start_worker(dsn, models)
    models["broken"].next_call()
    models[backfilled].wait_for_calls(20)
    change_the_others(ten)
    assert embedded(ten, "old") < OLD_ROWS, "the changed rows were not the last"
    assert embedded(ten, "broken") == 0
    assert not any(call.gate.is_set() for call in models["broken"].calls), "what hangs still hangs"
    models[backfilled].wait_for_calls(20)  # and nothing was stopped for them


@pytest.mark.timeout(300)
def test_a_changed_row_passes_a_flood_of_changes_of_another_table(
    ten: Connection, dsn: str, start_worker: StartWorker
) -> None:
    quick = Paced()
    create(ten, "flooded")
    vectorize(ten, "flooded", "quick")
    start_worker(dsn, {"quick": quick})
    insert(ten, "flooded", "flood ", OLD_ROWS)
    quick.wait_for_calls(20)
    change_the_others(ten)
    assert embedded(ten, "flooded") < OLD_ROWS
    quick.wait_for_calls(20)


@pytest.fixture
def locked(ten: Connection, dsn: str) -> Iterator[list[str]]:
    """Three of the tables, each with rows that are due, and locked until the test is over."""
    tables = ["locked_0", "locked_1", "locked_2"]
    for table in tables:
        create(ten, table)
        vectorize(ten, table, "quick")
        insert(ten, table, "locked ", 10)
    with ExitStack() as stack:
        for table in tables:
            user = stack.enter_context(psycopg.connect(dsn))
            user.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
        yield tables


def test_a_changed_row_passes_tables_that_are_locked(
    ten: Connection, dsn: str, start_worker: StartWorker, locked: list[str]
) -> None:
    start_worker(dsn, {"quick": GatedFake()}, connections=4, tend_every=0.05)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '_take_v1'"
    while value(ten, waiting) < len(locked):
        pass
    change_the_others(ten)
    assert value(ten, waiting) == len(locked), "they wait still"


@pytest.mark.timeout(300)
def test_more_locked_tables_than_connections_do_not_keep_the_others_waiting(
    ten: Connection,
    dsn: str,
    start_worker: StartWorker,
    locked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(POOL_SESSION, "lock_timeout", "300ms")
    start_worker.expected = "lock timeout"
    start_worker(dsn, {"quick": GatedFake()}, connections=len(locked), repair_wait=3.0)
    change_the_others(ten)
    blocked = "SELECT count(*) FROM embed._vectorizer WHERE reason ~ 'lock timeout'"
    while value(ten, blocked) < len(locked):
        pass
