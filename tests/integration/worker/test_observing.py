"""What a worker tells: metrics of its batches and of the whole queue, and each change of state in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pg_embed import config
from pg_embed.cli.running import in_background
from pg_embed.cli.service import Plan
from pg_embed.config import Settings
from pg_embed.errors import InvalidArgument, ModelMisconfigured, ModelUnavailable
from pg_embed.serve.work_metrics import WorkMetrics
from pg_embed.worker import WorkerSettings, watching
from tests.fix_models import PATIENCE
from tests.fix_pg import MakeRole
from tests.fix_second_server import free_port
from tests.fix_worker import Connection, GatedFake, StartWorker, create_docs, create_fake_model, insert_docs
from tests.sql.helpers import refused, value

LIVE = {"vectorizer": "docs_embedding", "lane": "live"}
NAME = {"vectorizer": "docs_embedding"}
OFTEN = {"figures_every": 0.02}


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look as often as the settings say, though a look may take long on a busy machine."""
    monkeypatch.setattr(watching, "MOST_OF_TIME", 1.0)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, empty, with a vectorizer."""
    create_fake_model(db)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    return db


class Scraped:
    """A worker's metrics as Prometheus would have them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.observer = WorkMetrics(self._registry)

    def __call__(self, name: str, **labels: str) -> float | None:
        """A sample, if it is there."""
        return sample(generate_latest(self._registry).decode(), name, **labels)

    def wait_for(self, expected: float | None, name: str, **labels: str) -> None:
        """Wait until a sample has this value."""
        until = time.monotonic() + PATIENCE
        while (found := self(name, **labels)) != expected:
            assert time.monotonic() < until, f"{name} is {found}"
            time.sleep(0.01)


def sample(text: str, name: str, **labels: str) -> float | None:
    """A sample of what /metrics shows."""
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return float(found.value)
    return None


@pytest.fixture
def scraped() -> Scraped:
    """Metrics of a worker that is given their observer."""
    return Scraped()


