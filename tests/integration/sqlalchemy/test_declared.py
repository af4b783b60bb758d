"""Columns of embedded(): create_all makes tables with their vectorizers, drop_all takes them away."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pgvector import SparseVector, Vector
from pgvector.sqlalchemy import HALFVEC, SPARSEVEC, VECTOR
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    aliased,
    declared_attr,
    mapped_column,
    selectin_polymorphic,
    with_polymorphic,
)

from pg_embed import config
from pg_embed.cli.catalog import first_model
from pg_embed.cli.running import in_background
from pg_embed.cli.service import Plan
from pg_embed.errors import InvalidArgument, NotInstalled
from pg_embed.install import install
from pg_embed.serve.settings import ServeSettings
from pg_embed.sqlalchemy import Vectorizer, embed, embedded, embedded_column, search, vectorizers
from tests.fix_pg import MakeRole, Server, fresh_database, temporary_folder
from tests.fix_search import OPTIONS, answer, embeddings, fill, play_sidecar
from tests.fix_serve import spool_place
from tests.fix_sqlalchemy import engine_for
from tests.fix_worker import Connection, create_fake_model

QUERY = "quick red fox 7"
TEXT = "{title}\n{body}"
DENSE: dict[str, Any] = {"model": "three", "dimensions": OPTIONS["dimensions"], "column_type": "vector"}
SPARSE: dict[str, Any] = {"model": "three", "dimensions": OPTIONS["sparse_dimensions"], "output": "sparse"}
MADE = """
SELECT name, source::text, model, template, columns::text, outputs::text, filter
FROM embed.vectorizers ORDER BY name
"""


@pytest.fixture
def three(db: Connection) -> Connection:
    """A database whose sidecar knows the query, and the model `three`."""
    play_sidecar(db)
    answer(db, QUERY)
    return db


def made(db: Connection) -> list[Any]:
    return db.execute(MADE).fetchall()


def embed_all(db: Connection, table: str, text: str = "body") -> None:
    """Write what a worker would: here the vectors of one column's text."""
    fill(db, table, text)


def test_tables_come_with_vectorizers_and_go_with_them(three: Connection, engine: Engine) -> None:
    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str | None]
        body: Mapped[str]
        embedding: Mapped[Vector | None] = embedded(TEXT, **DENSE)
        words: Mapped[SparseVector | None] = embedded(TEXT, **SPARSE)
        second: Mapped[list[float] | None] = embedded("{body}", **DENSE, filter="id > 3")

    class Other(Base):
        __tablename__ = "others"
        id: Mapped[int] = mapped_column(primary_key=True)

    wanted = [
        Vectorizer("docs", None, TEXT, "three", dense="embedding", sparse="words"),
        Vectorizer("docs", None, "{body}", "three", dense="second", filter="id > 3"),
    ]
    assert vectorizers(Base.metadata) == wanted
    assert hash(wanted[0]) == hash(vectorizers(Base.metadata)[0])
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    assert made(three) == [
        ("docs_embedding", "docs", "three", TEXT, "{embedding,words}", "{dense,sparse}", None),
        ("docs_second", "docs", "three", "{body}", "{second}", "{dense}", "(id > 3)"),
    ]
    with Session(engine) as session:
        session.add_all([Doc(title=None, body=f"fox {number}") for number in range(20)])
        session.commit()
        embed_all(three, "docs")
        rows = session.execute(search(Doc, QUERY, k=3, vectorizer="docs_embedding")).all()
        assert len(rows) == 3
        assert rows[0].sparse_score is not None
        doc = rows[0].Doc
        assert len(doc.embedding) == 8
        assert isinstance(doc.words, SparseVector)
        assert session.scalars(search(Doc, QUERY, vectorizer="docs_second", mode="dense")).all() == []
    Base.metadata.drop_all(engine)
    Base.metadata.drop_all(engine)
    assert made(three) == []
    assert inspect(engine).get_table_names() == []
    Base.metadata.create_all(engine)
    assert len(made(three)) == 2


def test_a_model_that_is_known_tells_types_and_is_entered(db: Connection, engine: Engine) -> None:
    metadata = MetaData()
    table = Table(
        "docs",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("body", Text),
        embedded_column("embedding", "{body}", model="all-MiniLM-L6-v2"),
        embedded_column("words", "{body}", model="bm25", output="sparse"),
    )
    assert isinstance(table.c.embedding.type, HALFVEC)
    assert table.c.embedding.type.dim == 384
    metadata.create_all(engine)
    found = db.execute("SELECT name, model, column_type FROM embed.vectorizers ORDER BY 1").fetchall()
    assert found == [
        ("docs_embedding", "all-MiniLM-L6-v2", "halfvec(384)"),
        ("docs_words", "bm25", "sparsevec(1000000000)"),
    ]
    metadata.drop_all(engine)
    assert made(db) == []


