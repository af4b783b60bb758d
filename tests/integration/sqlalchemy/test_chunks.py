"""Columns of chunked(): chunks are a relationship, and rows are searched by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import Engine, ForeignKey, MetaData, event, func, inspect, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    aliased,
    configure_mappers,
    contains_eager,
    declared_attr,
    joinedload,
    mapped_column,
    selectinload,
)

from pg_embed.errors import InvalidArgument, PgEmbedError
from pg_embed.sqlalchemy import (
    Chunk,
    Vectorizer,
    chunk_class,
    chunked,
    embed,
    search,
    search_chunks,
    vectorizers,
)
from tests.fix_pg import MakeRole
from tests.fix_search import OPTIONS, answer, calls, embeddings, literals, play_sidecar, texts
from tests.fix_sqlalchemy import engine_for
from tests.fix_worker import Connection

QUERY = "quick red fox 7"
THREE: dict[str, Any] = {
    "model": "three",
    "outputs": ("dense", "sparse", "multi"),
    "dimensions": {"dense": 8, "sparse": OPTIONS["sparse_dimensions"], "multi": 8},
    "column_type": "vector",
}
DENSE: dict[str, Any] = {"model": "three", "dimensions": 8, "column_type": "vector"}


@pytest.fixture
def three(db: Connection) -> Connection:
    """A database whose sidecar knows the query, and the model `three`."""
    play_sidecar(db)
    answer(db, QUERY)
    return db


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    body: Mapped[str]
    lang: Mapped[str]
    chunks: Mapped[list[Chunk]] = chunked("{title}\n{body}", chunking={"size": 64, "overlap": 8}, **THREE)


DocChunk = chunk_class(Doc.chunks)
ROWS, CHUNKS = 30, 80


def write_chunks(
    db: Connection, table: str, columns: str, rows: Sequence[tuple[Any, ...]], given: Sequence[str]
) -> None:
    """Write what a worker would: chunks of rows, told by their keys, and their dense vectors."""
    count = len(rows[0])
    statement = sql.SQL(
        "INSERT INTO {} ({}, chunk_no, chunk, context, chunk_hash, embedding) VALUES ({}, %s, %s, '', 0, %s)"
    ).format(
        sql.SQL(table),  # type: ignore[arg-type]
        sql.SQL(columns),  # type: ignore[arg-type]
        sql.SQL(", ").join([sql.Placeholder()] * count),
    )
    with db.cursor() as cursor:
        for number, (key, chunk, found) in enumerate(zip(rows, given, literals(given), strict=True)):
            cursor.execute(statement, [*key, number, chunk, found["dense"]])


@pytest.fixture
def docs(three: Connection, engine: Engine) -> Connection:
    """`docs` with chunks of all three outputs; of a row they are written in the wrong order."""
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number in range(ROWS):
            session.add(Doc(id=number, title="t", body=f"row {number}", lang=("en", "de")[number % 2]))
        session.commit()
    given = texts(CHUNKS)
    with three.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO docs_embedding"
            " (id, chunk_no, chunk, context, chunk_hash, embedding, sparse, multi)"
            " VALUES (%s, %s, %s, 'above', 0, %s, %s, %s::halfvec[])",
            [
                (number % ROWS, CHUNKS - number, chunk, found["dense"], found["sparse"], found["multi"])
                for number, (chunk, found) in enumerate(zip(given, literals(given), strict=True))
            ],
        )
    three.execute("ANALYZE docs, docs_embedding")
    return three


def in_sql(db: Connection, arguments: str = "", function: str = "search_chunks") -> list[tuple[Any, ...]]:
    told = "chunk, score, chunk_score, chunk_no, context" if function == "search_chunks" else "score"
    statement = f"SELECT (hit).id, {told} FROM embed.{function}(NULL::docs, '{QUERY}'{arguments})"
    return db.execute(statement.encode()).fetchall()


def flat(rows: Sequence[Any]) -> list[Any]:
    return [(row[0].id, *row[1:]) for row in rows]


def test_chunks_come_with_their_table_and_go_with_it(three: Connection, engine: Engine) -> None:
    wanted = Vectorizer(
        "docs",
        None,
        "{title}\n{body}",
        "three",
        dense="embedding",
        sparse="sparse",
        multi="multi",
        column_type="vector",
        chunking='{"overlap": 8, "size": 64}',
        chunk_table="docs_embedding",
        chunk_view="docs_chunks",
    )
    assert vectorizers(Base.metadata) == [wanted]
    assert hash(wanted) == hash(vectorizers(Base.metadata)[0])
    assert list(Base.metadata.tables) == ["docs"]
    for _ in range(2):
        Base.metadata.create_all(engine)
        assert set(inspect(engine).get_table_names()) == {"docs", "docs_embedding"}
        made = three.execute(
            "SELECT name, source::text, template, columns::text, chunk_view::text, chunking ->> 'size'"
            " FROM embed.vectorizers"
        ).fetchall()
        columns = "{embedding,sparse,multi}"
        assert made == [("docs_embedding", "docs", "{title}\n{body}", columns, "docs_chunks", "64")]
        Base.metadata.drop_all(engine)
        assert inspect(engine).get_table_names() == inspect(engine).get_view_names() == []
        assert three.execute("SELECT count(*) FROM embed.vectorizers").fetchone() == (0,)
    Base.metadata.drop_all(engine)


def test_the_types_of_the_view_are_those_of_the_class(docs: Connection, engine: Engine) -> None:
    view = inspect(DocChunk).local_table
    there = {column["name"]: column["type"] for column in inspect(engine).get_columns("docs_embedding")}
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for column in view.columns:
        assert column.type.compile(dialect) == there[column.name].compile(dialect)


def test_chunks_stand_in_the_order_of_the_text(docs: Connection, engine: Engine) -> None:
    given = texts(CHUNKS)
    found = embeddings(given)
    assert found.sparse is not None
    assert found.multi is not None
    with Session(engine) as session:
        for way in (None, selectinload(Doc.chunks), joinedload(Doc.chunks)):
            statement = select(Doc).order_by(Doc.id)
            rows = session.scalars(statement if way is None else statement.options(way)).unique().all()
            assert way is None or all("chunks" in row.__dict__ for row in rows)
            for row in rows:
                own = sorted((number for number in range(CHUNKS) if number % ROWS == row.id), reverse=True)
                assert [chunk.chunk for chunk in row.chunks] == [given[number] for number in own]
                assert [chunk.chunk_no for chunk in row.chunks] == [CHUNKS - number for number in own]
                assert {chunk.context for chunk in row.chunks} == {"above"}
                assert all(chunk.id == row.id and chunk.source is row for chunk in row.chunks)  # type: ignore[attr-defined]
                for chunk, number in zip(row.chunks, own, strict=True):
                    assert list(chunk.embedding) == pytest.approx(list(found.dense[number]), abs=1e-6)
                    assert chunk.sparse.dimensions() == OPTIONS["sparse_dimensions"]
                    assert len(chunk.multi) == len(found.multi.row(number))
                    assert chunk.multi[0] == pytest.approx(list(found.multi.row(number)[0]), abs=2e-3)
            session.expunge_all()
        assert session.get_one(Doc, 0).chunks[0].source.id == 0


async def test_chunks_load_asynchronously(docs: Connection, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        statement = select(Doc).options(selectinload(Doc.chunks)).where(Doc.id == 3)
        eager = (await session.scalars(statement)).one()
        lazy = await session.get_one(Doc, 4)
        assert [chunk.chunk for chunk in eager.chunks] == [texts(CHUNKS)[number] for number in (63, 33, 3)]
        loaded = await lazy.awaitable_attrs.chunks
        assert [chunk.chunk for chunk in loaded] == [texts(CHUNKS)[number] for number in (64, 34, 4)]
        rows = (await session.execute(search_chunks(Doc, QUERY, k=4))).all()
        assert flat(rows) == in_sql(docs, ", k => 4")


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, ""),
        ({"k": 3, "mode": "dense"}, ", k => 3, mode => 'dense'"),
        ({"fusion": "rrf", "weights": (1, 0.5), "mode": "hybrid"}, ", fusion => 'rrf', weights => '{1,0.5}'"),
        ({"mode": "sparse", "min_score": 0.5}, ", mode => 'sparse', min_score => 0.5"),
        ({"filter": {"lang": "de"}, "candidates": 12}, ', filter => \'{"lang": "de"}\', candidates => 12'),
        ({"rerank": "multi", "vectorizer": "docs_embedding"}, ", rerank => 'multi'"),
        (
            {"diversity": 0.4, "skip": 2, "boost": {"id": {"weight": 0.5}}},
            ', diversity => 0.4, skip => 2, boost => \'{"id": {"weight": 0.5}}\'',
        ),
    ],
)
def test_sqlalchemy_and_sql_give_the_same_rows_and_chunks(
    docs: Connection, engine: Engine, options: Any, arguments: str
) -> None:
    with Session(engine) as session:
        rows = session.execute(search(Doc, QUERY, **options)).all()
        assert [(row.Doc.id, row.score) for row in rows] == in_sql(docs, arguments, "search")
        found = session.execute(search_chunks(Doc, QUERY, **options)).all()
        assert flat(found) == in_sql(docs, arguments)
        assert [row.Doc for row in found] == [row.Doc for row in rows]
        several = session.execute(search_chunks(Doc, QUERY, per_row=3, **options)).all()
        assert flat(several) == in_sql(docs, arguments + ", per_row => 3")
        assert len(several) > len(rows)


def test_a_condition_holds_within_a_search_of_chunks(docs: Connection, engine: Engine) -> None:
    wanted = in_sql(docs, ', k => 5, filter => \'{"lang": "de"}\'')
    assert len(wanted) == 5
    with Session(engine) as session:
        statement = search_chunks(Doc, QUERY, k=5)
        for german in (statement.where(Doc.lang == "de"), statement.filter_by(lang="de")):
            assert flat(session.execute(german).all()) == wanted
        other = aliased(Doc)
        rows = session.execute(search_chunks(other, QUERY, k=5).where(other.lang == "de")).all()
        assert flat(rows) == wanted
        eager = session.execute(statement.options(selectinload(Doc.chunks)).limit(2)).all()
        assert all(
            row.chunk == next(own.chunk for own in row.Doc.chunks if own.chunk_no == row.chunk_no)
            for row in eager
        )
        table = inspect(Doc).local_table
        core = session.execute(search_chunks(table, QUERY, k=5).where(table.c.lang == "de")).mappings().all()
        assert [(row["id"], row["chunk"], row["score"]) for row in core] == [row[:3] for row in wanted]
        subquery = statement.subquery()
        assert session.scalar(select(func.count()).select_from(subquery)) == 5


def test_chunks_are_a_class_to_ask_for_and_to_join(docs: Connection, engine: Engine) -> None:
    near = embeddings(texts(CHUNKS)).dense @ embeddings([QUERY]).dense[0]
    with Session(engine) as session:
        ordered = select(DocChunk).order_by(DocChunk.embedding.cosine_distance(embed(QUERY)))
        first = session.scalars(ordered.options(joinedload(DocChunk.source)).limit(3)).all()
        assert [chunk.chunk for chunk in first] == [texts(CHUNKS)[number] for number in (-near).argsort()[:3]]
        assert {type(chunk.source) for chunk in first} == {Doc}
        assert calls(docs) == 1
        starts = DocChunk.chunk.startswith("red ")
        joined = session.scalars(select(Doc.id).join(Doc.chunks).where(starts)).all()
        wanted = [number % ROWS for number, chunk in enumerate(texts(CHUNKS)) if chunk.startswith("red ")]
        assert sorted(joined) == sorted(wanted)
        assert set(session.scalars(select(Doc.id).where(Doc.chunks.any(starts)))) == set(wanted)
        some = select(Doc).join(Doc.chunks).where(starts).options(contains_eager(Doc.chunks))
        assert {chunk.chunk[:4] for row in session.scalars(some).unique() for chunk in row.chunks} == {"red "}


@pytest.mark.parametrize("own", [True, False])
def test_chunks_are_read_by_the_row_s_key(
    docs: Connection, engine: Engine, make_role: MakeRole, own: bool
) -> None:
    role = make_role("embed_reader")
    docs.execute(f'GRANT SELECT ON docs, docs_embedding, docs_chunks TO "{role.name}"')
    docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON docs USING (id < 20)")
    sent: list[str] = []
    with Session(engine if own else engine_for(role.dsn)) as session:
        event.listen(session.connection(), "before_cursor_execute", lambda *told: sent.append(told[2]))
        statement = select(Doc).options(selectinload(Doc.chunks)).order_by(Doc.id)
        rows = session.scalars(statement).all()
        assert len(rows) == (ROWS if own else 20)
        assert all(row.chunks for row in rows)
        session.execute(text("SET enable_seqscan = off; SET enable_bitmapscan = off"))
        keys = ", ".join(str(row.id) for row in rows[:3])
        loading = sent[1].partition("IN (")[0] + f"IN ({keys}) ORDER BY docs_chunks.chunk_no"
        plan = "\n".join(session.connection().exec_driver_sql(f"EXPLAIN {loading}").scalars())
        assert "Index Scan using docs_embedding_id_chunk_no_key on docs_embedding" in plan
        assert "Index Cond: (id = ANY" in plan


def test_chunks_are_only_read(docs: Connection, engine: Engine) -> None:
    for change in ("update", "delete", "insert"):
        with Session(engine) as session:
            row = session.get_one(Doc, 1)
            if change == "insert":
                session.add(DocChunk(chunk_no=1, chunk="x"))  # type: ignore[call-arg]
            elif change == "update":
                row.chunks[0].chunk = "another"  # type: ignore[assignment]
            else:
                session.delete(row.chunks[0])
            with pytest.raises(InvalidArgument, match="only read"):
                session.flush()
    with Session(engine) as session:
        row = session.get_one(Doc, 1)
        assert len(row.chunks) == 3
        row.body = "edited"
        session.delete(session.get_one(Doc, 2))
        session.commit()
        assert len(row.chunks) == 3


@pytest.mark.parametrize("way", ["arguments", "metadata", "translated"])
def test_schemas_quoted_names_and_keys_of_several_columns(
    three: Connection, engine: Engine, way: str
) -> None:
    three.execute('CREATE SCHEMA "Shop 1"')

    class Own(DeclarativeBase):
        metadata = MetaData(
            schema={"arguments": None, "metadata": "Shop 1", "translated": "plain"}[way],
            naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(column_0_label)s"},
        )

    class Page(Own):
        __tablename__ = 'My "Pages"'
        __table_args__ = {"schema": "Shop 1"} if way == "arguments" else {}
        source: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column("No %", primary_key=True)
        body: Mapped[str] = mapped_column("Body %")
        chunks: Mapped[list[Chunk]] = chunked("{Body %}", filter='"No %" < 100', **DENSE)
        lines: Mapped[list[Chunk]] = chunked(
            "{Body %}", chunk_table="Lines", chunk_view='"V"', vectorizer="lines", **DENSE
        )

    translated = engine.execution_options(schema_translate_map={"plain": "Shop 1"})
    Own.metadata.create_all(translated)
    keys = [("a", 1), ("a", 2), ("b", 1)]
    with Session(translated) as session:
        session.add_all([Page(source=source, number=number, body="x") for source, number in keys])
        session.commit()
        rows = [keys[number % 3] for number in range(9)]
        write_chunks(three, '"Shop 1"."My ""Pages""_embedding"', 'source, "No %%"', rows, texts(9))
        write_chunks(three, '"Shop 1"."Lines"', 'source, "No %%"', rows, texts(9))
        for page in session.scalars(select(Page).options(selectinload(Page.chunks))):
            own = [texts(9)[number] for number in range(9) if rows[number] == (page.source, page.number)]
            assert [chunk.chunk for chunk in page.chunks] == own
            assert [chunk.chunk for chunk in page.lines] == own
            assert all(chunk.source == page.source and chunk.source_row is page for chunk in page.chunks)  # type: ignore[attr-defined]
        found = session.execute(
            search_chunks(Page, QUERY, k=3, vectorizer="lines").where(Page.number == 1, Page.source != "c")
        ).all()
        near = embeddings(texts(9)).dense @ embeddings([QUERY]).dense[0]
        best = {key: max(near[number] for number in range(9) if rows[number] == key) for key in keys}
        wanted = sorted((key for key in keys if key[1] == 1), key=lambda key: -best[key])
        assert [(row.Page.source, row.Page.number) for row in found] == wanted
        assert [row.score for row in found] == pytest.approx([best[key] for key in wanted], abs=1e-5)
    Own.metadata.drop_all(translated)
    assert inspect(engine).get_table_names(schema="Shop 1") == []


def test_mixins_and_classes_that_inherit(three: Connection, engine: Engine) -> None:
    class Own(DeclarativeBase):
        pass

    class Long:
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

        @declared_attr
        def chunks(cls) -> Mapped[list[Chunk]]:
            return chunked("{body}", **DENSE)

    class Note(Long, Own):
        __tablename__ = "notes"

    class Item(Long, Own):
        __tablename__ = "items"
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}  # noqa: RUF012

    class Single(Item):
        __mapper_args__ = {"polymorphic_identity": "single"}  # noqa: RUF012

    class Joined(Item):
        __tablename__ = "joined"
        id: Mapped[int] = mapped_column(ForeignKey("items.id"), primary_key=True)
        remark: Mapped[str]
        __mapper_args__ = {"polymorphic_identity": "joined"}  # noqa: RUF012

    class Far(Joined):
        __tablename__ = "far"
        id: Mapped[int] = mapped_column(ForeignKey("joined.id"), primary_key=True)
        text: Mapped[str]
        pieces: Mapped[list[Chunk]] = chunked("{text}", **DENSE)
        __mapper_args__ = {"polymorphic_identity": "far"}  # noqa: RUF012

    assert [wanted.chunk_view for wanted in vectorizers(Own.metadata)] == [
        "notes_chunks",
        "items_chunks",
        "far_chunks",
    ]
    Own.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Note(body="n"), Item(body="a"), Single(body="b"), Joined(body="c", remark="r")])
        session.flush()
        session.add(Far(body="d", remark="r", text="f"))
        session.commit()
        numbers = [(1,), (2,), (3,), (4,), (4,)]
        write_chunks(three, "items_embedding", "id", numbers, texts(5))
        write_chunks(three, "far_embedding", "id", [(4,), (4,)], texts(7)[5:])
        for option in ((), (selectinload(Item.chunks),)):
            items = session.scalars(select(Item).order_by(Item.id).options(*option)).all()
            assert [type(item) for item in items] == [Item, Single, Joined, Far]
            assert [len(item.chunks) for item in items] == [1, 1, 1, 2]
            session.expunge_all()
        far = session.scalars(select(Far)).one()
        assert [chunk.chunk for chunk in far.chunks] == texts(5)[3:]
        assert [chunk.chunk for chunk in far.pieces] == texts(7)[5:]
        assert chunk_class(Far.pieces) is not chunk_class(Far.chunks) is chunk_class(Item.chunks)
        rows = session.execute(search_chunks(Item, QUERY)).all()
        assert {(type(row.Item), row.chunk) for row in rows} >= {(Single, texts(5)[1])}
        assert [row.Joined.id for row in session.execute(search_chunks(Joined, QUERY))] in ([3, 4], [4, 3])
        (own,) = session.execute(search_chunks(Far, QUERY)).all()
        assert own.chunk in texts(7)[5:]
        assert session.scalars(select(Note)).one().chunks == []
    Own.metadata.drop_all(engine)
    assert inspect(engine).get_table_names() == []


def test_dataclasses_have_chunks_that_are_not_of_their_making(three: Connection, engine: Engine) -> None:
    class Own(MappedAsDataclass, DeclarativeBase):
        pass

    class Post(Own):
        __tablename__ = "posts"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        body: Mapped[str]
        chunks: Mapped[list[Chunk]] = chunked("{body}", init=False, lazy="selectin", **DENSE)

    Own.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Post(body="x"))
        session.commit()
        write_chunks(three, "posts_embedding", "id", [(1,), (1,)], texts(2))
        (post,) = session.scalars(select(Post).execution_options(populate_existing=True))
        assert [chunk.chunk for chunk in post.__dict__["chunks"]] == texts(2)


def test_another_model_s_words_and_models_that_are_known(db: Connection, engine: Engine) -> None:
    class Own(DeclarativeBase):
        pass

    class Post(Own):
        __tablename__ = "posts"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        chunks: Mapped[list[Chunk]] = chunked("{body}", model="all-MiniLM-L6-v2", sparse="bm25", index="auto")

    Own.metadata.create_all(engine)
    made = db.execute(
        "SELECT model, sparse_model, column_type, columns::text FROM embed.vectorizers"
    ).fetchall()
    assert made == [("all-MiniLM-L6-v2", "bm25", "halfvec(384)", "{embedding,sparse}")]
    (told,) = vectorizers(Own.metadata)
    assert (told.chunking, told.index) == (None, "auto")
    Own.metadata.drop_all(engine)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "size of the vectors of model None"),
        ({"dimensions": 8, "outputs": ()}, "outputs"),
        ({"dimensions": 8, "outputs": ("score",)}, "outputs"),
        ({"dimensions": 8, "chunking": {"length": 3}}, "'length'"),
        ({"dimensions": 8, "chunking": {"size": 2}}, "size"),
        ({"model": "bge-m3", "sparse": "all-MiniLM-L6-v2"}, "no sparse"),
    ],
)
def test_what_cannot_be_declared_is_told(options: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        chunked("{body}", **options)


def test_chunks_need_names_of_their_own_and_a_class_that_is_not_mapped_yet() -> None:
    class Own(DeclarativeBase):
        pass

    with pytest.raises(InvalidArgument, match="one name"):

        class Twice(Own):
            __tablename__ = "twice"
            id: Mapped[int] = mapped_column(primary_key=True)
            first: Mapped[list[Chunk]] = chunked("{a}", **DENSE)
            second: Mapped[list[Chunk]] = chunked("{b}", **DENSE)

    class Other(DeclarativeBase):
        pass

    class Late(Other):
        __tablename__ = "late"
        id: Mapped[int] = mapped_column(primary_key=True)

    Late.chunks = chunked("{a}", **DENSE)  # type: ignore[attr-defined]
    with pytest.raises(PgEmbedError, match="after it was mapped"):
        configure_mappers()
    for wrong in (Doc.body, Doc, "chunks"):
        with pytest.raises(InvalidArgument, match="are no chunks"):
            chunk_class(wrong)
    Other.registry.dispose()
    Own.registry.dispose()
