"""Two workers share a model's limits: the provider, which counts, never has too many calls."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from tests.fix_worker import Connection, StartWorker, create_docs, insert_docs
from tests.providers.openai_server import OpenAIContract
from tests.providers.server import Fault, ProviderServer, serving
from tests.sql.helpers import value

WINDOW = 3.0  # seconds


class CountingContract(OpenAIContract):
    """Allows so many calls in a sliding window; None: any number."""

    def __init__(self, calls: int | None = None) -> None:
        self.calls = calls
        self.refusals = 0
        self.refused_at = 0.0  # the last time
        self.fault: Fault | None = None
        self.times: list[float] = []
        self._recent: deque[float] = deque()
        self._lock = threading.Lock()

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Too many calls, the fault that a test asks for, or what the contract refuses."""
        with self._lock:
            now = time.monotonic()
            while self._recent and self._recent[0] <= now - WINDOW:
                self._recent.popleft()
            if self.fault is not None or (self.calls is not None and len(self._recent) >= self.calls):
                self.refusals += 1
                self.refused_at = now
                return self.fault or Fault(429, "slow down", headers={"Retry-After": "1"})
            self._recent.append(now)
            self.times.append(now)
        return super().refusal(request)


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    """OpenAI's contract, with calls that are counted."""
    with serving(lambda: ProviderServer(CountingContract(), dimensions=4)) as server:
        yield server


def create_model(db: Connection, provider: ProviderServer, **options: Any) -> None:
    """A model of that provider's."""
    chosen = {"model": "test", "dimensions": 4, "base_url": provider.base_url, **options}
    embedder = default_registry().load(ModelSpec("hosted", "openai", chosen))
    card = embedder.card.as_dict()
    embedder.close()
    db.execute("SELECT embed.create_model('hosted', 'openai', %s, card => %s)", [Jsonb(chosen), Jsonb(card)])