class States(logging.Handler):
    """The changes of state that were logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if getattr(record, "event", "") == "vectorizer_state":
            self.records.append(record)

    def next(self) -> tuple[str, str, str | None, str]:
        """Wait for one: the state before, the state now, the reason, and the level."""
        until = time.monotonic() + PATIENCE
        while not self.records:
            assert time.monotonic() < until, "no change of state was logged"
            time.sleep(0.01)
        found: Any = self.records.pop(0)
        assert found.pg_embed_vectorizer == "docs_embedding"
        return found.pg_embed_was, found.pg_embed_state, found.pg_embed_reason, found.levelname


@pytest.fixture
def states() -> Iterator[States]:
    """The events of this test."""
    handler, logger = States(), logging.getLogger("pg_embed.worker")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_batches_are_counted(docs: Connection, dsn: str, start_worker: StartWorker, scraped: Scraped) -> None:
    start_worker(dsn, GatedFake(fail_on="poison"), scraped.observer, tend_every=0.05, **OFTEN)
    insert_docs(docs, "one", "two", "poison")
    docs.execute("SELECT embed.wait('docs')")
    scraped.wait_for(1, "pg_embed_batch_seconds_count", lane="live")  # what is told last of a batch
    assert scraped("pg_embed_rows_total", **LIVE, outcome="done") == 2
    assert scraped("pg_embed_rows_total", **LIVE, outcome="failed") == 1
    assert scraped("pg_embed_batch_rows_sum", lane="live") == 3
    scraped.wait_for(1, "pg_embed_failed_rows", **NAME)
    docs.execute("DELETE FROM docs WHERE body = 'poison'")
    scraped.wait_for(0, "pg_embed_failed_rows", **NAME)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelUnavailable("down"), "unavailable"),
        (ModelUnavailable("slow down", limited=True), "limited"),
        (ModelMisconfigured("another key, please"), "misconfigured"),
        (ModelMisconfigured("no money", refused=True), "refused"),
        (ZeroDivisionError(), "unavailable"),  # whatever a family raises is no fault of ours
    ],
)
def test_postponed_batches_are_counted_by_reason(
    docs: Connection,
    dsn: str,
    start_worker: StartWorker,
    scraped: Scraped,
    error: Exception,
    reason: str,
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model, scraped.observer, **OFTEN)
    insert_docs(docs, "one")
    model.next_call().go(error)
    scraped.wait_for(1, "pg_embed_batches_postponed_total", **LIVE, reason=reason)


def test_a_state_is_shown(docs: Connection, dsn: str, start_worker: StartWorker, scraped: Scraped) -> None:
    start_worker(dsn, None, scraped.observer, tend_every=0.05, **OFTEN)
    scraped.wait_for(1, "pg_embed_vectorizer_state", **NAME, state="active")
    docs.execute("ALTER TABLE docs DROP COLUMN embedding")
    scraped.wait_for(1, "pg_embed_vectorizer_state", **NAME, state="stopped")
    assert scraped("pg_embed_vectorizer_state", **NAME, state="active") == 0


def test_the_queue_is_shown_by_lane(
    docs: Connection, dsn: str, start_worker: StartWorker, scraped: Scraped
) -> None:
    model = GatedFake(shut=True)
    docs.execute("SELECT embed.price_model('fake', 1000000)")  # a dollar a token
    docs.execute(
        "INSERT INTO docs (id, body) SELECT n, 'old' || n FROM generate_series(1, 500) AS n;"
        "DELETE FROM embed._queue; SELECT embed.backfill('docs')"
    )
    worker = start_worker(
        dsn, model, scraped.observer, **OFTEN, page_rows=100, backfill_slots=1, live_slots=1
    )
    model.next_call()
    insert_docs(docs, "new", "newer")
    scraped.wait_for(2, "pg_embed_queue_in_flight_rows", **LIVE)
    insert_docs(docs, "newest")
    scraped.wait_for(1, "pg_embed_queue_rows", **LIVE)
    assert scraped("pg_embed_backfill_rows", **NAME) == 400
    assert scraped("pg_embed_queue_in_flight_rows", **NAME, lane="backfill") == 100
    assert scraped("pg_embed_workers") == 1
    assert scraped("pg_embed_worker_connected") == 1
    assert scraped("pg_embed_worker_connections", state="used") is not None
    assert (scraped("pg_embed_queue_oldest_seconds", **LIVE) or 0) > 0
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    for name in ("queue_rows", "queue_in_flight_rows", "queue_oldest_seconds"):
        scraped.wait_for(0, f"pg_embed_{name}", **LIVE)
    scraped.wait_for(0, "pg_embed_backfill_rows", **NAME)
    until = time.monotonic() + PATIENCE
    while not scraped("pg_embed_cost_usd_total", model="fake"):
        assert time.monotonic() < until, "no cost was told"
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    scraped.wait_for(None, "pg_embed_queue_rows", **LIVE)
    worker.stop()
    assert scraped("pg_embed_worker_connected") == 0
    for state in ("used", "idle"):
        assert scraped("pg_embed_worker_connections", state=state) == 0
    assert scraped("pg_embed_workers") is None, "what is not known is not shown"


def test_a_worker_s_role_may_look_and_a_reader_s_may_not(
    docs: Connection, make_role: MakeRole, start_worker: StartWorker, scraped: Scraped
) -> None:
    worker = start_worker(make_role("embed_worker").dsn, None, scraped.observer, **OFTEN)
    scraped.wait_for(1, "pg_embed_workers")
    with psycopg.connect(make_role("embed_reader").dsn, autocommit=True) as reader:
        assert refused(reader, "SELECT embed._figures_v1()")[0] == "42501"
    worker.stop()  # before its role goes


def test_pausing_and_stopping_are_told(
    docs: Connection, dsn: str, start_worker: StartWorker, states: States
) -> None:
    start_worker(dsn, tend_every=0.05, figures_every=0.1)
    docs.execute("SELECT embed.pause('docs')")
    assert states.next() == ("active", "paused", "paused by postgres", "INFO")
    docs.execute("SELECT embed.resume('docs')")
    assert states.next() == ("paused", "active", None, "INFO")
    docs.execute("ALTER TABLE docs DROP COLUMN embedding")
    was, state, reason, level = states.next()
    assert (was, state, level) == ("active", "stopped", "WARNING")
    assert reason


def test_a_pause_is_told_at_once(
    docs: Connection, dsn: str, start_worker: StartWorker, states: States
) -> None:
    start_worker(dsn, figures_every=3_600.0)
    docs.execute("SELECT embed.pause('docs')")
    assert states.next()[1] == "paused"


def test_a_refused_account_and_a_spent_budget_are_told(
    docs: Connection, dsn: str, start_worker: StartWorker, states: States
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model, figures_every=0.02, refused_wait=0.05)
    insert_docs(docs, "one")
    model.next_call().go(ModelMisconfigured("no money", refused=True))
    was, state, reason, level = states.next()
    assert (was, state, level) == ("active", "refused", "WARNING")
    assert "no money" in (reason or "")
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    assert states.next()[:2] == ("refused", "active")
    docs.execute("SELECT embed.set_budget('docs', tokens => 1, per => 'total')")
    was, state, reason, level = states.next()
    assert (was, state, level) == ("active", "spent", "WARNING")
    assert "budget" in (reason or "")
    docs.execute("SELECT embed.set_budget('docs')")
    assert states.next()[:2] == ("spent", "active")


def test_a_worker_alone_shows_its_metrics(docs: Connection, dsn: str) -> None:
    port = free_port()
    settings = Settings(worker=WorkerSettings(metrics_port=port, **OFTEN))
    plan = Plan(settings, worker_dsn=dsn)
    insert_docs(docs, "one")
    with in_background(plan):
        docs.execute("SELECT embed.wait('docs')")
        until = time.monotonic() + PATIENCE
        text = ""
        while sample(text, "pg_embed_rows_total", **LIVE, outcome="done") != 1:
            assert time.monotonic() < until, text
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert sample(text, "pg_embed_tokens_total", model="fake", priority="live") == 1
        with pytest.raises(InvalidArgument, match="metrics cannot be shown"), in_background(plan):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")
    assert value(docs, "SELECT count(embedding) FROM docs") == 1


def test_the_port_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_EMBED_WORKER_METRICS_PORT", "9187")
    assert config.read().worker.metrics_port == 9187
