"""Connection poolers: what stays connected needs sessions and says so; applications need none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pg_embed import install as installing
from pg_embed.client import Client
from pg_embed.engine import Engine
from pg_embed.errors import InvalidArgument
from pg_embed.models.registry import default_registry
from pg_embed.worker import Worker
from tests.acceptance.command import pg_embed, succeeds
from tests.fix_pgbouncer import StartPooler
from tests.fix_second_server import SecondServer
from tests.fix_serve import Place, RunningSidecar, dblink_place, with_transport
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import value

pytestmark = pytest.mark.dblink
APPLICATIONS = 8  # connections of applications, more than the pooler has to the server
ROUNDS = 6
WORDS = ["returns", "shipping", "opening hours"]


@pytest.fixture
def direct(dsn15: str, server15: SecondServer) -> str:
    """The database by TCP and with a password, as a pooler reaches it."""
    with psycopg.connect(dsn15) as connection:
        return server15.tcp_dsn(connection.info.dbname)


@pytest.fixture
def docs(direct: str) -> Iterator[Place]:
    """A table with vectors of both kinds to come, and the transport that reaches a sidecar."""
    with psycopg.connect(direct, autocommit=True) as db:
        create_fake_model(db)
        create_bm25_model(db)
        create_docs(db, *WORDS)
        db.execute(
            "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25',"
            " sparse_column => 'words')"
        )
    with with_transport(dblink_place(direct)) as place:
        yield place


def locks(dsn: str) -> Any:
    """How many advisory locks are held in the database."""
    with psycopg.connect(dsn) as db:
        return value(
            db,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )


def settings(dsn: str) -> set[Any]:
    """What the pooler's backends are left with, as an application gets them."""
    shown = "SELECT setting FROM pg_settings WHERE name IN ('statement_timeout', 'jit', 'synchronous_commit')"
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:  # each in a transaction
        return {tuple(db.execute(shown).fetchall()) for db in (first, second)}


@pytest.mark.parametrize("backends", [2, 5])
async def test_a_worker_behind_transaction_pooling_says_what_it_needs(
    direct: str, start_pooler: StartPooler, backends: int
) -> None:
    pooled = start_pooler(direct, "transaction", backends)
    before = settings(pooled)
    engine = Engine(default_registry())
    with pytest.raises(InvalidArgument, match="transaction mode") as caught:
        await Worker(pooled, engine).run()
    await engine.close()
    assert "session mode" in (caught.value.hint or "")
    assert locks(direct) == 0, "a lock left behind in a pooler would pass for a living worker"
    assert settings(pooled) == before


@pytest.mark.parametrize("command", [("worker",), ("serve", "--mailbox"), ("serve", "--no-worker")])
def test_commands_that_stay_refuse_transaction_pooling(
    direct: str, start_pooler: StartPooler, command: tuple[str, ...]
) -> None:
    pooled = start_pooler(direct, "transaction")
    before = settings(pooled)
    done = pg_embed(*command, pooled)
    assert done.returncode == 2, done.stderr
    assert "transaction mode" in done.stderr
    assert "session mode" in done.stderr
    assert locks(direct) == 0
    assert settings(pooled) == before


def test_an_index_is_not_built_behind_transaction_pooling(
    docs: Place, start_pooler: StartPooler, start_worker: StartWorker
) -> None:
    pooled = start_pooler(docs.dsn, "transaction")
    worker = start_worker(docs.dsn)
    with docs.connect() as db:
        db.execute("SELECT embed.wait('docs')")
    worker.stop()
    done = pg_embed("index", "docs", "--kind", "hnsw", "--dsn", pooled)
    assert done.returncode == 2, done.stderr
    assert "transaction mode" in done.stderr
    assert locks(docs.dsn) == 0
    succeeds("index", "docs", "--kind", "hnsw", "--dsn", start_pooler(docs.dsn, "session", 30))


def test_a_worker_works_behind_session_pooling(
    direct: str, start_pooler: StartPooler, start_worker: StartWorker
) -> None:
    pooled = start_pooler(direct, "session", 30)
    with psycopg.connect(direct, autocommit=True) as db:
        create_fake_model(db)
        create_docs(db, *WORDS)
        db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
        start_worker(pooled)
        db.execute("SELECT embed.wait('docs')")
        insert_docs(db, "later")
        db.execute("SELECT embed.wait('docs')")
        assert broken_rows(db, "docs") == []