async def test_a_vector_for_each_token_is_a_column_too(
    three: Connection, engine: Engine, async_engine: AsyncEngine
) -> None:
    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding: Mapped[Vector | None] = embedded("{body}", **DENSE)
        words: Mapped[SparseVector | None] = embedded("{body}", **SPARSE)
        tokens: Mapped[list[list[float]] | None] = embedded(
            "{body}", model="three", dimensions=8, output="multi"
        )

    Base.metadata.create_all(engine)
    assert [row[4:6] for row in made(three)] == [("{embedding,words,tokens}", "{dense,sparse,multi}")]
    found = embeddings(["red fox 1"]).multi
    assert found is not None
    with Session(engine) as session:
        session.add_all([Doc(body="red fox 1"), Doc(body="lazy dog")])
        session.commit()
        fill(three, "docs", multi=True)
        session.add(Doc(body="by hand", tokens=[[1.0] * 8, [0.5] * 8]))
        session.commit()
        first, _, last = session.scalars(select(Doc).order_by(Doc.id))
        assert np.allclose(first.tokens, found.row(0), atol=2e-3)
        assert last.tokens == [[1.0] * 8, [0.5] * 8]
        ranked = session.execute(search(Doc, QUERY, rerank="multi")).all()
        assert ranked[0].rerank_score is not None
    async with AsyncSession(async_engine) as asynchronous:
        row = (await asynchronous.scalars(select(Doc).where(Doc.id == 1))).one()
        assert np.allclose(row.tokens, found.row(0), atol=2e-3)
    Base.metadata.drop_all(engine)
    assert made(three) == []


def test_types_are_pgvectors_own() -> None:
    dense, sparse = (
        embedded("{x}", model="bge-m3", output=output).column.type for output in ("dense", "sparse")
    )
    assert (type(dense), dense.dim) == (HALFVEC, 1024)
    assert (type(sparse), sparse.dim) == (SPARSEVEC, 250_002)
    tokens = embedded("{x}", model="bge-m3", output="multi").column.type
    assert tokens.compile(postgresql.dialect()) == "HALFVEC(1024)[]"  # type: ignore[no-untyped-call]
    assert type(embedded("{x}", dimensions=4_001).column.type) is VECTOR
    assert type(embedded("{x}", dimensions=4_000).column.type) is HALFVEC
    assert type(embedded("{x}", dimensions=8, column_type="vector").column.type) is VECTOR


