"""The throttle over a real database, and the ledger of what doors use."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest

from pg_embed.db import KEEPALIVE
from pg_embed.engine import Engine
from pg_embed.errors import ModelUnavailable
from pg_embed.jobs.limits import Limits
from pg_embed.models.registry import default_registry
from pg_embed.records import Allowance, CallLimit, ModelSpec, Priority, Remaining
from pg_embed.serve.metering import MeteredEngine
from tests.fix_models import PATIENCE
from tests.fix_worker import DIMENSIONS, Connection, create_fake_model
from tests.sql.helpers import value

QUERY, LIVE, BACKFILL = Priority
SPEC = ModelSpec("another name of it", "fake", {"dimensions": DIMENSIONS})
PACE = 60 / 0.965  # seconds in which a minute's limit goes
CLOSE = 1.0  # seconds that a busy machine may take


async def opened(dsn: str) -> Limits:
    limits = Limits(dsn)
    await limits.open()
    return limits


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.01)


async def test_a_model_is_known_by_its_configuration(db: Connection, dsn: str) -> None:
    create_fake_model(db)
    db.execute("SELECT embed.limit_model('fake', 100, inputs_per_minute => 1000, tokens_per_minute => 9)")
    limits = await opened(dsn)
    assert limits.limit(SPEC) == CallLimit(items=20, tokens=1)
    assert limits.limit(ModelSpec("other", "fake", {"dimensions": 5})) is None
    db.execute("SELECT embed.limit_model('fake', 3, tokens_per_minute => 9000)")
    limits.refresh()
    await until(lambda: limits.limit(SPEC) == CallLimit(tokens=3_000), "few calls may be large")
    db.execute("SELECT embed.limit_model('fake')")
    limits.refresh()
    await until(lambda: limits.limit(SPEC) is None, "no limit")
    await limits.close()


async def test_turns_are_given_and_a_query_is_told_when_it_is_too_far_away(db: Connection, dsn: str) -> None:
    create_fake_model(db)
    db.execute("SELECT embed.limit_model('fake', requests_per_minute => 4)")
    limits = await opened(dsn)
    turns = [await limits.reserve(SPEC, 1, 1, BACKFILL) for _ in range(2)]
    assert [turn.seconds for turn in turns] == pytest.approx([0, PACE / 4], abs=CLOSE)
    with pytest.raises(ModelUnavailable, match="used up for") as caught:
        await limits.reserve(SPEC, 1, 1, QUERY)
    assert caught.value.retry_after == pytest.approx(2 * PACE / 4 - 1.2, abs=CLOSE)
    await limits.close()


async def test_a_restart_of_the_database_lets_no_call_go_without_its_turn(
    db: Connection, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    create_fake_model(db)
    db.execute("SELECT embed.limit_model('fake', requests_per_minute => 4)")
    limits = await opened(dsn)
    await limits.reserve(SPEC, 1, 1, BACKFILL)
    db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'pg_embed limits'"
    )
    turn = await limits.reserve(SPEC, 1, 1, BACKFILL)
    await limits.close()
    assert turn.seconds > 0
    assert "limits are not kept" not in caplog.text


async def test_connections_notice_a_silent_network(dsn: str) -> None:
    limits = await opened(dsn)
    assert limits._pool is not None
    async with limits._pool.connection() as connection:
        known = connection.info.get_parameters()
    await limits.close()
    assert {name: int(known.get(name, 0)) for name in KEEPALIVE} == KEEPALIVE


async def test_the_ratio_of_used_tokens_to_estimated_ones_is_learnt(db: Connection, dsn: str) -> None:
    create_fake_model(db)
    db.execute("SELECT embed.limit_model('fake', tokens_per_minute => 100000)")
    limits = await opened(dsn)
    began = time.monotonic()
    for _ in range(40):
        turn = await limits.reserve(SPEC, 1, 1_000, BACKFILL)
        limits.settle(SPEC, turn, 700, None, None)
    assert (await limits.reserve(SPEC, 1, 1_000, BACKFILL)).reserved == pytest.approx(700, abs=2)
    await limits.close()
    waits = value(db, "SELECT extract(epoch FROM tokens_free - clock_timestamp()) FROM embed._limit")
    due = 41 * 700 / 1e5 * PACE  # 8 s more if what was estimated did
    passed = time.monotonic() - began
    assert due - passed - 0.5 < float(waits) < due + 0.5, "only what was used counts"


@pytest.mark.parametrize(
    ("allowance", "seconds"),
    [
        (Allowance(requests=Remaining(5_000)), 0),
        (Allowance(requests=Remaining(0)), 1.2),
        (Allowance(requests=Remaining(0, 60, 0.5)), 0.5),
        (Allowance(requests=Remaining(30, 3_000, 60), tokens=Remaining(9, 10, 0)), 1.2),
        (Allowance(tokens=Remaining(100, 1_000_000)), 1.2),
        (Allowance(tokens=Remaining(100)), 0),
        (None, 0),
    ],
)
async def test_little_left_at_the_provider_holds_everybody_off(
    db: Connection, dsn: str, allowance: Allowance | None, seconds: float
) -> None:
    create_fake_model(db)
    db.execute("SELECT embed.limit_model('fake', requests_per_minute => 60000)")
    limits = await opened(dsn)
    turn = await limits.reserve(SPEC, 1, 1, BACKFILL)
    began = time.monotonic()
    limits.settle(SPEC, turn, 1, allowance, None)
    await limits.close()
    limits = await opened(dsn)
    wait = (await limits.reserve(SPEC, 1, 1, BACKFILL)).seconds
    passed = time.monotonic() - began
    assert max(seconds - passed, 0) - 0.05 < wait < seconds + 0.05
    assert wait > 0 or passed >= seconds
    await limits.close()


async def test_too_many_calls_hold_off_for_as_long_as_the_provider_asks(db: Connection, dsn: str) -> None:
    name = create_fake_model(db)
    spec = ModelSpec(name, SPEC.family, SPEC.options)
    limits = await opened(dsn)
    began = time.monotonic()
    limits.settle(spec, None, None, None, ModelUnavailable("slow down", retry_after=7.0, limited=True))
    await until(lambda: limits.limit(spec) is not None, "a limit")
    seconds = (await limits.reserve(spec, 1, 1, BACKFILL)).seconds
    assert max(7 - (time.monotonic() - began), 0) - 0.05 < seconds < 7.05
    await limits.close()


async def test_a_database_that_is_away_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pg_embed")
    limits = await opened("host=/nowhere dbname=none connect_timeout=1")
    assert limits.limit(SPEC) is None
    assert (await limits.reserve(SPEC, 1, 5, QUERY)).seconds == 0
    assert len([record for record in caplog.records if record.name == "pg_embed.limits"]) == 1
    await limits.close()


async def test_what_doors_use_is_nobody_s_vectorizer_s(db: Connection, dsn: str) -> None:
    spec = ModelSpec(create_fake_model(db), SPEC.family, SPEC.options)
    limits = await opened(dsn)
    engine = Engine(default_registry(), throttle=limits)
    doors = MeteredEngine(engine, limits.ledger)
    for _ in range(3):
        await doors.embed(spec, ["a query"], "query", QUERY, PATIENCE)
    await doors.embed(spec, ["one", "two"], "document", LIVE, PATIENCE)
    assert await doors.count(spec, ["eight ch"], PATIENCE) == [3]
    await engine.close()
    await limits.close()
    found = db.execute("SELECT model, vectorizer, requests, inputs, tokens FROM embed.usage").fetchall()
    assert found == [("fake", None, 2, 3, 4)], "what comes from memory uses nothing"