def test_the_mailbox_is_attended_behind_session_pooling(docs: Place, start_pooler: StartPooler) -> None:
    pooled = start_pooler(docs.dsn, "session", 30)
    with RunningSidecar(dblink_place(pooled).serve), docs.connect() as db:
        assert value(db, "SELECT vector_dims(embed('returns'))") == 4


def test_applications_share_a_few_backends(
    docs: Place, start_pooler: StartPooler, start_worker: StartWorker
) -> None:
    pooled = start_pooler(docs.dsn, "transaction")
    start_worker(docs.dsn)
    with docs.sidecar(), docs.connect() as db:
        db.execute("SELECT embed.wait('docs')")
        expected = {word: answers(db, word) for word in WORDS}
        assert len({vector for vector, _ in expected.values()}) == len(WORDS)
        assert all(word in found[0] for word, (_, found) in expected.items())
        with ThreadPoolExecutor(APPLICATIONS) as pool:
            for found in pool.map(lambda number: asked(pooled, number), range(APPLICATIONS)):
                assert found == [(word, expected[word]) for word, _ in found]
        assert backends(db) <= 2, "the pooler shared its connections"


def asked(dsn: str, number: int) -> list[tuple[str, Any]]:
    """What an application finds that asks now this, now that, each time on whichever backend is free."""
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as db:
        words = [WORDS[(number + turn) % len(WORDS)] for turn in range(ROUNDS)]
        return [(word, answers(db, word)) for word in words]


def answers(db: Connection, word: str) -> tuple[str, list[Any]]:
    """The vector of a query and the best rows, with a setting for one transaction."""
    with db.transaction():
        db.execute("SET LOCAL embed.timeout = '20'")
        vector = value(db, f"SELECT embed('{word}')::text")
        found = db.execute(
            "SELECT (hit).body FROM embed.search(NULL::docs, %s, k => 1) ORDER BY score DESC", [word]
        )
        return vector, [row[0] for row in found]


def backends(db: Connection) -> Any:
    """Clients' connections but this one, the worker's, the sidecar's and the loopbacks."""
    return value(
        db,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend'"
        " AND pid <> pg_backend_pid() AND application_name NOT LIKE 'pg_embed %'",
    )


def test_our_own_client_and_commands_go_through_transaction_pooling(
    docs: Place, start_pooler: StartPooler, start_worker: StartWorker
) -> None:
    pooled = start_pooler(docs.dsn, "transaction")
    start_worker(docs.dsn)
    with docs.sidecar(), Client(pooled) as client, Client(pooled) as other:
        client.wait("docs", timeout=60)
        for word in WORDS * 4:
            assert [hit.row["body"] for hit in client.search("docs", word, k=1)] == [word]
            assert [hit.row["body"] for hit in other.search("docs", word, k=1)] == [word]
        assert "returns" in succeeds("search", "returns", "--table", "docs", "--dsn", pooled)
        assert installing.install(pooled).transport == "dblink"
        assert [hit.row["body"] for hit in client.search("docs", "returns", k=1)] == ["returns"]


def test_who_embeds_by_himself_searches_behind_transaction_pooling(
    direct: str, start_pooler: StartPooler, start_worker: StartWorker
) -> None:
    with psycopg.connect(direct, autocommit=True) as db:
        create_fake_model(db)
        create_docs(db, *WORDS)
        db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
        start_worker(direct)
        db.execute("SELECT embed.wait('docs')")

    def ask(number: int) -> None:
        with Client(pooled, in_process=True) as client:
            for place in range(ROUNDS):
                word = WORDS[(number + place) % len(WORDS)]
                assert client.search("docs", word, k=1)[0].row["body"] == word

    pooled = start_pooler(direct, "transaction", 2)
    with ThreadPoolExecutor(APPLICATIONS) as pool:
        list(pool.map(ask, range(APPLICATIONS)))
    left = "SELECT current_setting('embed_memo.given', true)"
    with psycopg.connect(pooled) as first, psycopg.connect(pooled) as second:  # each in a transaction
        assert {value(first, left), value(second, left)} <= {None, ""}
