"""Seven things that went wrong for users of pgai, as they met them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from tests.fix_models import PROVIDERS
from tests.fix_serve import spool_place, with_transport
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
    vector,
)
from tests.providers.server import ProviderServer
from tests.sql.helpers import clear_queue, queued, value

WORKERS = 10
LOCKS_BY_DEFAULT = "64"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """An empty `docs` with a vectorizer."""
    create_fake_model(db)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    return db


@pytest.mark.parametrize("family", PROVIDERS)
def test_1_one_poison_row_among_200_keeps_no_other_row_out(
    family: str,
    db: Connection,
    dsn: str,
    start_worker: StartWorker,
    start_provider: Callable[[str], ProviderServer],
) -> None:
    spec = ModelSpec("provider", family, {"base_url": start_provider(family).base_url, "model": "small"})
    model = default_registry().load(spec)
    try:
        card = model.card.as_dict()
    finally:
        model.close()
    options = Jsonb(dict(spec.options))
    db.execute("SELECT embed.create_model('provider', %s, %s, card => %s)", [family, options, Jsonb(card)])
    create_docs(db, *(f"text {n}" if n != 77 else "the POISON row" for n in range(1, 201)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(*) FROM docs WHERE embedding IS NOT NULL") == 199
    failures = db.execute("SELECT key, code, error, attempts FROM embed.failures").fetchall()
    assert [(key, code, attempts) for key, code, _, attempts in failures] == [("77", "PE021", 1)]
    assert "the input is not acceptable" in failures[0][2]


def test_2_rows_deleted_before_the_worker_comes_do_not_end_a_pass_early(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(docs, *(f"text {number}" for number in range(5_000)))
    docs.execute("DELETE FROM docs WHERE id <= 4000")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(*) FROM docs WHERE embedding IS NOT NULL") == 1_000
    assert value(docs, "SELECT count(*) FROM embed._queue") == 0
    assert broken_rows(docs) == []


def test_3_vectors_of_a_renamed_column_stay_and_are_renewed(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    insert_docs(docs, "one", "two")
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("ALTER TABLE docs RENAME COLUMN body TO content")
    assert broken_rows(docs, text="content") == []
    docs.execute("UPDATE docs SET content = 'renewed' WHERE id = 2")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="content") == []
    assert value(docs, "SELECT embedding = %s::halfvec FROM docs WHERE id = 2", vector("renewed")) is True


def test_4_a_renamed_table_goes_on_being_embedded(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    insert_docs(docs, "one")
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("ALTER TABLE docs RENAME TO papers")
    docs.execute("INSERT INTO papers (id, body) VALUES (2, 'two')")
    docs.execute("UPDATE papers SET body = 'one, again' WHERE id = 1")
    docs.execute("SELECT embed.wait('papers')")
    assert broken_rows(docs, table="papers") == []


def test_5_embed_works_on_a_server_without_plpython(
    docs: Connection, dsn: str, start_worker: StartWorker, serve_folder: Path
) -> None:
    available = docs.execute("SELECT name FROM pg_available_extensions WHERE name = 'plpython3u'").fetchall()
    assert available == []
    start_worker(dsn)
    insert_docs(docs, "the question itself", "something else")
    docs.execute("SELECT embed.wait('docs')")
    place = spool_place(dsn, serve_folder)
    with with_transport(place), place.sidecar():
        nearest = value(
            docs, "SELECT id FROM docs ORDER BY embedding <=> embed('the question itself') LIMIT 1"
        )
    assert nearest == 1


def test_6_an_update_of_an_unrelated_column_enqueues_nothing(docs: Connection) -> None:
    insert_docs(docs, "one", "two")
    clear_queue(docs)
    docs.execute("UPDATE docs SET title = 'another title'")
    docs.execute("UPDATE docs SET body = body")
    assert queued(docs) == []


def test_7_large_batches_with_ten_workers_need_no_more_locks_than_any_server_has(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    assert value(docs, "SHOW max_locks_per_transaction") == LOCKS_BY_DEFAULT
    insert_docs(docs, *(f"text {number}" for number in range(30_000)))
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda _: start_worker(dsn, batch_rows=2_048, connections=3), range(WORKERS)))
        with psycopg.connect(dsn, autocommit=True) as waiting:
            waiting.execute("SELECT embed.wait('docs', '2 minutes')")
    assert broken_rows(docs) == []
