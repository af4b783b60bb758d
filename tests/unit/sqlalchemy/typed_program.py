"""A user's program, for mypy alone: see test_typing.py. A comment that ignores nothing is an error there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from pgvector import SparseVector
from sqlalchemy import Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, aliased, mapped_column

from pg_embed import AsyncClient, Client
from pg_embed.search import Hit
from pg_embed.sqlalchemy import (
    Chunk,
    chunk_class,
    chunked,
    embed,
    embed_with,
    embedded,
    search,
    search_chunks,
)


class Base(DeclarativeBase): ...


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{body}", model="bge-m3", deferred=True)
    words: Mapped[SparseVector | None] = embedded("{body}", model="bm25", output="sparse")
    chunks: Mapped[list[Chunk]] = chunked("{body}", model="bge-m3", lazy="selectin")


class Record(MappedAsDataclass, Base):
    __tablename__ = "records"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{body}", model="bge-m3", init=False)


DocChunk = chunk_class(Doc.chunks)


def searches(session: Session) -> None:
    for doc, score, *ranks in session.execute(search(Doc, "money back", k=3).where(Doc.id > 1)).tuples():
        assert_type(doc, Doc)
        assert_type(score, float)
        print(ranks)
    Other = aliased(Doc)
    row = session.execute(search(Other, bindparam("query"), k=bindparam("k"), mode="dense")).one()
    assert_type(row[0], Doc)
    assert_type(row[2], int | None)
    assert_type(search(Doc.__table__, "money back"), Select[Any])
    search(Doc, "money back", kk=3)  # type: ignore[call-overload]
    search(Doc, "money back", mode="words")  # type: ignore[call-overload]


def chunks(session: Session, doc: Doc) -> None:
    found = session.execute(search_chunks(Doc, "money back", per_row=2)).tuples().all()
    assert_type(found, Sequence[tuple[Doc, str, float, float | None, int, str]])
    assert_type(doc.chunks[0].chunk, str)
    near = DocChunk.embedding.cosine_distance(embed("money back", "bge-m3"))
    for chunk in session.scalars(select(DocChunk).where(DocChunk.id == doc.id).order_by(near)):
        assert_type(chunk, Chunk)
        assert_type(chunk.chunk_no, int)
        assert_type(chunk.id, Any)


async def later(session: AsyncSession, engine: AsyncEngine) -> None:
    async def vector(text: str, model: str | None, output: str) -> list[float]:
        return [0.0]

    embed_with(engine, vector)
    embed_with(engine, AsyncClient(sidecar="http://127.0.0.1:8089"))
    assert_type((await session.execute(search(Doc, "money back"))).tuples().all()[0][0], Doc)


async def clients(client: Client, later: AsyncClient) -> None:
    assert_type(client.search("docs", "money back", k=3, filter={"lang": "en"}), list[Hit])
    client.search("docs", "money back", kk=3)  # type: ignore[call-arg]
    assert_type(await later.similar("docs", 1, columns=["id"]), list[Hit])
    await later.search("docs", "money back", k="3")  # type: ignore[arg-type]


Record(body="x")
Record("x")