def test_declarations_survive_copies_and_pickles() -> None:
    metadata = MetaData()
    key = Column("id", Integer, primary_key=True)
    table = Table("docs", metadata, key, embedded_column("embedding", "{body}", **DENSE))
    (wanted,) = vectorizers(metadata)
    assert vectorizers(pickle.loads(pickle.dumps(metadata))) == [wanted]
    moved = MetaData(schema="moved")
    copied = table.to_metadata(moved)
    assert vectorizers(moved) == [replace(wanted, schema="moved")]
    near = str(copied.c.embedding.cosine_distance(embed("x")))
    assert "embed._column_model_v1(NULL::moved.docs, 'embedding')" in near


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "size of the vectors of model None"),
        ({"model": "unheard-of"}, "size of the vectors of model 'unheard-of'"),
        ({"model": "bm25"}, "makes no dense vectors"),
        ({"model": "bge-m3", "output": "score"}, "'score'"),
        ({"model": "bm25", "output": "multi"}, "makes no multi vectors"),
    ],
)
def test_what_cannot_be_declared_is_told(arguments: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        embedded("{x}", **arguments)


def test_two_columns_of_one_output_need_vectorizers_of_their_own() -> None:
    def columns(**second: Any) -> Table:
        first = embedded_column("a", "{x}", **DENSE)
        return Table("t", MetaData(), first, embedded_column("b", "{x}", **DENSE, **second))

    with pytest.raises(InvalidArgument, match="hold the same: a and b"):
        vectorizers(columns().metadata)
    assert len(vectorizers(columns(vectorizer="another").metadata)) == 2


def test_a_mixin_gives_each_table_its_own(three: Connection, engine: Engine) -> None:
    class Base(DeclarativeBase):
        pass

    class Searchable:
        @declared_attr.directive
        def __tablename__(cls) -> str:
            return cls.__name__.lower()

        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding: Mapped[Vector | None] = embedded("{body}", **DENSE)
        words: Mapped[SparseVector | None] = embedded("{body}", **SPARSE)

    class Post(Searchable, Base):
        pass

    class Page(Searchable, Base):
        url: Mapped[str | None]

    Base.metadata.create_all(engine)
    assert [row[:2] for row in made(three)] == [("page_embedding", "page"), ("post_embedding", "post")]
    with Session(engine) as session:
        session.add_all([Post(body="red fox"), Page(body="lazy dog", url="x")])
        session.commit()
        for table, entity in (("post", Post), ("page", Page)):
            embed_all(three, table)
            assert [hit.id for hit in session.scalars(search(entity, QUERY))] == [1]
        near = session.scalars(
            session.query(Page).order_by(Page.embedding.cosine_distance(embed(QUERY))).statement
        )
        assert len(near.all()) == 1
    Base.metadata.drop_all(engine)
    assert made(three) == []


@pytest.mark.parametrize("way", ["arguments", "metadata", "translated"])
def test_schemas_conventions_and_names_that_need_quotes(three: Connection, engine: Engine, way: str) -> None:
    three.execute('CREATE SCHEMA "Shop 1"')
    convention = {
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(column_0_label)s",
    }

    class Base(DeclarativeBase):
        metadata = MetaData(
            naming_convention=convention,
            schema={"arguments": None, "metadata": "Shop 1", "translated": "plain"}[way],
        )

    class Doc(Base):
        __tablename__ = 'My "Docs"'
        __table_args__ = (
            (UniqueConstraint("No", "Body %"), {"schema": "Shop 1"})
            if way == "arguments"
            else (UniqueConstraint("No", "Body %"),)
        )
        id: Mapped[int] = mapped_column("No", primary_key=True)
        body: Mapped[str] = mapped_column("Body %", index=True)
        dense: Mapped[Vector | None] = embedded("{Body %}", name="embedding", **DENSE)
        words: Mapped[SparseVector | None] = embedded("{Body %}", **SPARSE)

    translated = engine.execution_options(schema_translate_map={"plain": "Shop 1"})
    Base.metadata.create_all(translated)
    source = '"Shop 1"."My ""Docs"""'
    ((name, *rest),) = made(three)
    assert (name, rest) == (
        'My "Docs"_embedding',
        [source, "three", "{Body %}", "{embedding,words}", "{dense,sparse}", None],
    )
    with Session(translated) as session:
        session.add_all([Doc(body=f"red fox {number}") for number in range(9)])
        session.commit()
        embed_all(three, source, '"Body %"')
        few = search(Doc, QUERY, k=4).where(Doc.body.in_(["red fox 1", "red fox 2"]), Doc.id < 100)
        assert {hit.body for hit in session.scalars(few)} == {"red fox 1", "red fox 2"}
        nearest = session.scalars(search(Doc, QUERY, k=1)).one()
        assert len(nearest.dense) == 8
        ordered = session.query(Doc).order_by(Doc.dense.cosine_distance(embed(QUERY)))
        assert ordered.first() is not None
    Base.metadata.drop_all(translated)
    assert made(three) == []


def test_a_class_that_inherits_by_a_join_is_searched_in_its_parent_s_vectors(
    three: Connection, engine: Engine
) -> None:
    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        body: Mapped[str]
        embedding: Mapped[Vector | None] = embedded("{body}", **DENSE)
        words: Mapped[SparseVector | None] = embedded("{body}", **SPARSE)
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "doc"}  # noqa: RUF012

    class Post(Doc):
        __tablename__ = "posts"
        id: Mapped[int] = mapped_column(ForeignKey("docs.id"), primary_key=True)
        stars: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "post"}  # noqa: RUF012

    class Answer(Post):
        __tablename__ = "answers"
        id: Mapped[int] = mapped_column(ForeignKey("posts.id"), primary_key=True)
        note: Mapped[str]
        of_its_own: Mapped[Vector | None] = embedded("{note}", **DENSE)
        __mapper_args__ = {"polymorphic_identity": "answer"}  # noqa: RUF012

    Base.metadata.create_all(engine)
    assert [row[:2] for row in made(three)] == [("answers_of_its_own", "answers"), ("docs_embedding", "docs")]
    with Session(engine) as session:
        session.add_all([Doc(body=f"quick red fox {number}") for number in range(40)])
        session.add_all([Post(body=f"lazy {number}", stars=number) for number in range(3)])
        session.add(Answer(body="blue", note="a", stars=9))
        session.commit()
        embed_all(three, "docs")
        plain = session.scalars(search(Doc, QUERY, k=44)).all()
        assert {type(hit) for hit in plain} == {Doc, Post, Answer}
        posts = session.scalars(search(Post, QUERY, k=4)).all()
        assert {(type(hit), hit.stars) for hit in posts} == {(Post, 0), (Post, 1), (Post, 2), (Answer, 9)}
        best = session.scalars(search(Post, QUERY, k=4).where(Post.stars > 1, Post.body.like("lazy%"))).all()
        assert [hit.stars for hit in best] == [2]
        loaded = search(Doc, QUERY, k=44).options(selectin_polymorphic(Doc, [Post, Answer]))
        assert len(session.scalars(loaded).all()) == 44
        every = with_polymorphic(Doc, [Post, Answer])
        lazy = session.scalars(search(every, QUERY, k=3).where(every.body.like("lazy%"))).all()
        assert {(type(hit), hit.stars) for hit in lazy} == {(Post, 0), (Post, 1), (Post, 2)}
        other = aliased(Post, flat=True)
        found = session.execute(search(other, QUERY, k=4).join(Post, Post.id == other.id)).all()
        assert {hit for hit, *_ in found} == set(posts)
        answers = aliased(Answer, flat=True)
        told = search(answers, QUERY, vectorizer="answers_of_its_own").where(answers.note == "a")
        assert session.scalars(told).all() == [], "its own vectors are not there yet"
        with pytest.raises(InvalidArgument, match="searched") as caught:
            search(aliased(Post), QUERY)
        assert "flat=True" in (caught.value.hint or "")
    Base.metadata.drop_all(engine)
    assert made(three) == []


