"""embed() of SQLAlchemy: by the model of the column beside it, once for a statement, by the index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pgvector import SparseVector
from pgvector.sqlalchemy import HALFVEC, SPARSEVEC, VECTOR
from sqlalchemy import Engine, bindparam, event, func, select, text, type_coerce
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from pg_embed import AsyncClient, Client
from pg_embed.errors import InvalidArgument
from pg_embed.records import ModelSpec
from pg_embed.sqlalchemy import embed, embed_with, embedded, search
from tests.fix_search import OPTIONS, answer, calls, create_docs, embeddings, literals
from tests.fix_worker import Connection, create_fake_model

QUERY = "quick red fox 7"
OTHER = "lazy blue dog"


class Base(DeclarativeBase):
    pass


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    lang: Mapped[str | None]
    body: Mapped[str | None]
    embedding: Mapped[Any] = embedded("{body}", model="three", dimensions=8, column_type="vector")
    words: Mapped[Any] = embedded("{body}", model="three", dimensions=1_000, output="sparse")


class Plain(Base):
    __tablename__ = "docs"
    __table_args__ = ({"schema": "public"},)
    id: Mapped[int] = mapped_column(primary_key=True)
    embedding: Mapped[Any] = mapped_column(VECTOR(8))
    words: Mapped[Any] = mapped_column(SPARSEVEC(1_000))


NEAREST = select(Doc.id).order_by(Doc.embedding.cosine_distance(embed(QUERY))).limit(5)


@pytest.fixture
def docs(db: Connection) -> Connection:
    create_docs(db, 300)
    answer(db, QUERY, OTHER)
    return db


@pytest.fixture
def session(docs: Connection, engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def nearest(db: Connection, expression: str) -> list[int]:
    return [row[0] for row in db.execute(f"SELECT id FROM docs ORDER BY {expression} LIMIT 5".encode())]


def test_a_query_is_compared_as_in_sql(docs: Connection, session: Session) -> None:
    wanted = nearest(docs, f"embedding <=> embed('{QUERY}')")
    sparse = nearest(docs, f"words <#> embed_sparse('{QUERY}')")
    other = aliased(Doc)
    inner = select(Doc).subquery()
    for statement in (
        NEAREST,
        select(other.id).order_by(other.embedding.cosine_distance(embed(QUERY))).limit(5),
        select(inner.c.id).order_by(inner.c.embedding.cosine_distance(embed(QUERY))).limit(5),
        select(Plain.id).order_by(Plain.embedding.cosine_distance(embed(QUERY))).limit(5),
        select(Doc.id).order_by(Doc.embedding.cosine_distance(embed(QUERY, "three"))).limit(5),
        select(Doc.id).order_by(Doc.embedding.cosine_distance(embed(bindparam("q", QUERY)))).limit(5),
    ):
        assert list(session.scalars(statement)) == wanted
    for column in (Doc.words, Plain.words):
        ordered = select(Doc.id).where(Doc.id == Plain.id).order_by(column.max_inner_product(embed(QUERY)))
        assert list(session.scalars(ordered.limit(5))) == sparse


def test_the_index_is_used_and_the_model_asked_once(docs: Connection, session: Session) -> None:
    docs.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_cosine_ops); ANALYZE docs")
    session.execute(text("SET enable_seqscan = off"))
    compiled = NEAREST.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
    plan = "\n".join(session.connection().exec_driver_sql(f"EXPLAIN {compiled}").scalars())
    assert "Index Scan using docs_hnsw" in plan
    before = calls(docs)
    assert len(session.scalars(NEAREST).all()) == 5
    session.execute(text("SET enable_indexscan = off; SET enable_seqscan = on"))
    assert len(session.scalars(NEAREST.add_columns(Doc.body)).all()) == 5
    assert calls(docs) - before <= 1


def test_the_model_is_the_one_that_fills_the_column_now(docs: Connection, session: Session) -> None:
    create_fake_model(docs, "second", **{**OPTIONS, "dimensions": 3})
    docs.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('others', 'body', model => 'second')")
    with pytest.raises(DBAPIError, match="several models"):
        session.scalars(select(Plain.id).order_by(Plain.embedding.cosine_distance(embed(QUERY)))).all()
    session.rollback()
    assert list(session.scalars(NEAREST)) == nearest(docs, f"embedding <=> embed('{QUERY}', 'three')")
    session.rollback()
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    with pytest.raises(DBAPIError, match="no vectorizer fills column embedding"):
        session.scalars(NEAREST).all()
    session.rollback()
    docs.execute("SELECT embed.drop_vectorizer('others'); ALTER TABLE docs DROP embedding")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'second')")
    docs.execute("UPDATE docs SET embedding = format('[1,%s,2]', id)::halfvec")
    docs.execute("INSERT INTO embed.answers VALUES ('third', 'dense', '[1,40,2]')")
    third = select(Doc.id).order_by(Doc.embedding.l2_distance(embed("third"))).limit(3)
    assert session.scalars(third).first() == 40


def test_a_condition_with_a_query_holds_within_a_search(docs: Connection, session: Session) -> None:
    distance = Doc.embedding.cosine_distance(embed(OTHER))
    near = session.scalars(select(Doc.id).where(distance < 0.4)).all()
    assert 0 < len(near) < 200
    hits = session.scalars(search(Doc, QUERY, k=5, mode="dense").where(distance < 0.4)).all()
    every = session.scalars(search(Doc, QUERY, k=300, mode="dense").where(distance < 0.4)).all()
    assert {hit.id for hit in every} == set(near)
    assert list(hits) == list(every)[:5]
    assert len(hits) == 5


def test_a_client_s_query_holds_within_a_search_too(
    docs: Connection, session: Session, engine: Engine
) -> None:
    distance = Doc.embedding.cosine_distance(embed(OTHER))
    statement = search(Doc, QUERY, k=5).where(distance < 0.4, Doc.lang == "en")
    wanted = [hit.id for hit in session.scalars(statement)]
    asked: list[tuple[Any, ...]] = []
    embed_with(engine, client(asked))
    assert [hit.id for hit in session.scalars(statement)] == wanted
    assert len(wanted) == 5
    assert set(asked) == {(OTHER, "three", "dense"), (QUERY, "three", "dense"), (QUERY, "three", "sparse")}


def client(asked: list[tuple[Any, ...]]) -> Any:
    """Embeds by the fake model in this process."""

    def embed_text(text: str, model: str | None, output: str) -> Any:
        asked.append((text, model, output))
        made = embeddings([text])
        if output == "dense":
            return made.dense[0]
        assert made.sparse is not None
        indices, values = made.sparse.row(0)
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return SparseVector(dict(pairs), OPTIONS["sparse_dimensions"])

    return embed_text


def test_a_client_embeds_where_the_database_cannot(
    docs: Connection, session: Session, engine: Engine
) -> None:
    wanted = nearest(docs, f"embedding <=> embed('{QUERY}')")
    sparse = nearest(docs, f"words <#> embed_sparse('{QUERY}')")
    before = calls(docs)
    asked: list[tuple[Any, ...]] = []
    assert list(session.scalars(NEAREST)) == wanted
    embed_with(engine, client(asked))
    sent: list[Any] = []
    event.listen(engine, "before_cursor_execute", lambda *told: sent.append(told[2:4]))
    assert list(session.scalars(NEAREST)) == wanted
    by_words = select(Doc.id).order_by(Doc.words.max_inner_product(embed(QUERY))).limit(5)
    assert list(session.scalars(by_words)) == sparse
    for model in ("a", "b"):
        distance = Doc.embedding.cosine_distance(embed(OTHER, model))
        assert session.scalar(select(func.count()).where(distance < 0.4))
    assert asked == [
        (QUERY, "three", "dense"),
        (QUERY, "three", "sparse"),
        (OTHER, "a", "dense"),
        (OTHER, "b", "dense"),
    ]
    assert calls(docs) - before <= 1
    assert not any("embed.embed" in statement for statement, _ in sent)
    assert QUERY not in str(sent)
    with pytest.raises(InvalidArgument, match="stands in the database"):
        session.scalars(select(Doc.id).order_by(Doc.embedding.cosine_distance(embed(Doc.body)))).all()
    embed_with(engine, None)
    assert list(session.scalars(NEAREST)) == wanted


async def test_a_client_may_be_asynchronous(docs: Connection, async_engine: AsyncEngine) -> None:
    asked: list[tuple[Any, ...]] = []
    plain = client(asked)

    async def embed_text(*question: Any) -> Any:
        return plain(*question)

    embed_with(async_engine, embed_text)
    async with AsyncSession(async_engine) as session:
        found = list(await session.scalars(NEAREST))
    assert found == nearest(docs, f"embedding <=> '{literals([QUERY])[0]['dense']}'")
    assert asked == [(QUERY, "three", "dense")]


async def test_our_clients_embed_too(
    docs: Connection, session: Session, engine: Engine, async_engine: AsyncEngine
) -> None:
    by_words = select(Doc.id).order_by(Doc.words.max_inner_product(embed(QUERY))).limit(5)
    wanted = [list(session.scalars(statement)) for statement in (NEAREST, by_words)]
    before = calls(docs)
    models = [ModelSpec("three", "fake", OPTIONS)]
    with Client(in_process=True, models=models) as plain:
        embed_with(engine, plain)
        assert [list(session.scalars(statement)) for statement in (NEAREST, by_words)] == wanted
    async with (
        AsyncClient(in_process=True, models=models) as later,
        AsyncSession(async_engine) as asynchronous,
    ):
        embed_with(async_engine, later)
        found = [list(await asynchronous.scalars(statement)) for statement in (NEAREST, by_words)]
        assert found == wanted
        with pytest.raises(InvalidArgument, match="asynchronous engine"):
            embed_with(engine, later)
    assert calls(docs) == before
    with pytest.raises(InvalidArgument, match="makes no vectors"):
        embed_with(engine, "http://127.0.0.1:8089")  # type: ignore[arg-type]


def test_texts_of_rows_are_embedded_by_the_database(docs: Connection, session: Session) -> None:
    answer(docs, *[row[0] for row in docs.execute("SELECT body FROM docs WHERE id < 3").fetchall()])
    other = aliased(Doc)
    pairs = session.execute(
        select(Doc.id, other.embedding.cosine_distance(embed(Doc.body)))
        .where(Doc.id == other.id, Doc.id < 3)
        .order_by(Doc.id)
    ).all()
    assert [row[0] for row in pairs] == [0, 1, 2]
    assert all(row[1] == pytest.approx(0, abs=1e-6) for row in pairs)


def test_a_query_alone_has_the_form_of_a_vector(session: Session) -> None:
    vector = session.scalar(select(type_coerce(embed(QUERY), VECTOR)))
    assert list(vector) == pytest.approx(embeddings([QUERY]).dense[0].tolist(), abs=1e-6)
    assert isinstance(HALFVEC(3).compile(session.get_bind().dialect), str)
