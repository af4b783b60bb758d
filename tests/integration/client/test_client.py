"""Clients over a real database and a real sidecar: every way to a vector gives the same one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pg_embed import AsyncClient, Client
from pg_embed.errors import (
    DatabaseError,
    InputRejected,
    InvalidArgument,
    NotInstalled,
    SidecarTimeout,
    SidecarUnreachable,
    SpaceMismatch,
    UnknownModel,
    WaitTimeout,
)
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.records import Kind, ModelSpec, SparseVectors, TokenVectors
from pg_embed.search import search, search_chunks
from pg_embed.serve.directory import StaticDirectory
from tests.fix_models import PATIENCE
from tests.fix_second_server import free_port
from tests.fix_serve import Place, spool_place, with_transport
from tests.fix_worker import Connection, StartWorker, create_docs, create_fake_model, insert_docs

ALL = {"dimensions": 4, "sparse_dimensions": 100, "multi_dimensions": 3}
SLOW = {"dimensions": 4, "delay": 3.0}
FAILING = {"dimensions": 4, "fail_on": "poison"}
TEXTS = [f"text {number}" for number in range(300)]  # more than one request's
SPECS = [
    ModelSpec(name, "fake", options) for name, options in (("all", ALL), ("slow", SLOW), ("failing", FAILING))
]
TOKEN = "a secret of the test"


def expected(texts: list[str], kind: Kind = "query") -> Any:
    """What the model itself makes."""
    return FakeEmbedder(FakeOptions(**ALL)).embed(texts, kind)


def address(place: Place) -> str:
    """Of the sidecar's HTTP door."""
    return f"http://127.0.0.1:{place.serve.http_port}"


@pytest.fixture
def served(dsn: str, db: Connection, serve_folder: Path) -> Iterator[Place]:
    """A database with a transport, and its sidecar with an HTTP door."""
    for spec in SPECS:
        create_fake_model(db, spec.name, **spec.options)
    db.execute("SELECT embed.alter_model('all', is_default => true)")
    found = spool_place(dsn, serve_folder)
    place = replace(found, serve=replace(found.serve, http_port=free_port(), http_token=TOKEN))
    with with_transport(place), place.sidecar(directory=StaticDirectory(SPECS, "all")):
        yield place


def test_every_way_gives_the_models_own_vectors(served: Place) -> None:
    wanted = expected(TEXTS)
    for client in (
        Client(served.dsn),
        Client(served.dsn, in_process=True),
        Client(in_process=True, models=SPECS[:1]),
        Client(sidecar=address(served), token=TOKEN),
        Client(sidecar=f"{address(served)}/v1/", token=TOKEN),
    ):
        with client:
            for model in (None, "all"):
                found = client.embed(TEXTS, model)
                assert found.dtype == np.float32
                np.testing.assert_array_equal(found, wanted.dense)
            assert len(client.embed([])) == 0


async def test_every_way_gives_the_models_own_vectors_asynchronously(served: Place) -> None:
    wanted = expected(TEXTS)
    for client in (
        AsyncClient(served.dsn),
        AsyncClient(served.dsn, in_process=True),
        AsyncClient(in_process=True, models=SPECS[:1]),
        AsyncClient(sidecar=address(served), token=TOKEN),
    ):
        async with client:
            np.testing.assert_array_equal(await client.embed(TEXTS), wanted.dense)
            assert len(await client.embed([])) == 0


