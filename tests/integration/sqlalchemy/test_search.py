"""search() of SQLAlchemy gives what embed.search gives in SQL, and takes what a SELECT takes."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    DateTime,
    Engine,
    Enum,
    ForeignKey,
    MetaData,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    case,
    event,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    with_loader_criteria,
)

from pg_embed.errors import InvalidArgument
from pg_embed.sqlalchemy import search
from tests.fix_pg import MakeRole
from tests.fix_search import answer, create_docs
from tests.fix_sqlalchemy import engine_for
from tests.fix_worker import Connection

QUERY = "quick red fox 7"
SCORES = "score, dense_rank, dense_score, sparse_rank, sparse_score, rerank_score"
ROWS = 1_000


FURTHER = """
CREATE SCHEMA "Moods";
CREATE TYPE "Moods".mood AS ENUM ('glad', 'sad');
ALTER TABLE docs ADD day date, ADD at timestamptz, ADD mood "Moods".mood, ADD price numeric, ADD uid uuid,
    ADD odd bool, ADD spent interval;
UPDATE docs SET day = date '2020-01-01' + id::int,
    at = timestamptz '2020-01-01 00:00+00' + id * interval '1 hour',
    mood = (CASE id % 2 WHEN 0 THEN 'glad' ELSE 'sad' END)::"Moods".mood, price = id / 8.0, odd = id % 2 = 1,
    uid = lpad(id::text, 32, '0')::uuid, spent = id * interval '1 minute';
