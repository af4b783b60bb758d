"""What is used, what it costs, and budgets."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.fix_worker import Connection, create_docs, create_fake_model
from tests.sql.helpers import queued, refused, value

WORK = "SELECT live_due, backfill_due, has_backfill FROM embed._work_v1()"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a vectorizer, and one row in each lane."""
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("SELECT embed._page_v1(id, 1) FROM embed._vectorizer")
    db.execute("INSERT INTO docs VALUES (2, NULL, 'two')")
    assert queued(db) == ["2"]
    assert queued(db, priority=2) == ["1"]
    return db


def vectorizer(db: Connection) -> int:
    return int(value(db, "SELECT id FROM embed._vectorizer"))


def use(db: Connection, tokens: int, **other: Any) -> list[int]:
    told = {"model": "fake", "requests": 1, "inputs": 2, "bytes": 10, "tokens": tokens, **other}
    told.setdefault("vectorizer", vectorizer(db))
    found: list[int] = value(db, "SELECT embed._use_v1(%s)", Jsonb([told]))
    return found


def claimed(db: Connection, lane: int) -> bool:
    row = db.execute(
        "SELECT entries FROM embed._claim_v1(7, %s, %s, 10, '1 minute')", [vectorizer(db), lane]
    ).fetchone()
    if row is None:
        return False
    db.execute("SELECT embed._postpone_v1(7, %s, '0', NULL, false)", [row[0]])
    return True


def test_use_adds_up_by_day_model_and_vectorizer(docs: Connection) -> None:
    use(docs, 100)
    docs.execute("SELECT embed.price_model('fake', 0.02)")
    use(docs, 1_000_000)
    use(docs, 500_000)
    use(docs, 50, vectorizer=None)
    use(docs, 1, model="nobody")
    today = value(docs, "SELECT (now() AT TIME ZONE 'UTC')::date")
    found = docs.execute("SELECT * FROM embed.usage ORDER BY tokens").fetchall()
    assert found == [
        (today, "fake", None, 1, 2, 50, Decimal("0.000001"), "USD", 0),
        (today, "fake", "docs_embedding", 3, 6, 1_500_100, Decimal("0.03"), "USD", 0),
    ]


def test_what_was_paid_stays_when_its_vectorizer_goes(docs: Connection) -> None:
    gone = vectorizer(docs)
    use(docs, 5)
    docs.execute("SELECT embed.drop_vectorizer('docs'), embed.drop_model('fake')")
    found = docs.execute("SELECT model, vectorizer, tokens, cost FROM embed.usage").fetchall()
    assert found == [(found[0][0], f"dropped vectorizer {gone}", 5, None)]
    assert found[0][0].startswith("dropped model ")


def test_what_a_switch_used_is_told_under_one_name(docs: Connection) -> None:
    create_fake_model(docs, "wide", dimensions=7)
    use(docs, 5)
    docs.execute("SELECT embed.switch_model('docs', 'wide', index => 'none')")
    use(docs, 20, model="wide", vectorizer=2)
    told = "SELECT vectorizer, model, tokens FROM embed.usage ORDER BY tokens"
    both = [("docs_embedding", "fake", 5), ("docs_embedding", "wide", 20)]
    assert docs.execute(told).fetchall() == both
    docs.execute("SELECT embed.finish_switch('docs', force => true)")
    use(docs, 1, vectorizer=1)
    both[0] = ("docs_embedding", "fake", 6)
    assert docs.execute(told).fetchall() == both
    docs.execute("SELECT embed.forget_switch('docs')")
    assert docs.execute(told).fetchall() == both
    docs.execute("SELECT embed.switch_model('docs', 'fake', index => 'none')")
    use(docs, 4, vectorizer=3)
    docs.execute("SELECT embed.finish_switch('docs', force => true), embed.forget_switch('docs')")
    assert docs.execute(told).fetchall() == [("docs_embedding", "fake", 10), ("docs_embedding", "wide", 20)]
    assert docs.execute("SELECT * FROM embed._heir ORDER BY 1").fetchall() == [(1, 3), (2, 3)]
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    assert {row[0] for row in docs.execute(told)} == {f"dropped vectorizer {number}" for number in (1, 2, 3)}


@pytest.mark.parametrize("price", [-1, "NaN"])
def test_a_price_is_a_number(docs: Connection, price: Any) -> None:
    assert refused(docs, "SELECT embed.price_model('fake', %s)", price)[0] == "PE003"