@pytest.mark.parametrize("in_process", [False, True])
def test_sparse_and_token_vectors(served: Place, in_process: bool) -> None:
    texts = ["red fox red", "", "lazy dog"]
    wanted = expected(texts, "document")
    with Client(served.dsn, in_process=in_process) as client:
        sparse = client.embed(texts, "all", "document", output="sparse")
        assert isinstance(sparse, SparseVectors)
        for row in range(len(texts)):
            for mine, theirs in zip(sparse.row(row), wanted.sparse.row(row), strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        tokens = client.embed(texts, "all", "document", output="multi")
        assert isinstance(tokens, TokenVectors)
        for row in range(len(texts)):
            np.testing.assert_allclose(tokens.row(row), wanted.multi.row(row), atol=1e-3)
        assert len(client.embed([], output="sparse")) == 0
        with pytest.raises(InvalidArgument, match="makes no sparse"):
            client.embed(texts, "failing", output="sparse")


def test_prompts_are_those_of_the_kind(served: Place, db: Connection) -> None:
    options = {"dimensions": 4, "query_prompt": "q: ", "document_prompt": "d: "}
    create_fake_model(db, "prompted", **options)
    with Client(served.dsn) as client:
        for kind in ("query", "document"):
            wanted = FakeEmbedder(FakeOptions(dimensions=4)).embed([f"{kind[0]}: x"], "query").dense
            np.testing.assert_array_equal(client.embed(["x"], "prompted", kind), wanted)


def test_errors_say_the_same_by_every_way(served: Place) -> None:
    ways = (
        Client(served.dsn),
        Client(served.dsn, in_process=True),
        Client(sidecar=address(served), token=TOKEN),
    )
    for client in ways:
        with client:
            with pytest.raises(UnknownModel, match="nothing"):
                client.embed(["x"], "nothing")
            with pytest.raises(InputRejected):
                client.embed(["poison"], "failing")
            assert client.embed(["x"], "all").shape == (1, 4), "it goes on after an error"


def test_a_slow_model_is_given_up(served: Place) -> None:
    for client in (
        Client(served.dsn, timeout=0.3),
        Client(served.dsn, in_process=True, timeout=0.3),
        Client(sidecar=address(served), token=TOKEN, timeout=0.3),
    ):
        with client, pytest.raises(SidecarTimeout):
            client.embed(["x"], "slow")


def test_a_model_of_another_space_is_refused_here(served: Place, db: Connection) -> None:
    db.execute("UPDATE embed._model SET space_id = 'another' WHERE name = 'all'")
    with Client(served.dsn, in_process=True) as client, pytest.raises(SpaceMismatch, match="another"):
        client.embed(["x"], "all")


def test_a_sidecar_that_is_not_there(served: Place) -> None:
    with Client(sidecar=f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(SidecarUnreachable, match="cannot be reached") as caught:
            client.embed(["x"])
        assert "pg-embed serve" in (caught.value.hint or "")
    with Client(sidecar=address(served), token="wrong") as client:
        with pytest.raises(Exception, match="bearer token") as refused:
            client.embed(["x"])
        assert "wrong" not in str(refused.value).replace("missing or wrong", "")


def test_rows_from_nothing_to_found(served: Place, start_worker: StartWorker, db: Connection) -> None:
    create_docs(db, "red fox", "green dog", "blue cat")
    with Client(served.dsn) as client:
        assert client.vectorize("docs", "body", model="all", sparse_column="words") == "docs_embedding"
        (before,) = client.status("docs")
        assert (before.vectorizer, before.table, before.model) == ("docs_embedding", "docs", "all")
        with pytest.raises(WaitTimeout, match=r"no worker|not embedded"):
            client.wait("docs", timeout=0.05)
        start_worker(served.dsn)
        client.wait("docs", timeout=30)
        assert [row.vectorizer for row in client.status()] == ["docs_embedding"]
        assert (client.status("docs")[0].pending, client.status("docs")[0].in_flight) == (0, 0)
        hits = client.search("docs", "red fox", k=2, filter={"id": [1, 3]})
        assert [hit.row["id"] for hit in hits] == [1, 3]
        assert hits == search(db, "docs", "red fox", k=2, filter={"id": [1, 3]})
        assert {hit.row["id"] for hit in client.similar("docs", 1)} == {2, 3}
        with pytest.raises(InvalidArgument, match="belongs to a vectorizer"):
            client.vectorize("docs", template="{title}: {body}", model="all")
        assert client.vectorize("docs", "body", model="all", if_not_exists=True) == "docs_embedding"


async def test_long_texts_in_chunks(served: Place, start_worker: StartWorker, db: Connection) -> None:
    create_docs(db, "red fox. " * 20, "green dog")
    start_worker(served.dsn)
    with Client(served.dsn) as client:
        chunking = {"size": 16, "overlap": 0}
        client.vectorize("docs", "body", model="all", storage="table", chunking=chunking)
        client.wait("docs", timeout=30)
        assert [hit.row["id"] for hit in client.search("docs", "green dog", k=1)] == [2]
        hits = client.search_chunks("docs", "green dog", k=2, per_row=2)
        assert hits == search_chunks(db, "docs", "green dog", k=2, per_row=2)
        assert [hit.row["id"] for hit in hits] == [2, 1, 1]
        assert hits[0].chunk == "green dog"
        assert all("red fox" in hit.chunk for hit in hits[1:])
        assert [hit.row["id"] for hit in client.similar("docs", 1)] == [2]
    async with AsyncClient(served.dsn) as asynchronous:
        assert await asynchronous.search_chunks("docs", "green dog", k=2, per_row=2) == hits
    row = db.execute("SELECT count(*) > 3 FROM docs_embedding").fetchone()
    assert row == (True,)


async def test_rows_from_nothing_to_found_asynchronously(
    served: Place, start_worker: StartWorker, db: Connection
) -> None:
    create_docs(db, "red fox", "green dog")
    start_worker(served.dsn)
    async with AsyncClient(served.dsn, timeout=20) as client:
        await client.vectorize("docs", template="{body}", model="all", name="mine", sparse_column="words")
        await client.wait("docs", timeout=30)
        assert [row.vectorizer for row in await client.status()] == ["mine"]
        hits = await client.search("docs", "red fox", k=1)
        assert hits == search(db, "docs", "red fox", k=1)
        assert [hit.row["id"] for hit in await client.similar("docs", 1)] == [2]


def test_a_callers_connection_stays_theirs(served: Place, db: Connection) -> None:
    create_docs(db, "red fox")
    with psycopg.connect(served.dsn, row_factory=dict_row) as theirs:
        with Client(theirs, timeout=25) as client, theirs.transaction():
            theirs.execute("SET LOCAL embed.timeout = 7")
            assert client.embed(["x"]).shape == (1, 4)
            row = theirs.execute("SELECT current_setting('embed.timeout') AS now").fetchone()
            assert row == {"now": "7"}, "it is as it was"
            client.vectorize("docs", "body", model="all")
            raise psycopg.Rollback
        assert not theirs.closed
        assert Client(theirs).status() == [], "it was rolled back with their transaction"


async def test_pools(served: Place) -> None:
    with ConnectionPool(served.dsn, min_size=1, max_size=2) as pool:
        found: list[Any] = []
        client = Client(pool, timeout=20)
        threads = [threading.Thread(target=lambda: found.append(client.embed(["x"]))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for vectors in found:
            np.testing.assert_array_equal(vectors, expected(["x"]).dense)
        assert len(found) == 4
    async with AsyncConnectionPool(served.dsn, min_size=1, max_size=2) as async_pool:
        vectors = await AsyncClient(async_pool).embed(["x"])
        np.testing.assert_array_equal(vectors, expected(["x"]).dense)


def end_sessions(db: Connection) -> None:
    """End the clients' sessions, and wait until they are gone."""
    db.execute(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
        " WHERE application_name = 'pg_embed' AND datname = current_database()"
    )


async def waiting(db: Connection) -> None:
    """Until a session waits for rows to be embedded."""
    asked = "SELECT FROM pg_stat_activity WHERE query LIKE '%embed.wait(%' AND pid <> pg_backend_pid()"
    async with asyncio.timeout(PATIENCE):
        while not db.execute(asked).fetchall():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


async def test_a_connection_that_was_lost_while_idle_is_made_anew(served: Place, db: Connection) -> None:
    with Client(served.dsn) as client:
        for _ in range(2):
            assert client.status() == []
            end_sessions(db)
    async with AsyncClient(served.dsn) as client:
        for _ in range(2):
            assert await client.status() == []
            end_sessions(db)


def test_a_connection_that_is_lost_in_the_middle_is_told_and_made_anew(served: Place, db: Connection) -> None:
    def lose(client: Client) -> None:
        with client.connection() as connection, connection.transaction():
            connection.execute("SELECT 1")
            end_sessions(db)
            connection.execute("SELECT 1")

    with Client(served.dsn) as client:
        with pytest.raises(DatabaseError):
            lose(client)
        assert client.status() == []


async def test_who_waits_keeps_nobody_from_asking(served: Place, db: Connection) -> None:
    create_docs(db, "red fox")
    with Client(served.dsn) as client:
        client.vectorize("docs", "body", model="all")
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                client.wait("docs", 30)
            except DatabaseError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        await waiting(db)
        assert len(client.status("docs")) == 1
        end_sessions(db)
        thread.join()
        assert len(errors) == 1, "it was still waiting"
    async with AsyncClient(served.dsn) as client:
        task = asyncio.create_task(client.wait("docs", 30))
        await waiting(db)
        assert len(await client.status("docs")) == 1
        end_sessions(db)
        with pytest.raises(DatabaseError):
            await task


def test_a_process_that_forks_leaves_its_parents_connections_alone(served: Place) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("forking.py"), served.dsn],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["parent"] == told["after"] == told["before"]
    assert len(told["child"]) == 1
    assert told["child"] != told["parent"]
    assert told["childs_vectors"] == told["vectors"]


def test_a_database_with_nothing_installed(bare_dsn: str) -> None:
    with Client(bare_dsn) as client, pytest.raises(NotInstalled):
        client.embed(["x"])
    with Client("postgresql://nobody@127.0.0.1:1/none") as client, pytest.raises(DatabaseError):
        client.status()


def test_a_reader_may_embed_search_and_look(served: Place, make_role: Any, db: Connection) -> None:
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'all')")
    insert_docs(db, "red fox")
    reader = make_role("embed_reader")
    with Client(reader.dsn) as client:
        np.testing.assert_array_equal(client.embed(["x"]), expected(["x"]).dense)
        assert client.status("docs")[0].pending == 1
    with Client(reader.dsn, in_process=True) as client:
        np.testing.assert_array_equal(client.embed(["x"]), expected(["x"]).dense)