@pytest.mark.slow
def test_two_workers_keep_a_limit_together(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    contract = provider.contract
    assert isinstance(contract, CountingContract)
    contract.calls = 18  # in a window that is a twentieth of a minute: calls that come late weigh more there
    create_model(db, provider, max_batch_items=2)
    db.execute("SELECT embed.limit_model('hosted', requests_per_minute => 270)")
    create_docs(db, *(f"text {number}" for number in range(80)))
    for _ in range(2):
        start_worker(dsn, batch_rows=32)
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("SELECT embed.wait('docs', '60 seconds')")
    assert contract.refusals == 0
    assert len(contract.times) >= 40
    pace, due = (contract.times[-1] - contract.times[0]) / (len(contract.times) - 1), 60 / 270 / 0.965
    assert 0.9 * due < pace < 1.5 * due, "a busy machine is late, with the first call, too, and nobody early"


def test_a_limit_that_is_set_while_workers_run_is_learnt(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    contract = provider.contract
    assert isinstance(contract, CountingContract)
    create_model(db, provider, max_batch_items=1)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    start_worker(dsn)
    db.execute("SELECT embed.limit_model('hosted', requests_per_minute => 120)")
    time.sleep(1)  # told by a notification
    insert_docs(db, *"abcd")
    db.execute("SELECT embed.wait('docs')")
    taken, due = contract.times[3] - contract.times[0], 3 * 0.5 / 0.965
    # without a limit they take some hundredths of a second; a busy machine may be late with the first call
    assert 0.5 * due < taken < 3 * due, "no call is much too early"


def test_too_many_calls_hold_everybody_off_and_charge_no_row(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    contract = provider.contract
    assert isinstance(contract, CountingContract)
    create_model(db, provider)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', max_attempts => 1)")
    start_worker(dsn)
    # the backfill would find the row, too, and the later of both would need no call
    db.execute("SELECT embed.wait('docs')")
    contract.calls = 0
    insert_docs(db, "one")
    while value(db, "SELECT count(*) FROM embed.limits WHERE not_before IS NOT NULL") == 0:
        time.sleep(0.01)
    contract.calls = None
    db.execute("SELECT embed.wait('docs')")
    assert contract.times[-1] - contract.refused_at > 0.9, "the provider asked for a second"
    assert value(db, "SELECT count(*) FROM embed.failures") == 0


def test_use_of_a_vectorizer_is_told(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    create_model(db, provider)
    create_docs(db, *(f"{number:040}" for number in range(7)))
    db.execute("SELECT embed.price_model('hosted', 1000000)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    start_worker.end()
    found = db.execute("SELECT model, vectorizer, inputs, tokens, cost FROM embed.usage").fetchall()
    assert found == [("hosted", "docs_embedding", 7, 7 * 11, 7 * 11)], "the fake counts 11 tokens each"
    contract = provider.contract
    assert isinstance(contract, CountingContract)
    assert value(db, "SELECT requests FROM embed.usage") == len(contract.times)


def test_a_budget_stops_within_the_batches_in_hand_and_goes_on_when_raised(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    create_model(db, provider)
    create_docs(db, *(f"{number:040}" for number in range(1_200)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("SELECT embed.set_budget('docs', tokens => 3000)")
    start_worker(dsn, batch_rows=32, page_rows=100)
    while value(db, "SELECT reason FROM embed.status") is None:
        time.sleep(0.01)
    time.sleep(0.5)
    while value(db, "SELECT count(*) FROM embed._queue WHERE worker IS NOT NULL"):
        time.sleep(0.01)  # what is in hand is paid before it is written
    used = value(db, "SELECT tokens FROM embed.usage")
    in_hand = 2 * 240 * 11  # two batches of one entry of the queue
    assert 3_000 <= used <= 3_000 + in_hand
    done = value(db, "SELECT count(embedding) FROM docs")
    assert done * 11 == used, "nothing was paid twice"
    assert value(db, "SELECT pending FROM embed.status") == 1_200 - done
    db.execute("SELECT embed.set_budget('docs', tokens => 1000000)")
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT tokens FROM embed.usage") == 1_200 * 11


def test_a_refused_account_is_tried_by_one_call_and_goes_on_when_mended(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    contract = provider.contract
    assert isinstance(contract, CountingContract)
    create_model(db, provider)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', max_attempts => 1)")
    for _ in range(2):
        start_worker(dsn)
    # the backfill would find the row, too, and make a call of its own
    db.execute("SELECT embed.wait('docs')")
    contract.fault = Fault(402, "please pay")
    insert_docs(db, "one")
    while value(db, "SELECT reason FROM embed.status") is None:
        time.sleep(0.01)
    assert "please pay" in value(db, "SELECT reason FROM embed.vectorizers")
    insert_docs(db, "two", "three")
    refusals = contract.refusals
    time.sleep(0.5)
    assert contract.refusals == refusals, "no batch of any worker asks before the minute is over"
    db.execute("SELECT embed.resume('docs')")
    while contract.refusals == refusals:
        time.sleep(0.01)
    time.sleep(0.3)
    assert contract.refusals == refusals + 1, "one call tries"
    contract.fault = None
    db.execute("SELECT embed.resume('docs')")
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
    while value(db, "SELECT reason FROM embed.status") is not None:
        time.sleep(0.01)  # it is lifted with what was used, which is told every two seconds


def test_a_mended_account_is_found_by_the_next_try(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    contract = provider.contract
    assert isinstance(contract, CountingContract)
    create_model(db, provider)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', max_attempts => 1)")
    start_worker(dsn, refused_wait=0.5)
    db.execute(
        "SELECT embed.wait('docs')"
    )  # the backfill would find the row, too, and make a call of its own
    contract.fault = Fault(401, "no such key")
    began = time.monotonic()
    insert_docs(db, "one")
    while contract.refusals < 3:
        time.sleep(0.01)
    assert time.monotonic() - began > 0.9, "three calls, half a second between them"
    contract.fault = None
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(*) FROM embed.failures") == 0


def test_few_calls_are_filled(
    db: Connection, dsn: str, start_worker: StartWorker, provider: ProviderServer
) -> None:
    create_model(db, provider)
    create_docs(db, *(f"text {number}" for number in range(6_000)))
    db.execute("SELECT embed.limit_model('hosted', requests_per_minute => 60)")
    start_worker(dsn)
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("SELECT embed.wait('docs')")
    sizes = [len(request["input"]) for request in provider.requests]
    assert sum(sizes) == 6_000
    assert max(sizes) > 1_500, "a batch is not smaller for waiting"
    assert len(sizes) <= 8
