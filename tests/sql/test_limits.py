"""Limits of a model: clocks that all workers share, queries ahead of bulk, holds, and who may set them."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from tests.fix_worker import Connection, create_fake_model
from tests.sql.helpers import refused, value

PACE = 60 / 0.965  # seconds in which a clock allows a minute's limit
AHEAD = 1.2  # seconds
LATE = 0.1  # seconds that a call may come late and lose nothing
CLOSE = 0.05  # seconds


@pytest.fixture
def began() -> float:
    """When the test began, monotonic."""
    return time.monotonic()


def due(began: float, waits: list[float], seconds: list[float]) -> bool:
    """Whether waits are those that so many seconds were at the beginning; some have gone by since."""
    passed = time.monotonic() - began
    return all(
        whole - passed - LATE - CLOSE <= wait <= whole + CLOSE
        for wait, whole in zip(waits, seconds, strict=True)
    )


@pytest.fixture
def model(db: Connection) -> int:
    """The id of a fake model."""
    create_fake_model(db)
    return int(value(db, "SELECT id FROM embed._model"))


def limit(db: Connection, **limits: int) -> None:
    words = ", ".join(f"{name} => {number}" for name, number in limits.items())
    db.execute(f"SELECT embed.limit_model('fake'{', ' if words else ''}{words})")


def reserve(
    db: Connection, model: int, *, query: bool = False, patience: str | None = None, **of: int
) -> float:
    amounts = [of.get("requests", 1), of.get("inputs", 1), of.get("tokens", 1)]
    wait: Any = value(
        db,
        "SELECT embed._reserve_v1(%s, %s, %s, %s, %s, %s::interval)",
        model,
        *amounts,
        query,
        patience,
    )
    assert isinstance(wait, timedelta)
    return wait.total_seconds()


def test_a_model_without_limits_waits_for_nothing(db: Connection, model: int) -> None:
    assert reserve(db, model) == 0
    assert value(db, "SELECT count(*) FROM embed._limits_v1()") == 0
    assert value(db, "SELECT count(*) FROM embed.limits") == 0


@pytest.mark.parametrize(
    ("limits", "call", "share"),
    [
        ({"requests_per_minute": 60}, {}, 1 / 60),
        ({"inputs_per_minute": 600}, {"inputs": 20}, 20 / 600),
        ({"tokens_per_minute": 100_000}, {"tokens": 5_000}, 0.05),
        ({"requests_per_minute": 600, "tokens_per_minute": 100_000}, {"tokens": 5_000}, 0.05),
        ({"requests_per_minute": 3, "tokens_per_minute": 100_000}, {"tokens": 5_000}, 1 / 3),
    ],
)
def test_each_call_waits_for_its_share_of_a_minute(
    db: Connection, model: int, began: float, limits: dict[str, int], call: dict[str, int], share: float
) -> None:
    limit(db, **limits)
    waits = [reserve(db, model, **call) for _ in range(4)]
    assert due(began, waits, [number * share * PACE for number in range(4)]), waits


def test_a_query_goes_before_bulk_that_has_reserved(db: Connection, model: int, began: float) -> None:
    limit(db, requests_per_minute=60)
    waits = [reserve(db, model, query=query) for query in (False, False, True, False)]
    pace = PACE / 60
    # the query's time is taken from bulk
    assert due(began, waits, [0, pace, 2 * pace - AHEAD, 3 * pace]), waits


def test_who_is_not_patient_reserves_nothing(db: Connection, model: int, began: float) -> None:
    limit(db, requests_per_minute=1)
    reserve(db, model)
    waits = [reserve(db, model, patience="10 seconds") for _ in range(2)]
    assert due(began, waits, [PACE, PACE]), waits


def test_tokens_are_set_right_when_the_provider_has_counted(db: Connection, model: int, began: float) -> None:
    limit(db, tokens_per_minute=1_000)
    reserve(db, model, tokens=500)
    db.execute("SELECT embed._settle_usage_v1(%s, 500, 100)", [model])
    wait = reserve(db, model, tokens=500)
    assert due(began, [wait], [0.1 * PACE]), wait


def test_little_left_holds_the_next_call_off(db: Connection, model: int, began: float) -> None:
    limit(db, requests_per_minute=6_000)
    db.execute("SELECT embed._settle_usage_v1(%s, 0, 0, '3 seconds')", [model])
    wait = reserve(db, model)
    assert due(began, [wait], [3]), wait


def test_a_model_that_had_too_many_calls_is_left_alone_by_all(
    db: Connection, model: int, began: float
) -> None:
    db.execute("LISTEN pg_embed_work")
    for seconds in (5, 9, 2):
        db.execute("SELECT embed._hold_v1('fake', make_interval(secs => %s))", [seconds])
    assert value(db, "SELECT name FROM embed._limits_v1()") == "fake"
    waits = [reserve(db, model, query=query) for query in (False, True)]
    assert due(began, waits, [9, 9]), waits
    assert value(db, "SELECT not_before > now() FROM embed.limits WHERE model = 'fake'")
    notices = list(db.notifies(timeout=0.2))
    assert [notice.payload for notice in notices] == ["catalog"], "told once"
    db.execute("SELECT embed._hold_v1('nobody', '1 second')")


def test_limits_are_changed_and_taken_away(db: Connection, model: int) -> None:
    limit(db, requests_per_minute=1)
    reserve(db, model)
    limit(db, requests_per_minute=60, tokens_per_minute=1_000_000)
    assert reserve(db, model) == 0, "a new limit starts anew"
    assert db.execute("SELECT * FROM embed.limits").fetchall() == [
        ("fake", 60, None, 1_000_000, None, None, None)
    ]
    limit(db)
    assert value(db, "SELECT count(*) FROM embed.limits") == 0
    assert [reserve(db, model) for _ in range(3)] == [0, 0, 0]


def test_limits_go_with_their_model(db: Connection, model: int) -> None:
    limit(db, requests_per_minute=1)
    db.execute("SELECT embed.drop_model('fake')")
    assert value(db, "SELECT count(*) FROM embed._limit") == 0
    assert reserve(db, model) == 0


@pytest.mark.parametrize("number", [0, -1])
def test_a_limit_is_one_at_least(db: Connection, model: int, number: int) -> None:
    state, message, hint = refused(db, "SELECT embed.limit_model('fake', 5, %s)", number)
    assert state == "PE003"
    assert "less than 1" in message
    assert "leave out" in hint
    assert refused(db, "SELECT embed.limit_model('nobody', 5)")[0] == "PE001"