def test_classes_that_share_a_table_are_searched_each_for_itself(three: Connection, engine: Engine) -> None:
    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        body: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "doc"}  # noqa: RUF012

    class Post(Doc):
        embedding: Mapped[Vector | None] = embedded("{body}", filter="kind = 'post'", **DENSE)
        words: Mapped[SparseVector | None] = embedded("{body}", filter="kind = 'post'", **SPARSE)
        __mapper_args__ = {"polymorphic_identity": "post"}  # noqa: RUF012

    Base.metadata.create_all(engine)
    assert [row[:2] for row in made(three)] == [("docs_embedding", "docs")]
    with Session(engine) as session:
        session.add_all([Doc(body=f"quick red fox {number}") for number in range(40)])
        session.add_all([Post(body=f"lazy {number}") for number in range(3)])
        session.commit()
        embed_all(three, "docs")
        assert {type(hit) for hit in session.scalars(search(Doc, QUERY, k=43))} == {Doc, Post}
        assert len(session.scalars(search(Post, QUERY, k=3)).all()) == 3


def test_a_dataclass_may_leave_its_vectors_out(three: Connection, engine: Engine) -> None:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        body: Mapped[str]
        embedding: Mapped[list[float] | None] = embedded("{body}", init=False, deferred=True, **DENSE)

    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Doc("red fox"))
        session.commit()
        doc = session.query(Doc).one()
        assert "embedding" not in doc.__dict__
        assert doc.embedding is None


def test_automap_finds_what_is_there(three: Connection, engine: Engine) -> None:
    three.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    three.execute("CREATE TABLE notes (id int PRIMARY KEY, doc_id int REFERENCES docs)")
    three.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_type => 'vector',"
        " sparse_column => 'words')"
    )
    three.execute("INSERT INTO docs VALUES (1, 'red fox'); INSERT INTO notes VALUES (5, 1)")
    fill(three, "docs")
    base = automap_base()
    base.prepare(autoload_with=engine)
    assert set(base.classes.keys()) == {"docs", "notes"}
    docs = base.classes.docs
    with Session(engine) as session:
        (hit,) = session.scalars(search(docs, QUERY))
        assert hit.body == "red fox"
        assert len(hit.embedding) == 8
        assert [note.id for note in hit.notes_collection] == [5]
        nearest = session.query(docs).order_by(docs.embedding.cosine_distance(embed(QUERY, "three")))
        assert nearest.one() is hit

    class Known(automap_base()):  # type: ignore[misc]
        __tablename__ = "docs"
        embedding: Mapped[Vector | None] = embedded("{body}", **DENSE)

    known = Known.__bases__[0]
    known.prepare(autoload_with=engine)
    with Session(engine) as session:
        assert session.scalars(search(Known, QUERY)).one().body == "red fox"
    assert [wanted.dense for wanted in vectorizers(known.metadata)] == ["embedding"]


