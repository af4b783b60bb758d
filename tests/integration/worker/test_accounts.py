"""A provider's account that is not in order: nothing is lost, nobody is charged, no key is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from tests.fix_worker import Connection, StartWorker, create_docs, insert_docs
from tests.providers.server import Fault, ProviderServer
from tests.sql.helpers import value

ROWS = 3_000
WRONG, RIGHT = "wrong-key-0123456789abcdef", "right-key-0123456789abcdef"
FAMILIES = {"voyage": "any", "cohere": "any", "jina": "any", "openai": "any"}
PACE = 0.2  # seconds before a misconfigured model is tried again


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where the sidecar finds the key, a wrong one."""
    file = tmp_path / "key"
    file.write_text(WRONG)
    return file


@pytest.fixture(params=FAMILIES)
def provider(
    request: pytest.FixtureRequest,
    db: Connection,
    start_provider: Callable[[str], ProviderServer],
    key_file: Path,
) -> ProviderServer:
    """A provider that wants the right key; a model of it, and `docs` with a vectorizer, in the database."""
    family = request.param
    provider = start_provider(family)
    provider.key = RIGHT
    options: dict[str, Any] = {"base_url": provider.base_url, "model": FAMILIES[family], "dimensions": 8}
    options["api_key_file"] = str(key_file)
    embedder = default_registry().load(ModelSpec("m", family, options))
    card = embedder.card.as_dict()
    embedder.close()
    db.execute("SELECT embed.create_model('m', %s, %s, card => %s)", [family, Jsonb(options), Jsonb(card)])
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false, max_attempts => 2)")
    return provider


def everything(db: Connection) -> str:
    """All that stands in our schema's tables and views, and in the user's table."""
    found = db.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.oid = 'docs'::regclass"
        " OR c.relnamespace = 'embed'::regnamespace AND c.relkind IN ('r', 'v', 'p')"
    ).fetchall()
    texts = []
    for (name,) in found:
        rows = db.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.SQL(name))).fetchall()
        texts += [row[0] for row in rows]
    return "\n".join(texts)


def told(db: Connection) -> str:
    """The error that users see."""
    while True:
        row = db.execute("SELECT last_error FROM embed.status WHERE last_error IS NOT NULL").fetchone()
        if row is not None:
            return str(row[0])


def calls_in(provider: ProviderServer, seconds: float) -> int:
    """How many calls come in a time."""
    before = len(provider.requests)
    time.sleep(seconds)
    return len(provider.requests) - before


def test_a_wrong_key_costs_nothing_but_time(
    db: Connection,
    dsn: str,
    provider: ProviderServer,
    key_file: Path,
    start_worker: StartWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    insert_docs(db, *(f"text {number}" for number in range(ROWS)))
    start_worker(dsn, repair_wait=PACE, refused_wait=PACE)
    assert "answered 401" in told(db)
    assert calls_in(provider, 10 * PACE) <= 12 * 4, "a round of calls each time, not one for every row"
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
    assert value(db, "SELECT max(attempts) FROM embed._queue") <= 1, (
        "one that is in hand counts for the moment"
    )
    assert value(db, "SELECT count(embedding) FROM docs") == 0
    for key in (WRONG, RIGHT):
        assert key not in everything(db)
    key_file.write_text(RIGHT)
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(embedding) FROM docs") == ROWS
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
    for key in (WRONG, RIGHT):
        assert key not in everything(db)
        assert key not in caplog.text
        assert not any(key in repr(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize("provider", ["openai", "jina", "cohere"], indirect=True)
def test_an_empty_account_costs_nothing_but_time(
    db: Connection, dsn: str, provider: ProviderServer, start_worker: StartWorker
) -> None:
    provider.key = None
    faults = {
        "/v1/embeddings": [
            Fault(403, "top up", "AUTHZ_INSUFFICIENT_BALANCE"),
            Fault(429, "q", "insufficient_quota"),
        ],
        "/v2/embed": [Fault(402, "please pay")],
    }
    provider.faults.extend(faults[provider.contract.path] * 40)
    insert_docs(db, *(f"text {number}" for number in range(ROWS)))
    start_worker(dsn, repair_wait=PACE, refused_wait=PACE)
    assert "answered 4" in told(db)
    assert calls_in(provider, 5 * PACE) <= 7 * 4
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
    provider.faults.clear()  # somebody has paid
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(embedding) FROM docs") == ROWS
    assert value(db, "SELECT count(*) FROM embed.failures") == 0


@pytest.mark.parametrize("provider", ["voyage"], indirect=True)
def test_retrying_by_hand_asks_once_more_and_no_more(
    db: Connection, dsn: str, provider: ProviderServer, start_worker: StartWorker
) -> None:
    insert_docs(db, *(f"text {number}" for number in range(ROWS)))
    start_worker(dsn, repair_wait=60.0)
    told(db)
    time.sleep(0.5)
    before = len(provider.requests)
    assert before <= 4
    db.execute("SELECT embed.retry('docs')")
    assert calls_in(provider, 1.0) <= 4
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
