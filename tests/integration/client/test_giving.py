"""Clients that embed by themselves search databases that have no transport, and find what others find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pg_embed import AsyncClient, Client
from pg_embed.client import requests
from pg_embed.client.rows import Layout, Rows
from pg_embed.errors import (
    InputRejected,
    InvalidArgument,
    PgEmbedError,
    SidecarUnreachable,
    SpaceMismatch,
    TransportMissing,
)
from pg_embed.records import ModelSpec
from pg_embed.resources import sql_dir
from pg_embed.search import Asked, search, search_chunks
from pg_embed.serve.directory import StaticDirectory
from pg_embed.serve.settings import ServeSettings
from tests.fix_pg import MakeRole
from tests.fix_search import OPTIONS, answer, calls, create_docs
from tests.fix_second_server import free_port
from tests.fix_serve import RunningSidecar
from tests.fix_worker import Connection, StartWorker, create_bm25_model, create_fake_model
from tests.sql.helpers import value
from tests.sql.test_rerank import CARD
from tests.sql.test_storage_column import until

QUERY = "quick red fox 7"
OTHER = "lazy house money 3"
THREE = ModelSpec("three", "fake", OPTIONS)
WAYS: list[dict[str, Any]] = [
    {},
    {"mode": "dense"},
    {"mode": "sparse"},
    {"rerank": "multi"},
    {"filter": {"lang": "en"}},
    {"vectorizer": "docs_embedding", "k": 3},
]


def cut_off(db: Connection) -> None:
    """Take the transport away."""
    db.execute((sql_dir() / "transports" / "none.sql").read_text(encoding="utf-8"))


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with dense, sparse and token vectors, and a sidecar that knows two queries."""
    create_docs(db, 200, multi=True)
    answer(db, QUERY, OTHER)
    return db


@contextmanager
def door(*specs: ModelSpec) -> Iterator[str]:
    """The address of a sidecar that has these models."""
    settings = ServeSettings(http_port=free_port())
    with RunningSidecar(settings, directory=StaticDirectory(list(specs), specs[0].name)):
        yield f"http://127.0.0.1:{settings.http_port}"


def ids(hits: list[Any]) -> list[int]:
    return [hit.row["id"] for hit in hits]


def test_a_client_finds_by_its_own_vectors_what_the_database_finds(docs: Connection, dsn: str) -> None:
    wanted = [search(docs, "docs", QUERY, **way) for way in WAYS]
    cut_off(docs)
    with pytest.raises(TransportMissing):
        search(docs, "docs", OTHER)
    with Client(dsn, in_process=True) as client:
        for way, hits in zip(WAYS, wanted, strict=True):
            found = client.search("docs", QUERY, **way)
            assert ids(found) == ids(hits)
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-3)
        with client.connection() as connection:
            assert value(connection, "SELECT current_setting('embed_memo.given', true)") == ""
            with pytest.raises(TransportMissing, match="no transport"):
                search(connection, "docs", QUERY)


async def test_an_asynchronous_client_too(docs: Connection, dsn: str) -> None:
    wanted = [ids(search(docs, "docs", QUERY, **way)) for way in WAYS]
    cut_off(docs)
    async with (
        AsyncConnectionPool(dsn, min_size=1, max_size=1) as pool,
        AsyncClient(dsn, in_process=True) as client,
        AsyncClient(pool, in_process=True, timeout=20) as pooled,
    ):
        assert [ids(await client.search("docs", QUERY, **way)) for way in WAYS] == wanted
        assert [ids(await pooled.search("docs", QUERY, **way)) for way in WAYS] == wanted


async def test_a_sidecar_s_door_gives_the_dense_vectors(docs: Connection, dsn: str) -> None:
    wanted = ids(search(docs, "docs", QUERY, mode="dense"))
    cut_off(docs)
    with door(THREE) as address:
        with Client(dsn, sidecar=address) as client:
            assert ids(client.search("docs", QUERY, mode="dense")) == wanted
            with pytest.raises(InvalidArgument, match="no sparse vectors") as caught:
                client.search("docs", QUERY)
            assert "mode='dense'" in str(caught.value.hint)
        async with AsyncClient(dsn, sidecar=address) as later:
            assert ids(await later.search("docs", QUERY, mode="dense")) == wanted


