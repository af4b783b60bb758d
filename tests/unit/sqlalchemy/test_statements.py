"""A statement of search() is SQLAlchemy's own: changed, put into others or stored, it keeps its values."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Select, Table, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.ext import serializer
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from pg_embed.sqlalchemy import search, search_chunks

docs = Table("docs", MetaData(), Column("id", Integer, primary_key=True), Column("lang", Text))


class Base(DeclarativeBase): ...


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    lang: Mapped[str]


class Kind(Base):
    __tablename__ = "kinds"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "kind"}  # noqa: RUF012


class Own(Kind):
    __mapper_args__ = {"polymorphic_identity": "own"}  # noqa: RUF012


ENTITIES = pytest.mark.parametrize("entity", [Doc, docs], ids=["ORM", "Core"])


def sent(statement: Any) -> tuple[str, list[Any]]:
    """The SQL and the values in it, in their order."""
    compiled = statement.compile(dialect=psycopg.dialect())
    return str(compiled), list(compiled.params.values())


def key(statement: Any) -> Any:
    return statement._generate_cache_key().key


def values(statement: Any) -> list[Any]:
    return [bind.value for bind in statement._generate_cache_key().bindparams]


@ENTITIES
def test_statements_that_differ_by_values_have_one_key_with_values_of_their_own(entity: Any) -> None:
    one, two = search(entity, "one", k=3, mode="dense"), search(entity, "two", k=4, mode="sparse")
    assert key(one) == key(two)
    assert sent(one)[0] == sent(two)[0]
    assert (values(one), values(two)) == (["one", 3, "dense"], ["two", 4, "sparse"])
    assert sorted(map(str, values(one))) == sorted(map(str, sent(one)[1]))


@ENTITIES
def test_whatever_is_sent_otherwise_has_another_key(entity: Any) -> None:
    table = entity if isinstance(entity, Table) else entity.__table__
    plain: Select[Any] = search(entity, "one")
    others = [
        plain,
        search(entity, "one", k=3),
        search(entity, "one", candidates=3),
        search(entity, "one", filter={"lang": "en"}),
        search(entity, "one", boost={"lang": "en"}),
        search(entity, "one", weights=(1, 0.5)),
        search_chunks(entity, "one"),
        search_chunks(entity, "one", per_row=2),
        search(entity, bindparam("q")),
        search(entity, func.lower("one")),
        search(aliased(entity) if entity is Doc else entity.alias(), "one"),
        plain.where(table.c.lang == "en"),
        plain.limit(3),
        plain.order_by(None),
        plain.with_only_columns(table.c.id),
        plain.execution_options(a=1).add_columns(table.c.lang.label("l")),
        search(docs if entity is Doc else Doc, "one"),
    ]
    assert len({key(statement) for statement in others}) == len(others)
    for statement in others[:-1]:
        again: Select[Any] = statement.where(table.c.id > 0)
        assert set(map(str, values(again))) == set(map(str, sent(again)[1]))


def test_what_a_search_was_told_in_vain_is_no_parameter() -> None:
    usual = search(docs, "one", k=10, mode=None, fusion="convex", candidates=100, skip=0, filter=None)
    assert sent(usual) == sent(search(docs, "one"))
    assert sent(usual)[1] == ["one"]
    assert sent(search(docs, "one", k=True))[1] == ["one", True]  # not 10, nor what equals it


@ENTITIES
def test_two_searches_in_one_statement_keep_their_values(entity: Any) -> None:
    one, two = search(entity, "one", k=3), search(entity, "two", k=4)
    left, right = one.subquery(), two.cte()
    joined = select(left.c.id, right.c.score).join(right, left.c.id == right.c.id)
    assert sorted(map(str, sent(joined)[1])) == ["3", "4", "one", "two"]
    assert sent(one.union_all(two))[1] == ["one", 3, "two", 4]
    assert key(one.union_all(two)) == key(two.union_all(one))
    assert sent(one)[0] == sent(two)[0]


@ENTITIES
def test_parameters_that_are_given_later_reach_the_call(entity: Any) -> None:
    statement = search(entity, bindparam("q"), k=bindparam("k"))
    assert sent(statement.params(q="one", k=3))[1] == ["one", 3]
    assert sent(statement.params(q="one", k=3).subquery().select())[1] == ["one", 3]


def test_the_classes_of_one_table_do_not_share_a_statement() -> None:
    assert key(search(Kind, "one")) != key(search(Own, "one"))
    assert "kinds.kind IN" in sent(search(Own, "one"))[0]


@ENTITIES
def test_a_statement_can_be_stored(entity: Any) -> None:
    table = entity if isinstance(entity, Table) else entity.__table__
    for statement in (search(entity, "one", k=3), search(entity, "one").where(table.c.lang == "en")):
        key(statement)
        if entity is docs:
            again = pickle.loads(pickle.dumps(statement))
        else:
            again = serializer.loads(serializer.dumps(statement), Base.metadata)
        assert sent(again) == sent(statement)
        assert values(again) == values(statement)


@ENTITIES
def test_columns_are_found_by_those_of_the_statement(entity: Any) -> None:
    statement = search(entity, "one")
    assert statement.selected_columns.keys()[-6:] == [
        *("score", "dense_rank", "dense_score", "sparse_rank", "sparse_score", "rerank_score")
    ]
    part = statement.subquery()
    assert part.c.score.type._type_affinity is statement.selected_columns.score.type._type_affinity
    assert part.corresponding_column(statement.selected_columns.score) is part.c.score
    assert (
        "ORDER BY score DESC"
        in sent(statement.order_by(None).order_by(statement.selected_columns.score.desc()))[0]
    )