def test_a_spent_budget_stops_both_lanes_and_loses_nothing(docs: Connection) -> None:
    docs.execute("SELECT embed.set_budget('docs', tokens => 100)")
    assert use(docs, 99) == [vectorizer(docs)], "its use is told at once"
    assert docs.execute(WORK).fetchone() == (True, True, True)
    use(docs, 1)
    assert docs.execute(WORK).fetchone() == (False, False, False)
    assert not claimed(docs, 1)
    assert not claimed(docs, 2)
    assert queued(docs) == ["2"]
    reason = value(docs, "SELECT reason FROM embed.status")
    assert reason == "the budget of 100 tokens in total is spent; raise it with embed.set_budget"
    assert value(docs, "SELECT reason FROM embed.vectorizers") == reason
    assert value(docs, "SELECT state FROM embed.vectorizers") == "active"
    docs.execute("SELECT pg_advisory_lock(1885695331, 7)")  # what a worker holds
    assert "budget of 100 tokens" in value(docs, "SELECT explanation FROM embed.why('docs', 2)")
    assert docs.execute("SELECT tokens_used, cost_used FROM embed.budgets").fetchone() == (100, None)
    docs.execute("SELECT embed.set_budget('docs', tokens => 101)")
    assert claimed(docs, 1)
    docs.execute("SELECT embed.set_budget('docs', tokens => 100)")
    assert not claimed(docs, 1)
    docs.execute("SELECT embed.set_budget('docs')")
    assert claimed(docs, 1)
    assert value(docs, "SELECT count(*) FROM embed.budgets") == 0


def test_a_budget_may_leave_changed_rows_alone(docs: Connection) -> None:
    docs.execute("SELECT embed.set_budget('docs', tokens => 0, live => false)")
    assert docs.execute(WORK).fetchone() == (True, False, False)
    assert claimed(docs, 1)
    assert not claimed(docs, 2)
    assert "and the backfill waits" in value(docs, "SELECT reason FROM embed.status")


@pytest.mark.parametrize(("per", "back"), [("day", "1 day"), ("month", "1 month")])
def test_a_budget_of_a_period_goes_on_with_the_next(docs: Connection, per: str, back: str) -> None:
    docs.execute("SELECT embed.price_model('fake', 2)")
    docs.execute("SELECT embed.set_budget('docs', cost => 5.00, per => %s)", [per])
    use(docs, 2_500_000)
    assert not claimed(docs, 1)
    reason = value(docs, "SELECT reason FROM embed.status")
    assert reason.startswith(f"the budget of 5.00 USD a {per} is spent; it goes on at ")
    assert reason.endswith("00:00 UTC")
    docs.execute("UPDATE embed._usage SET day = (day - %s::interval)::date", [back])
    assert claimed(docs, 1)
    assert value(docs, "SELECT reason FROM embed.status") is None
    docs.execute("SELECT embed.set_budget('docs', cost => 5.00, per => 'total')")
    assert not claimed(docs, 1)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT embed.set_budget('docs', cost => 1)", "price"),
        ("SELECT embed.set_budget('docs', tokens => -1)", "less than nothing"),
        ("SELECT embed.set_budget('docs', tokens => 1, per => 'week')", "week"),
    ],
)
def test_a_budget_that_cannot_be(docs: Connection, statement: str, words: str) -> None:
    state, message, hint = refused(docs, statement)
    assert state == "PE003"
    assert words in message
    assert hint


def test_a_price_stays_while_a_budget_of_money_needs_it(docs: Connection) -> None:
    docs.execute("SELECT embed.price_model('fake', 1), embed.set_budget('docs', cost => 1)")
    state, message, _ = refused(docs, "SELECT embed.price_model('fake')")
    assert state == "PE003"
    assert "docs_embedding" in message
    docs.execute("SELECT embed.set_budget('docs', tokens => 1), embed.price_model('fake')")


def test_a_refused_account_pauses_its_model_but_for_one_try_a_minute(docs: Connection) -> None:
    assert value(docs, "SELECT embed._refuse_v1('fake', 'no balance')") is True
    assert value(docs, "SELECT embed._refuse_v1('fake', 'no balance')") is False
    assert docs.execute(WORK).fetchone() == (False, False, False)
    assert not claimed(docs, 1)
    reason = value(docs, "SELECT reason FROM embed.status")
    assert reason.startswith("the account of model 'fake' is refused, and it is tried again at ")
    assert reason.endswith(" UTC: no balance")
    assert value(docs, "SELECT refusal FROM embed.limits") == "no balance"
    docs.execute("UPDATE embed._limit SET probe_at = now() - interval '1 second'")
    assert docs.execute(WORK).fetchone() == (True, True, True)
    assert claimed(docs, 1), "one claim tries"
    assert not claimed(docs, 1)
    assert not claimed(docs, 2)
    docs.execute("SELECT embed.resume('docs')")
    assert claimed(docs, 2), "resume lets it be tried at once"
    assert not claimed(docs, 2)


def test_a_model_that_answers_again_goes_on_at_once(docs: Connection) -> None:
    docs.execute("SELECT embed._refuse_v1('fake', 'no balance')")
    docs.execute(
        "UPDATE embed._queue SET available_at = now() + interval '1 hour', last_error = 'no balance'"
    )
    use(docs, 1)
    assert value(docs, "SELECT count(*) FROM embed.limits") == 0
    assert docs.execute(WORK).fetchone() == (True, True, True)


def test_altering_a_model_lets_it_be_tried(docs: Connection) -> None:
    docs.execute("SELECT embed._refuse_v1('fake', 'no balance')")
    docs.execute("SELECT embed.alter_model('fake', is_default => true)")
    assert claimed(docs, 1)