def test_the_words_of_bm25_are_counted_here_beside_a_sidecar(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    spec = ModelSpec("plain", "fake", {"dimensions": 8})
    create_fake_model(db, "plain", dimensions=8)
    create_bm25_model(db)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'a quick red fox'), (2, 'a lazy dog'), (3, 'money back')")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'plain', sparse => 'bm25',"
        " sparse_column => 'words')"
    )
    db.execute("SELECT embed.create_postings('docs')")
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    with door(spec) as address, Client(dsn, sidecar=address) as client:
        hits = client.search("docs", "lazy dogs")
        assert hits[0].row["id"] == 2
        assert hits[0].sparse_score is not None
        assert hits[0].sparse_score > 0
        assert client.search("docs", "quick foxes", mode="sparse", k=1)[0].row["id"] == 1


def test_chunks(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db, "three", **OPTIONS)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', sparse_column => 'words',"
        " storage => 'table', chunking => %s)",
        [Jsonb({"size": 16, "overlap": 0})],
    )
    db.execute("INSERT INTO docs VALUES (1, %s), (2, 'a lazy dog')", ["red fox. " * 8 + "money back."])
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    with pytest.raises(TransportMissing):
        search_chunks(db, "docs", "red fox")
    with Client(dsn, in_process=True) as client:
        for way in ({}, {"mode": "dense"}, {"mode": "sparse"}):
            found = client.search_chunks("docs", "red fox", per_row=2, **way)
            assert found[0].row["id"] == 1
            assert "red fox" in found[0].chunk
            assert len([hit for hit in found if hit.row["id"] == 1]) == 2


def test_no_vector_serves_another_text_or_model(docs: Connection, dsn: str) -> None:
    wanted = {query: ids(search(docs, "docs", query)) for query in (QUERY, OTHER)}
    assert wanted[QUERY] != wanted[OTHER]
    cut_off(docs)
    with psycopg.connect(dsn) as connection:
        client = Client(connection, in_process=True)
        for query in (QUERY, OTHER, QUERY):
            assert ids(client.search("docs", query)) == wanted[query]
        with pytest.raises(TransportMissing), connection.transaction():
            search(connection, "docs", f"{QUERY} ")
        create_fake_model(docs, "second", **OPTIONS, query_prompt="q: ")
        statement = "SELECT embed.embed(%s, %s)"
        assert value(connection, statement, QUERY, "three")
        with pytest.raises(psycopg.Error, match="no transport"):
            connection.execute(statement, [QUERY, "second"])
        connection.rollback()
        with pytest.raises(TransportMissing):
            search(connection, "docs", QUERY)
        client.close()


def test_models_may_be_switched_while_the_query_is_embedded(
    db: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_fake_model(db, "first", dimensions=8)
    create_fake_model(db, "second", dimensions=5)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'a quick red fox'), (2, 'a lazy dog'), (3, 'money back')")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'first', column_type => 'vector')")
    start_worker(dsn, {}, index_every=0.02, switch_every=0.02)
    db.execute("SELECT embed.wait('docs')")
    asked: list[str] = []

    def meanwhile(asked_for: Asked, query: str, vectors: Any) -> dict[str, str]:
        if asked == ["first"]:
            db.execute("SELECT embed.finish_switch('docs')")
        asked.append(asked_for.spec.name)
        return requests.answered(asked_for, query, vectors)

    monkeypatch.setattr("pg_embed.client.client.answered", meanwhile)
    with Client(dsn, in_process=True) as client:
        assert ids(client.search("docs", "a lazy dog", k=1)) == [2]
        db.execute("SELECT embed.switch_model('docs', 'second')")
        until(lambda: value(db, "SELECT state FROM embed.switches") == "ready", "a switch that is ready")
        assert ids(client.search("docs", "a lazy dog", k=1)) == [2]
        assert asked == ["first", "first", "second"]
        assert value(db, "SELECT vector_dims(embedding) FROM docs LIMIT 1") == 5


def test_a_transport_is_not_asked_by_a_client_that_embeds(docs: Connection, dsn: str) -> None:
    before = calls(docs)
    with ConnectionPool(dsn, min_size=1, max_size=1) as pool, Client(pool, in_process=True) as client:
        found = ids(client.search("docs", QUERY))
    assert calls(docs) == before
    assert found == ids(search(docs, "docs", QUERY))


