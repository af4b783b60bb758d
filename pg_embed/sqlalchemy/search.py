"""`embed.search` as an ordinary SELECT of SQLAlchemy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack, overload

from sqlalchemy import Boolean, FromClause, Join, Select, Table, Text, __version__, cast, inspect, select
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.util import AliasedInsp
from sqlalchemy.sql import operators
from sqlalchemy.sql.cache_key import CacheKey
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, ColumnElement, Label
from sqlalchemy.types import TypeEngine

from pg_embed.errors import InvalidArgument
from pg_embed.search import Fusion, Mode
from pg_embed.sqlalchemy.calls import SEARCH, SEARCH_CHUNKS, TYPES, USUAL, Called, columns_of
from pg_embed.sqlalchemy.declarations import declared, declared_chunks
from pg_embed.sqlalchemy.tables import Field, base_table

T = TypeVar("T")
Query = str | ColumnElement[str]
Number = int | ColumnElement[int]
TRUTH = Boolean()
KEEPS_KEYS = __version__.startswith(("2.0.", "2.1."))  # how, is private to SQLAlchemy; others work it out
PLAIN = (str, int, float, type(None))
WRITTEN: Mapping[str, Callable[[Any], Any]] = {
    "weights": lambda weights: [float(weight) for weight in weights],
    "filter": lambda given: json.dumps(given, default=str),
    "boost": lambda given: json.dumps(given, default=str),
}
BOUND: Mapping[str, TypeEngine[Any]] = {**TYPES, "filter": Text(), "boost": Text()}


class Options(TypedDict, total=False):
    """What a search is told besides: see `search`."""

    k: Number
    mode: Mode | None
    filter: Mapping[str, Any] | None
    fusion: Fusion
    weights: tuple[float, float] | None
    candidates: int
    rerank: str | None
    min_score: float | None
    vectorizer: str | None
    diversity: float | None
    boost: Mapping[str, Any] | None
    skip: int


class ChunkOptions(Options, total=False):
    """The same of a search of chunks."""

    per_row: Number


# The types of rows are those of SQLAlchemy 2.1; for 2.0, whose Select has one parameter, they are Any.


@overload
def search(
    entity: type[T], query: Query, **options: Unpack[Options]
) -> Select[T, float, int | None, float | None, int | None, float | None, float | None]: ...


@overload
def search(entity: Any, query: Query, **options: Unpack[Options]) -> Select[Any]: ...


def search(
    entity: Any,
    query: Query,
    *,
    k: Number = 10,
    mode: Mode | None = None,
    filter: Mapping[str, Any] | None = None,
    fusion: Fusion = "convex",
    weights: tuple[float, float] | None = None,
    candidates: int = 100,
    rerank: str | None = None,
    min_score: float | None = None,
    vectorizer: str | None = None,
    diversity: float | None = None,
    boost: Mapping[str, Any] | None = None,
    skip: int = 0,
) -> Select[Any]:
    """The rows of a table that answer a query best, the best first, each with its scores.

    `entity` is a mapped class, an alias of one, or a table; the statement gives it first, then score,
    dense_rank, dense_score, sparse_rank, sparse_score and rerank_score. It takes joins, options, limits and
    conditions as any other. A condition on columns of the entity's own table, and of nothing else, holds
    within the search, which therefore finds k rows that meet it; others are applied to its answer. `filter`
    and `boost` are embed.search's JSON; the other options are those of embed.search, too.
    """
    source = searched(entity)
    return _rows(entity, source, SEARCH, _given(locals()))


@overload
def search_chunks(
    entity: type[T], query: Query, **options: Unpack[ChunkOptions]
) -> Select[T, str, float, float | None, int, str]: ...


@overload
def search_chunks(entity: Any, query: Query, **options: Unpack[ChunkOptions]) -> Select[Any]: ...


def search_chunks(
    entity: Any,
    query: Query,
    *,
    k: Number = 10,
    per_row: Number = 1,
    mode: Mode | None = None,
    filter: Mapping[str, Any] | None = None,
    fusion: Fusion = "convex",
    weights: tuple[float, float] | None = None,
    candidates: int = 100,
    rerank: str | None = None,
    min_score: float | None = None,
    vectorizer: str | None = None,
    diversity: float | None = None,
    boost: Mapping[str, Any] | None = None,
    skip: int = 0,
) -> Select[Any]:
    """What `search` finds, each row with the chunk that answers the query best, or with `per_row` of them.

    The statement gives the entity first, then chunk (its text), score (the row's), chunk_score (its own),
    chunk_no and context. The table has chunks by `chunked()`, or by a vectorizer that was made in SQL. `k`
    counts rows; the rest is as in `search`.
    """
    source = searched(entity)
    return _rows(entity, source, SEARCH_CHUNKS, _given(locals()))


def _given(told: Mapping[str, Any]) -> dict[str, ColumnElement[Any]]:
    """The arguments that are not the usual ones: what is left out is no parameter, and costs nothing."""
    given = {}
    for name, usual in USUAL.items():
        value = told.get(name, usual)
        if value is not usual and not (type(value) is type(usual) and value == usual):
            given[name] = _value(name, value)
    return given


def _value(name: str, value: Any) -> ColumnElement[Any]:
    if name in WRITTEN:
        value = WRITTEN[name](value)
    elif type(value) not in PLAIN:
        return cast(value, TYPES[name])
    return BindParameter(None, value, BOUND[name], unique=True)


def searched(entity: Any) -> FromClause:
    """The table that an entity is searched in, or an alias of it."""
    try:
        found = inspect(entity)
    except NoInspectionAvailable:
        found = None
    if isinstance(found, Mapper):
        found = _mapped_table(found)
    elif isinstance(found, AliasedInsp):
        found = _aliased_table(found)
    if not isinstance(found, FromClause) or not isinstance(base_table(found), Table):
        hint = (
            "give a mapped class, an alias of one, or a table: search(Doc, 'money back'); of a class that"
            " inherits by a join, aliased(Book, flat=True)"
        )
        raise InvalidArgument(f"{entity!r} is nothing that can be searched", hint=hint)
    if not found.primary_key:
        hint = "declare it in the Table, too"
        raise InvalidArgument(f"table {base_table(found)} has no primary key", hint=hint)
    return found


def _mapped_table(mapper: Mapper[Any]) -> Any:
    """Of the tables of a class that inherits by a join, the nearest one that has vectors."""
    tables = [found.local_table for found in mapper.iterate_to_root()]
    having = (
        table for table in tables if isinstance(table, Table) and (declared(table) or declared_chunks(table))
    )
    return next(having, mapper.local_table)


def _aliased_table(alias: AliasedInsp[Any]) -> Any:
    """The same of an alias, which may join them: with_polymorphic(), or aliased(..., flat=True)."""
    if not isinstance(alias.selectable, Join):
        return alias.selectable
    wanted = _mapped_table(alias.mapper)
    parts = (part for part in _joined(alias.selectable) if base_table(part) is wanted)
    return next(parts, alias.selectable)


def _joined(source: Any) -> Iterator[Any]:
    if isinstance(source, Join):
        yield from _joined(source.left)
        yield from _joined(source.right)
    else:
        yield source


def _kinds(entity: Any, source: FromClause) -> list[ColumnElement[bool]]:
    """What tells the rows of a class from others in a table of a class that it inherits by a join."""
    found = inspect(entity)
    mapper = getattr(found, "mapper", None)
    if mapper is None or mapper.local_table is base_table(source) or mapper.polymorphic_on is None:
        return []
    kind = mapper.polymorphic_on if found is mapper else source.corresponding_column(mapper.polymorphic_on)
    identities = [one.polymorphic_identity for one in mapper.self_and_descendants]
    return [] if kind is None else [kind.in_(identities)]


def _rows(
    entity: Any, source: FromClause, function: str, given: Mapping[str, ColumnElement[Any]]
) -> Select[Any]:
    found, *told, place = columns_of(Called(function, source, given).alias(), function)
    # not by JOIN, after which filter_by() would not be about the entity
    matched = [
        BinaryExpression(key, Field(found, key.name, key.type), operators.eq, type_=TRUTH)
        for key in source.primary_key
    ]
    named = [Label(one.name, one, one.type) for one in told]
    kinds = _kinds(entity, source)
    statement = select(entity, *named).where(*matched, *kinds).order_by(place)
    values = [value for value in given.values() if isinstance(value, BindParameter) and value.unique]
    if KEEPS_KEYS and isinstance(entity, type | Table) and not kinds and len(values) == len(given):
        _remember_key(statement, (_rows, function, entity, *given), values)
    return statement


def _remember_key(statement: Select[Any], key: tuple[Any, ...], values: Sequence[BindParameter[Any]]) -> None:
    """Spare SQLAlchemy's cache to walk through the statement for what is known: all are alike but for values.

    It stands where SQLAlchemy keeps the key that it works out, which goes when anything is added.
    """
    told = CacheKey._make((key, values, None)[: len(CacheKey._fields)])  # since 2.1 of three
    statement.__dict__["_generate_cache_key"] = lambda: told
    statement._memoized_keys |= {"_generate_cache_key"}
