"""search() where the database has no transport: the client of embed_with makes the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pgvector import SparseVector
from sqlalchemy import (
    Engine,
    MetaData,
    Table,
    bindparam,
    create_engine,
    event,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pg_embed import AsyncClient, Client
from pg_embed.errors import InvalidArgument
from pg_embed.records import ModelSpec
from pg_embed.resources import sql_dir
from pg_embed.sqlalchemy import embed_with, search, search_chunks
from tests.fix_search import OPTIONS, answer, calls, create_docs, embeddings, vectorize
from tests.fix_worker import Connection, StartWorker, create_fake_model

QUERY = "quick red fox 7"
OTHER = "lazy house money 3"
LEFT = text("SELECT current_setting('embed_memo.given', true)")
MODELS = [ModelSpec("three", "fake", OPTIONS)]


class Base(DeclarativeBase): ...


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    lang: Mapped[str | None]
    year: Mapped[int]


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with dense, sparse and token vectors; a sidecar that knows the queries is taken away."""
    create_docs(db, 200, multi=True)
    answer(db, QUERY, OTHER)
    return db


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session of the ORM."""
    with Session(engine) as session:
        yield session


def cut_off(db: Connection) -> None:
    """Take the transport away."""
    db.execute((sql_dir() / "transports" / "none.sql").read_text(encoding="utf-8"))


def wanted(db: Connection, query: str = QUERY, more: str = "") -> list[int]:
    """What embed.search gives in SQL, by the transport."""
    found = db.execute(
        f"SELECT (hit).id FROM embed.search(NULL::docs, %s, k => 5{more})".encode(), [query]
    ).fetchall()
    return [row[0] for row in found]


def found(session: Any, statement: Any, *parameters: Any) -> list[int]:
    return [doc.id for doc in session.scalars(statement, *parameters)]


def counting(asked: list[tuple[Any, ...]]) -> Any:
    """Embeds by the fake model in this process."""

    def embed_text(query: str, model: str | None, output: str) -> Any:
        asked.append((query, model, output))
        made = embeddings([query])
        if output == "dense":
            return made.dense[0]
        assert made.multi is not None
        assert made.sparse is not None
        if output == "multi":
            return made.multi.row(0)
        indices, values = made.sparse.row(0)
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return SparseVector(dict(pairs), OPTIONS["sparse_dimensions"])

    return embed_text


def test_what_a_client_embeds_is_found(docs: Connection, session: Session, engine: Engine) -> None:
    ways: list[dict[str, Any]] = [{}, {"mode": "dense"}, {"mode": "sparse"}, {"rerank": "multi"}]
    by_sql = [wanted(docs, more="".join(f", {k} => '{v}'" for k, v in way.items())) for way in ways]
    cut_off(docs)
    with pytest.raises(DBAPIError, match="no transport"):
        found(session, search(Doc, QUERY, k=5))
    session.rollback()
    asked: list[tuple[Any, ...]] = []
    with Client(in_process=True, models=MODELS) as client:
        for given in (client, counting(asked)):
            embed_with(engine, given)
            for _ in range(2):  # the second time from the cache of statements
                assert [found(session, search(Doc, QUERY, k=5, **way)) for way in ways] == by_sql
    assert asked[:2] == [(QUERY, "three", "dense"), (QUERY, "three", "sparse")]
    assert asked.count((QUERY, "three", "multi")) == 2
    session.commit()
    with pytest.raises(DBAPIError, match="no transport"):
        session.execute(text("SELECT embed('quick red fox 7')"))
    session.rollback()
    embed_with(engine, None)
    with pytest.raises(DBAPIError, match="no transport"):
        found(session, search(Doc, QUERY, k=5))


def test_values_are_those_of_the_execution(docs: Connection, session: Session, engine: Engine) -> None:
    by_sql = {query: wanted(docs, query) for query in (QUERY, OTHER)}
    assert by_sql[QUERY] != by_sql[OTHER]
    cut_off(docs)
    asked: list[tuple[Any, ...]] = []
    embed_with(engine, counting(asked))
    find = search(Doc, bindparam("query"), k=5)
    for query in (QUERY, OTHER, QUERY):
        assert found(session, find, {"query": query}) == by_sql[query]
        assert found(session, search(Doc, query, k=5)) == by_sql[query]
    assert found(session, find, {"query": None}) == []
    modes = search(Doc, bindparam("query"), k=5, mode=bindparam("mode"))  # type: ignore[arg-type]
    asked.clear()
    found(session, modes, {"query": OTHER, "mode": "sparse"})
    assert asked == [(OTHER, "three", "sparse")]


def test_several_searches_in_one_statement(docs: Connection, session: Session, engine: Engine) -> None:
    by_sql = sorted(wanted(docs) + wanted(docs, OTHER))
    cut_off(docs)
    asked: list[tuple[Any, ...]] = []
    embed_with(engine, counting(asked))
    parts = [search(Doc, query, k=5).order_by(None).subquery() for query in (QUERY, OTHER, QUERY)]
    chosen = [select(part.c.id) for part in parts]
    assert sorted(session.scalars(union_all(*chosen[:2]))) == by_sql
    assert len(asked) == len(set(asked)) == 4
    asked.clear()
    assert len(session.scalars(union_all(*chosen)).all()) == 15
    assert len(asked) == len(set(asked)) == 4
    assert len(session.scalars(select(Doc.id).where(Doc.id.in_(select(parts[1].c.id)))).all()) == 5


def test_rows_that_come_one_by_one(docs: Connection, session: Session, engine: Engine) -> None:
    by_sql = [wanted(docs), wanted(docs, OTHER)]
    cut_off(docs)
    embed_with(engine, counting([]))
    for query in (QUERY, OTHER):
        slow = session.scalars(search(Doc, query, k=5).execution_options(yield_per=2))
        assert [doc.id for doc in slow] == by_sql[query == OTHER]
    first, second = (
        session.scalars(search(Doc, query, k=5).execution_options(yield_per=2)) for query in (QUERY, OTHER)
    )
    assert [[doc.id for doc in hits] for hits in (first, second)] == by_sql


def test_core_and_a_schema_that_is_translated(docs: Connection, engine: Engine) -> None:
    docs.execute("CREATE SCHEMA shop")
    docs.execute("CREATE TABLE shop.docs AS SELECT id, body, year FROM docs")
    docs.execute("ALTER TABLE shop.docs ADD PRIMARY KEY (id)")
    vectorize(docs, "shop.docs")
    docs.execute(
        "UPDATE shop.docs AS s SET embedding = d.embedding, words = d.words FROM docs AS d WHERE d.id = s.id"
    )
    by_sql = wanted(docs)
    cut_off(docs)
    embed_with(engine, counting([]))
    table = Table("docs", MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        assert [row.id for row in connection.execute(search(table, QUERY, k=5))] == by_sql
    other = table.to_metadata(MetaData(), schema="old")
    statement = search(other, QUERY, k=5).execution_options(schema_translate_map={"old": "public"})
    with engine.connect() as connection:
        assert [row.id for row in connection.execute(statement)] == by_sql


def test_nothing_is_left_for_who_gets_the_connection_next(docs: Connection, dsn: str) -> None:
    cut_off(docs)
    pooled = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), pool_size=1)
    try:
        embed_with(pooled, counting([]))
        with Session(pooled) as session:
            assert len(found(session, search(Doc, QUERY, k=5))) == 5
            assert QUERY in str(session.scalar(LEFT))
        with Session(pooled) as session:
            assert session.scalar(LEFT) == ""
            with pytest.raises(DBAPIError, match="no transport"):
                session.execute(text("SELECT embed('quick red fox 7')"))
    finally:
        pooled.dispose()


def test_without_transactions(docs: Connection, engine: Engine) -> None:
    by_sql = {query: wanted(docs, query) for query in (QUERY, OTHER)}
    cut_off(docs)
    embed_with(engine, counting([]))
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(alone) as session:
        for query in (QUERY, OTHER, QUERY):
            assert found(session, search(Doc, query, k=5)) == by_sql[query]


def test_a_transport_is_not_asked(docs: Connection, session: Session, engine: Engine) -> None:
    by_sql = wanted(docs)
    before = calls(docs)
    embed_with(engine, counting([]))
    assert found(session, search(Doc, QUERY, k=5)) == by_sql
    assert calls(docs) == before
    answer(docs, "in the database")
    in_sql = search(Doc, literal_column("'in ' || 'the database'"), k=5)
    assert len(found(session, in_sql)) == 5
    assert calls(docs) == before + 2


def test_an_engine_without_a_client_sends_nothing_more(
    docs: Connection, session: Session, engine: Engine
) -> None:
    embed_with(engine, counting([]))
    embed_with(engine, None)
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    found(session, search(Doc, QUERY, k=5))
    assert len(sent) == 1
    embed_with(engine, counting([]))
    embed_with(engine, counting([]))
    sent.clear()
    found(session, search(Doc, QUERY, k=5))
    session.scalars(select(Doc).limit(1)).all()
    assert len(sent) == 4


async def test_asynchronously(docs: Connection, async_engine: AsyncEngine) -> None:
    by_sql = [wanted(docs), wanted(docs, OTHER, ", mode => 'dense'")]
    cut_off(docs)
    plain = counting([])

    async def later(*question: Any) -> Any:
        return plain(*question)

    async with AsyncClient(in_process=True, models=MODELS) as client:
        for given in (client, later):
            embed_with(async_engine, given)
            async with AsyncSession(async_engine) as session:
                first = await session.scalars(search(Doc, QUERY, k=5))
                second = await session.scalars(search(Doc, OTHER, k=5, mode="dense"))
                assert [[doc.id for doc in hits] for hits in (first, second)] == by_sql


def test_wrong_vectors_are_refused(docs: Connection, session: Session, engine: Engine) -> None:
    cut_off(docs)
    for wrong, error in (
        ([1.0, 2.0], "expected 8 dimensions, not 2"),
        ("text", "no vector of model 'three'"),
        (None, "no vector of model 'three'"),
        (7, "no vector of model 'three'"),
    ):
        embed_with(engine, lambda *_, wrong=wrong: wrong)
        with pytest.raises((InvalidArgument, DBAPIError), match=error):
            found(session, search(Doc, QUERY, k=5, mode="dense"))
        session.rollback()

    def fails(*_: Any) -> Any:
        raise OSError("the model's file is gone")

    embed_with(engine, fails)
    with pytest.raises(OSError, match="file is gone"):
        found(session, search(Doc, QUERY, k=5))
    session.rollback()
    embed_with(engine, counting([]))
    assert len(found(session, search(Doc, QUERY, k=5))) == 5


def test_chunks(
    db: Connection, dsn: str, session: Session, engine: Engine, start_worker: StartWorker
) -> None:
    create_fake_model(db, "three", **OPTIONS)
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, lang text, year int)")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', sparse_column => 'words',"
        " storage => 'table')"
    )
    db.execute("INSERT INTO docs VALUES (1, 'a quick red fox', NULL, 1), (2, 'a lazy dog', NULL, 2)")
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    embed_with(engine, counting([]))
    for way in ({}, {"mode": "dense"}, {"mode": "sparse"}):
        hits = session.execute(search_chunks(Doc, "a lazy dog", k=1, **way)).all()  # type: ignore[arg-type]
        assert [(hit[0].id, hit.chunk) for hit in hits] == [(2, "a lazy dog")]