def test_errors_are_plain(docs: Connection, dsn: str) -> None:
    cut_off(docs)
    with Client(dsn, in_process=True) as client:
        with pytest.raises(InvalidArgument, match='there is no table "nothing"'):
            client.search("nothing", QUERY)
        with pytest.raises(InvalidArgument, match="no mode"):
            client.search("docs", QUERY, mode="other")  # type: ignore[arg-type]
        docs.execute("SELECT embed.create_model('judge', 'fake_reranker', card => %s)", [Jsonb(CARD)])
        with pytest.raises(TransportMissing) as caught:
            client.search("docs", QUERY, rerank="judge")
        assert "leave rerank out" in str(caught.value.hint)
        docs.execute("UPDATE embed._model SET space_id = 'of another time' WHERE name = 'three'")
        with pytest.raises(SpaceMismatch, match="three"):
            client.search("docs", QUERY)


async def test_a_model_that_fails_says_so(db: Connection, dsn: str) -> None:
    create_fake_model(db, "failing", dimensions=4, fail_on="poison")
    card = {**CARD, "outputs": ["dense"], "dimensions": 4}
    db.execute("SELECT embed.create_model('gone', 'no_such_family', card => %s)", [Jsonb(card)])
    for table, model in (("docs", "failing"), ("other", "gone")):
        db.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, body text)".encode())
        db.execute("SELECT embed.create_vectorizer(%s::regclass, 'body', model => %s)", [table, model])
    with Client(dsn, in_process=True) as client:
        with pytest.raises(InputRejected):
            client.search("docs", "poison")
        with pytest.raises(PgEmbedError, match="no_such_family"):
            client.search("other", "x")
        assert client.search("docs", "x") == []
    async with AsyncClient(dsn, in_process=True) as later:
        with pytest.raises(InputRejected):
            await later.search("docs", "poison")
        with pytest.raises(PgEmbedError, match="no_such_family"):
            await later.search("other", "x")
    with (
        Client(dsn, sidecar=f"http://127.0.0.1:{free_port()}") as nowhere,
        pytest.raises(SidecarUnreachable, match="cannot be reached"),
    ):
        nowhere.search("docs", "x")


def test_a_reader_s_rights_suffice(docs: Connection, make_role: MakeRole) -> None:
    wanted = ids(search(docs, "docs", QUERY))
    cut_off(docs)
    role = make_role("embed_reader")
    with Client(role.dsn, in_process=True) as client:
        with pytest.raises(Exception, match="permission denied for table docs"):
            client.search("docs", QUERY)
        docs.execute(f'GRANT SELECT ON docs TO "{role.name}"')
        assert ids(client.search("docs", QUERY)) == wanted


def test_the_adapters_rows_are_found_too(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    create_fake_model(db, "three", **OPTIONS)
    db.execute("CREATE TABLE docs (id text PRIMARY KEY, content text, metadata jsonb)")
    db.execute("INSERT INTO docs VALUES ('a', 'a quick red fox', '{}'), ('b', 'a lazy dog', '{}')")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'content', model => 'three', sparse_column => 'words')"
    )
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    layout = Layout("docs", "id", "content", "metadata", ())
    with Client(dsn, in_process=True) as client:
        found = Rows(client, layout, None, None).search("a lazy dog", k=1)
    assert [row.id for row, _ in found] == ["b"]


def test_postgres_checks_what_it_is_given(docs: Connection) -> None:
    space = value(docs, "SELECT space_id FROM embed.models WHERE name = 'three'")
    good = {"query": "x", "model": "three", "space_id": space, "output": "dense", "vector": str([1.0] * 8)}
    docs.execute("SELECT embed._give_vectors_v1(%s, true)", [Jsonb([good])])
    cut_off(docs)
    assert value(docs, "SELECT embed('x')::text") == "[1,1,1,1,1,1,1,1]"
    with docs.transaction():
        docs.execute("SELECT embed._give_vectors_v1('[]')")
        with pytest.raises(psycopg.Error, match="no transport"), docs.transaction():
            docs.execute("SELECT embed('x')")
    for wrong, state in (
        ({"vector": "[1, 2]"}, "PE003"),
        ({"vector": "none"}, "PE003"),
        ({"vector": None}, "PE003"),
        ({"output": "sparse"}, "PE003"),
        ({"output": "sparse", "vector": "{1:1}/999"}, "PE003"),
        ({"output": "multi", "vector": '{"[1]"}'}, "PE003"),
        ({"output": "score"}, "40001"),
        ({"space_id": "another"}, "40001"),
        ({"model": "nothing"}, "40001"),
    ):
        with pytest.raises(psycopg.Error) as caught:
            docs.execute("SELECT embed._give_vectors_v1(%s)", [Jsonb([{**good, **wrong}])])
        assert caught.value.sqlstate == state, wrong