"""


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    glad = "glad"
    sad = "it's"


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str | None]
    lang: Mapped[str | None]
    year: Mapped[int]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    meta: Mapped[dict[str, Any]] = mapped_column(JSONB)
    day: Mapped[datetime.date]
    at: Mapped[datetime.datetime] = mapped_column(DateTime(timezone=True))
    mood: Mapped[Mood] = mapped_column(Enum(Mood, name="mood", schema="Moods"))
    price: Mapped[Decimal]
    uid: Mapped[uuid.UUID]
    odd: Mapped[bool]
    spent: Mapped[datetime.timedelta]
    notes: Mapped[list[Note]] = relationship(back_populates="doc", order_by="Note.id")


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    doc_id: Mapped[int] = mapped_column(ForeignKey("docs.id"))
    stars: Mapped[int]
    doc: Mapped[Doc] = relationship(back_populates="notes")


@pytest.fixture
def docs(db: Connection) -> Connection:
    """1,000 rows, of which every 200th is of a rare language and every 10th has two notes."""
    create_docs(db, ROWS)
    answer(db, QUERY)
    db.execute("UPDATE docs SET lang = 'rare' WHERE id % 200 = 3")
    db.execute(FURTHER)
    db.execute("CREATE TABLE notes (id serial PRIMARY KEY, doc_id bigint REFERENCES docs, stars int)")
    db.execute(
        "INSERT INTO notes (doc_id, stars) SELECT id, s FROM docs, unnest(ARRAY[1, 5]) s WHERE id % 10 = 0"
    )
    return db


@pytest.fixture
def session(docs: Connection, engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def in_sql(db: Connection, arguments: str = "") -> list[Any]:
    return db.execute(
        f"SELECT (hit).id, {SCORES} FROM embed.search(NULL::docs, '{QUERY}'{arguments})".encode()
    ).fetchall()


def flat(rows: Any) -> list[Any]:
    return [(row[0].id, *row[1:]) for row in rows]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, ""),
        ({"k": 3, "mode": "dense"}, ", k => 3, mode => 'dense'"),
        ({"fusion": "rrf", "weights": (1, 0.5)}, ", fusion => 'rrf', weights => '{1,0.5}'"),
        ({"candidates": 12, "min_score": 0.5}, ", candidates => 12, min_score => 0.5"),
        ({"vectorizer": "docs_embedding"}, ", vectorizer => 'docs_embedding'"),
        (
            {"filter": {"lang": "en", "day": {">": datetime.date(2021, 1, 1)}}},
            ', filter => \'{"lang": "en", "day": {">": "2021-01-01"}}\'',
        ),
        (
            {"diversity": 0.4, "skip": 2, "boost": {"day": {"half_life": "30 days", "weight": 0.5}}},
            ', diversity => 0.4, skip => 2, boost => \'{"day": {"half_life": "30 days", "weight": 0.5}}\'',
        ),
    ],
)
async def test_sqlalchemy_and_sql_give_the_same_rows(
    docs: Connection, engine: Engine, async_engine: AsyncEngine, options: Any, arguments: str
) -> None:
    wanted = in_sql(docs, arguments)
    assert wanted
    statement = search(Doc, QUERY, **options)
    with Session(engine) as session:
        rows = session.execute(statement).all()
        assert flat(rows) == wanted
        assert rows[0].Doc.body
        assert rows[0].score == wanted[0][1]
        assert rows[0].dense_rank == wanted[0][2]
    async with AsyncSession(async_engine) as session_async:
        assert flat((await session_async.execute(statement)).all()) == wanted
        assert [doc.id for doc in await session_async.scalars(statement)] == [row[0] for row in wanted]


def test_a_table_of_the_core_is_searched_too(docs: Connection, engine: Engine) -> None:
    table = Table("docs", MetaData(), autoload_with=engine)
    statement = search(table, QUERY, k=4).where(table.c.lang == "en")
    with engine.connect() as connection:
        rows = connection.execute(statement).mappings().all()
    assert [(row["id"], row["score"]) for row in rows] == [
        row[:2] for row in in_sql(docs, ', k => 4, filter => \'{"lang": "en"}\'')
    ]


FOUR = datetime.datetime(2020, 1, 1, 4, tzinfo=datetime.UTC)
OWN: list[tuple[Any, str]] = [
    (Doc.lang == "rare", "lang = 'rare'"),
    (Doc.lang.in_(["rare", "none"]), "lang IN ('rare', 'none')"),
    (Doc.lang.notin_(["en", "de"]), "lang NOT IN ('en', 'de')"),
    (Doc.lang.in_([]), "false"),
    (Doc.id.notin_([]) & (Doc.id < 9), "id < 9"),
    (Doc.lang.is_(None) & (Doc.year > 2020), "lang IS NULL AND year > 2020"),
    (or_(Doc.lang == "rare", Doc.year == 2003), "lang = 'rare' OR year = 2003"),
    (Doc.body.like("%red%7"), "body LIKE '%red%7'"),
    (Doc.body.icontains("9%", autoescape=True), "false"),
    (Doc.id % 200 == 3, "id % 200 = 3"),
    (Doc.tags.contains(["t1", "t2"]), "tags @> '{t1,t2}'"),
    ((literal("t3") == any_(Doc.tags)) & (Doc.year == 2003), "'t3' = ANY (tags) AND year = 2003"),
    (Doc.meta["a"].as_integer() + Doc.year == 2003, "(meta ->> 'a')::int + year = 2003"),
    (Doc.day.between(datetime.date(2020, 1, 4), datetime.date(2020, 1, 9)), "id BETWEEN 3 AND 8"),
    (func.length(Doc.lang) > 2, "length(lang) > 2"),
    (~(Doc.id > 5), "id <= 5"),
    ((Doc.mood == Mood.sad) & (Doc.id < 9), "mood = 'sad' AND id < 9"),
    (Doc.mood.in_([Mood.glad]) & (Doc.id < 9), "mood = 'glad' AND id < 9"),
    (Doc.price <= Decimal("0.625"), "price <= 0.625"),
    (Doc.uid.in_([uuid.UUID(int=5), uuid.UUID(int=0x17)]), "id IN (5, 17)"),
    (Doc.odd & (Doc.id < 6), "odd AND id < 6"),
    (Doc.odd.is_(True) & (Doc.id < 6), "odd AND id < 6"),
    (Doc.at < datetime.datetime(2020, 1, 1, 4, tzinfo=datetime.UTC), "id < 4"),
    (
        Doc.at - Doc.spent < datetime.datetime(2020, 1, 1, 4, tzinfo=datetime.UTC),
        "at - spent < '2020-01-01 04:00Z'",
    ),
    (Doc.spent < datetime.timedelta(minutes=7), "id < 7"),
    (Doc.meta.contains({"a": 3}) & (Doc.id < 30), "id % 4 = 3 AND id < 30"),
    ((Doc.meta["a"].astext == "3") & (Doc.id < 30), "id % 4 = 3 AND id < 30"),
    (case((Doc.lang == "rare", Doc.id), else_=-1) > 200, "lang = 'rare' AND id > 200"),
    (Doc.lang.is_distinct_from("en") & (Doc.id < 9), "lang IS DISTINCT FROM 'en' AND id < 9"),
    (Doc.lang == func.lower("RARE"), "lang = 'rare'"),
    (Doc.lang.in_(["rare"]) == Doc.odd, "(lang = 'rare') = odd"),
    (or_(~Doc.lang.in_(["en", "de"]), Doc.id.in_([1])), "lang = 'rare' OR id = 1"),
    (Doc.body.regexp_match("7$") & (Doc.id < 90), "body ~ '7$' AND id < 90"),
]


@pytest.mark.parametrize(("condition", "wanted"), OWN, ids=[wanted for _, wanted in OWN])
def test_a_condition_on_the_table_holds_within_the_search(
    docs: Connection, session: Session, condition: Any, wanted: str
) -> None:
    rows = docs.execute(f"SELECT id FROM docs WHERE {wanted}".encode()).fetchall()
    hits = session.scalars(search(Doc, QUERY, k=5).where(condition)).all()
    assert len(hits) == min(len(rows), 5)
    assert {hit.id for hit in hits} <= {row[0] for row in rows}
    all_of_them = session.scalars(search(Doc, QUERY, k=ROWS).where(condition)).all()
    assert {hit.id for hit in all_of_them} == {row[0] for row in rows}
    assert list(hits) == list(all_of_them)[:5]


def test_half_a_percent_of_the_rows_still_gives_k_with_an_index(docs: Connection, session: Session) -> None:
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    docs.execute("ANALYZE docs; SELECT set_config('embed.exact_rows', '0', false)")
    session.execute(text("SET embed.exact_rows = 0"))
    statement = search(Doc, QUERY, k=5, mode="dense").where(Doc.lang == "rare")
    hits = [hit.id for hit in session.scalars(statement)]
    assert set(hits) == {3, 203, 403, 603, 803}
    assert hits == [
        row[0] for row in in_sql(docs, ", k => 5, mode => 'dense', filter => '{\"lang\": \"rare\"}'")
    ]


def test_hits_are_read_by_their_keys(docs: Connection, session: Session) -> None:
    docs.execute("ANALYZE docs")
    compiled = (
        search(Doc, QUERY)
        .where(Doc.year > 2003)
        .compile(session.get_bind(), compile_kwargs={"literal_binds": True})
    )
    plan = "\n".join(session.connection().exec_driver_sql(f"EXPLAIN {compiled}").scalars())
    assert "Function Scan on _search_v1" in plan
    assert "Index Scan using docs_pkey" in plan
    assert "Seq Scan" not in plan


def test_conditions_come_by_any_way_that_a_select_has(docs: Connection, session: Session) -> None:
    wanted = [row[0] for row in in_sql(docs, ', k => 5, filter => \'{"lang": "rare"}\'')]
    plain = search(Doc, QUERY, k=5)
    rare = [
        plain.filter_by(lang="rare"),
        plain.where(Doc.year > 0).where(Doc.lang == "rare"),
        plain.options(with_loader_criteria(Doc, Doc.lang == "rare")),
        plain.where(Doc.lang == bindparam("lang")).params(lang="rare"),
    ]
    for statement in rare:
        assert [hit.id for hit in session.scalars(statement)] == wanted
    other = aliased(Doc, name="other")
    found = session.scalars(search(other, QUERY, k=5).where(other.lang == "rare"))
    assert [hit.id for hit in found] == wanted
    named = plain.where(Doc.lang == bindparam("lang"))
    assert [hit.id for hit in session.scalars(named, {"lang": "rare"})] == wanted


PAIRS = [(number, 2000 + number % 25) for number in range(0, ROWS, 10)]


@pytest.mark.parametrize(
    ("condition", "joined"),
    [
        (Note.stars == 5, True),
        (Doc.id + 5 == Note.doc_id + Note.stars, True),
        (text("docs.id % 10 = 0"), False),
        (Doc.notes.any(Note.stars == 5), False),
        (exists().where(Note.doc_id == Doc.id), False),
        (Doc.id.in_(select(Note.doc_id)), False),
        (tuple_(Doc.id, Doc.year).in_(PAIRS), False),
        (Doc.id.in_(bindparam("ids", [pair[0] for pair in PAIRS], expanding=True)), False),
        (func.mod(Doc.id, literal_column("10")) == 0, False),
    ],
)
def test_a_condition_on_more_than_the_table_is_applied_to_the_answer(
    session: Session, condition: Any, joined: bool
) -> None:
    plain = search(Doc, QUERY, k=50)
    hits = session.scalars(plain).all()
    statement = (plain.join(Doc.notes) if joined else plain).where(condition)
    assert [hit.id for hit in session.scalars(statement)] == [hit.id for hit in hits if hit.id % 10 == 0]
    assert any(hit.id % 10 == 0 for hit in hits)


HOSTILE = [
    "'; DROP TABLE docs; --",
    "$c$ || (SELECT 1/0) || $c$",
    "\\'; SELECT 1/0; --",
    "%(lang_1)s %s % %% {}",
    "$1 $c$$c1$ :lang",
    "' OR true OR '",
    'ä"€\n\\',
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("conforming", ["on", "off"])
def test_values_are_never_read_as_sql(
    docs: Connection, session: Session, value: str, conforming: str
) -> None:
    docs.execute("UPDATE docs SET lang = %s, tags = ARRAY[%s] WHERE id = 77", [value, value])
    session.execute(text("SELECT set_config('standard_conforming_strings', :on, false)"), {"on": conforming})
    for condition in (Doc.lang == value, Doc.lang.in_([value]), Doc.tags.contains([value])):
        assert [hit.id for hit in session.scalars(search(Doc, QUERY).where(condition))] == [77]
    assert session.scalars(search(Doc, QUERY, mode="dense").where(Doc.lang == value + "'")).all() == []


def test_a_statement_is_compiled_once_and_each_run_has_its_own_values(
    session: Session, engine: Engine
) -> None:
    sent: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    for lang, years, k in (("rare", [2003], 3), ("en", [2000, 2006], 4), ("de", [], 2)):
        statement = search(Doc, QUERY, k=k).where(Doc.lang == lang, Doc.year.in_(years))
        rows = session.execute(statement).all()
        assert len(rows) == (k if years else 0)
        assert all((row.Doc.lang, row.Doc.year in years) == (lang, True) for row in rows)
    assert not any(value in statement for statement, _ in sent for value in ("rare", "'en'", "'de'", QUERY))
    keys = [search(Doc, QUERY).where(Doc.lang == value)._generate_cache_key() for value in ("a", "b")]
    assert keys[0] == keys[1]
    assert keys[0] != search(Doc, QUERY).where(Doc.body == "a")._generate_cache_key()
    assert keys[0] != search(aliased(Doc), QUERY)._generate_cache_key()
    compiled = len(engine._compiled_cache or ())
    session.execute(search(Doc, QUERY, k=9).where(Doc.lang == "x", Doc.year.in_([1])))
    assert len(engine._compiled_cache or ()) == compiled


@pytest.mark.parametrize("entity", [Doc, Doc.__table__], ids=["ORM", "Core"])
def test_texts_share_one_compiled_statement(
    docs: Connection, session: Session, engine: Engine, entity: Any
) -> None:
    answer(docs, "lazy dog 3")
    cache = engine._compiled_cache
    assert cache is not None
    before = len(cache)
    sent: list[Any] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        sent.append((statement, context.compiled, context.cache_hit.name))

    event.listen(engine, "before_cursor_execute", note)
    for query in (QUERY, "lazy dog 3"):
        assert len(session.execute(search(entity, query, k=3)).all()) == 3
    assert len(cache) == before + 1
    assert [hit for _, _, hit in sent] == ["CACHE_MISS", "CACHE_HIT"]
    assert sent[0][:2] == sent[1][:2]


def test_pages_are_those_of_the_answer(session: Session) -> None:
    whole = [hit.id for hit in session.scalars(search(Doc, QUERY, k=20))]
    pages = [
        hit.id
        for start in range(0, 21, 7)
        for hit in session.scalars(search(Doc, QUERY, k=20).limit(7).offset(start))
    ]
    assert pages == whole


@pytest.mark.parametrize("limit", [None, 3])
def test_related_rows_are_loaded_with_the_hits(session: Session, limit: int | None) -> None:
    statement = search(Doc, QUERY, k=8).where(Doc.id % 10 == 0).limit(limit)
    plain = [hit.id for hit in session.scalars(statement)]
    for option in (selectinload(Doc.notes), joinedload(Doc.notes)):
        session.expunge_all()
        rows = session.execute(statement.options(option)).unique().all()
        assert [row.Doc.id for row in rows] == plain
        assert all([note.stars for note in row.Doc.__dict__["notes"]] == [1, 5] for row in rows)
        assert rows[0].score is not None


def test_a_search_is_a_part_of_other_statements(session: Session) -> None:
    plain: Select[Any] = search(Doc, QUERY, k=5).where(Doc.lang == "rare")
    ids = [hit.id for hit in session.scalars(plain)]
    assert session.scalar(select(func.count()).select_from(plain.subquery())) == 5
    hits = plain.cte("hits")
    joined = select(Doc.id, hits.c.score).join(hits, Doc.id == hits.c.id).order_by(hits.c.score.desc())
    assert [row.id for row in session.execute(joined)] == ids
    reordered = plain.order_by(None).order_by(Doc.id)
    assert [hit.id for hit in session.scalars(reordered)] == sorted(ids)
    best = plain.where(plain.selected_columns.score > 0)
    assert 0 < len(session.scalars(best).all()) < 5
    assert len(session.scalars(plain.union_all(search(Doc, QUERY, k=2))).all()) == 7


def test_the_text_may_be_a_parameter(docs: Connection, session: Session) -> None:
    statement = search(Doc, bindparam("q"), k=bindparam("k"))
    rows = session.execute(statement, {"q": QUERY, "k": 3})
    assert flat(rows) == in_sql(docs, ", k => 3")


def test_literal_values_are_quoted_by_sqlalchemy(session: Session) -> None:
    statement = search(Doc, QUERY, k=5).where(
        Doc.lang == "rare", Doc.tags.contains(["t3"]), Doc.year.in_([2003])
    )
    written = str(statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
    assert "%(" not in written
    rows = session.connection().exec_driver_sql(written).all()
    assert [row[0] for row in rows] == [hit.id for hit in session.scalars(statement)]
    assert rows


def test_names_are_quoted_and_schemas_translated(docs: Connection, engine: Engine) -> None:
    docs.execute('CREATE SCHEMA "Shop 1"; ALTER TABLE docs SET SCHEMA "Shop 1"')
    docs.execute('ALTER TABLE "Shop 1".docs RENAME TO "My ""Docs"" % $c$"')
    docs.execute('ALTER TABLE "Shop 1"."My ""Docs"" % $c$" RENAME lang TO "La $c$ %(x)s ""ng"')
    table = Table('My "Docs" % $c$', MetaData(), autoload_with=engine, schema="Shop 1")
    statement = search(table, QUERY, k=5).where(table.c['La $c$ %(x)s "ng'].in_(["rare", "x"]))
    with engine.connect() as connection:
        wanted = [row.id for row in connection.execute(statement)]
        assert set(wanted) == {3, 203, 403, 603, 803}
        elsewhere = table.to_metadata(MetaData(), schema="other")
        moved = search(elsewhere, QUERY, k=5).where(elsewhere.c['La $c$ %(x)s "ng'] == "rare")
        translated = connection.execution_options(schema_translate_map={"other": "Shop 1"})
        assert [row.id for row in translated.execute(moved)] == wanted


def test_rights_and_policies_are_the_callers(docs: Connection, make_role: MakeRole) -> None:
    docs.execute("GRANT SELECT ON docs TO embed_reader; ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs.execute("CREATE POLICY even ON docs USING (id % 400 = 3)")
    engine = engine_for(make_role("embed_reader").dsn)
    with Session(engine) as session:
        hits = session.scalars(search(Doc, QUERY, k=5).where(Doc.lang == "rare")).all()
    assert {hit.id for hit in hits} == {3, 403, 803}


def test_what_cannot_be_searched_is_told() -> None:
    for wrong in ("docs", 7, select(Doc), select(Doc).subquery()):
        with pytest.raises(InvalidArgument, match="searched"):
            search(wrong, QUERY)
    with pytest.raises(InvalidArgument, match="primary key"):
        search(Table("keyless", MetaData()), QUERY)