def test_what_is_reflected_is_read_and_compared_as_what_is_declared(
    three: Connection, engine: Engine
) -> None:
    create_fake_model(three, "another", dimensions=3)
    three.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, also vector(8))")
    three.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_type => 'vector',"
        " sparse_column => 'words', multi_column => 'tokens')"
    )
    three.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'another', column_name => 'second')"
    )
    three.execute("INSERT INTO docs VALUES (1, 'red fox')")
    fill(three, "docs", multi=True)
    found = embeddings(["red fox"]).multi
    assert found is not None
    base = automap_base()
    base.prepare(autoload_with=engine)
    docs = base.classes.docs
    columns = Table("docs", MetaData(), autoload_with=engine).columns
    with Session(engine) as session:
        hit = session.scalars(select(docs).order_by(docs.embedding.cosine_distance(embed(QUERY)))).one()
        assert np.allclose(hit.tokens, found.row(0), atol=2e-3)
        tokens = select(columns.tokens).order_by(columns.words.max_inner_product(embed(QUERY)))
        assert session.scalars(tokens).all() == [hit.tokens]
        with pytest.raises(DBAPIError, match="several models"):
            session.scalars(select(docs).order_by(docs.also.cosine_distance(embed(QUERY)))).all()


async def test_an_asynchronous_engine_makes_them_too(three: Connection, async_engine: AsyncEngine) -> None:
    metadata = MetaData()
    columns = (Column("id", Integer, primary_key=True), Column("body", Text))
    Table("docs", metadata, *columns, embedded_column("embedding", "{body}", **DENSE))
    async with async_engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert len(made(three)) == 1
    async with async_engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
    assert made(three) == []


def test_what_is_wrong_leaves_nothing_behind(three: Connection, engine: Engine, bare_dsn: str) -> None:
    def table(template: str, **options: Any) -> MetaData:
        metadata = MetaData()
        columns = (Column("id", Integer, primary_key=True), Column("body", Text))
        Table("docs", metadata, *columns, embedded_column("embedding", template, **{**DENSE, **options}))
        return metadata

    for wrong, told in (
        (table("{nothing}"), "no column nothing"),
        (table("{body}", dimensions=5), "the model needs"),
        (table("{body}", model="unheard-of"), "no model 'unheard-of'"),
    ):
        with pytest.raises(DBAPIError, match=told):
            wrong.create_all(engine)
        assert inspect(engine).get_table_names() == []
    with pytest.raises(NotInstalled, match="not installed"):
        table("{body}").create_all(engine_for(bare_dsn))
    with engine_for(bare_dsn).begin() as connection:
        connection.execute(text("CREATE TABLE docs (id int PRIMARY KEY)"))
        table("{body}").drop_all(connection)
        assert inspect(connection).get_table_names() == []


def test_an_owner_needs_no_more_rights_than_in_sql(three: Connection, make_role: MakeRole) -> None:
    owner = make_role("embed_owner")
    three.execute(f'CREATE SCHEMA mine AUTHORIZATION "{owner.name}"')
    metadata = MetaData(schema="mine")
    columns = (Column("id", Integer, primary_key=True), Column("body", Text))
    Table("docs", metadata, *columns, embedded_column("embedding", "{body}", **DENSE))
    engine = engine_for(owner.dsn)
    metadata.create_all(engine)
    assert [row[1] for row in made(three)] == ["mine.docs"]
    metadata.drop_all(engine)
    assert made(three) == []


EXAMPLE, EXAMPLE_CHUNKS = (
    (Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("example.py", "example_chunks.py")
)


@pytest.fixture
def served(server: Server) -> Iterator[str]:
    """The connection string of a database with a sidecar and a worker."""
    with fresh_database(server) as name, temporary_folder() as folder:
        spool = spool_place(server.dsn(name), folder)
        install(spool.dsn, transport="spool", settings=spool.settings, models=[first_model()])
        doors = ServeSettings(spool=folder / "spool")
        with in_background(Plan(config.Settings(), doors, worker_dsn=spool.dsn)):
            yield spool.dsn


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_an_empty_folder_to_a_hybrid_search_in_25_lines(served: str, tmp_path: Path) -> None:
    assert EXAMPLE in (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    assert len([line for line in EXAMPLE.splitlines() if line]) <= 25
    lines = run(EXAMPLE, served, tmp_path)
    assert lines[0].split()[0] == "Returns"
    assert len(lines) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_of_chunks_finds_the_one_that_answers(served: str, tmp_path: Path) -> None:
    found, numbers, near = run(EXAMPLE_CHUNKS, served, tmp_path)
    assert "send anything back" in found
    told = json.loads(numbers)
    assert len(told) > 2
    assert told == sorted(told)
    assert "boils" in near


def run(example: str, dsn: str, folder: Path) -> list[str]:
    """Run an example as its reader would; returns the lines that it prints."""
    (folder / "example.py").write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=folder,
        env={**os.environ, "PG_EMBED_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
