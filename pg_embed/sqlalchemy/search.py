"""`embed.search` as an ordinary SELECT of SQLAlchemy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    FromClause,
    Function,
    Integer,
    Select,
    Table,
    TableValuedAlias,
    Text,
    cast,
    column,
    func,
    inspect,
    literal_column,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.util import AliasedInsp
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from pg_embed.errors import InvalidArgument
from pg_embed.search import Fusion, Mode
from pg_embed.sqlalchemy.conditions import Condition
from pg_embed.sqlalchemy.declarations import declared, declared_chunks
from pg_embed.sqlalchemy.tables import Field, Named, RowOf, base_table

Columns = Mapping[str, TypeEngine[Any]]
SCORES: Columns = {
    "score": REAL(),
    "dense_rank": Integer(),
    "dense_score": REAL(),
    "sparse_rank": Integer(),
    "sparse_score": REAL(),
    "rerank_score": REAL(),
}
CHUNKS: Columns = {
    "chunk": Text(),
    "score": REAL(),
    "chunk_score": REAL(),
    "chunk_no": Integer(),
    "context": Text(),
}
PLAIN: Columns = {
    "query": Text(),
    "k": Integer(),
    "mode": Text(),
    "fusion": Text(),
    "candidates": Integer(),
    "rerank": Text(),
    "min_score": REAL(),
    "vectorizer": Text(),
    "diversity": REAL(),
    "skip": Integer(),
}  # arguments as they are
TYPES: Columns = {**PLAIN, "weights": ARRAY(REAL), "filter": JSONB(), "boost": JSONB()}
USUAL: Mapping[str, Any] = {"k": 10, "fusion": "convex", "candidates": 100, "skip": 0}
# made once, as building a statement costs more than sending it; parameters could not be shared
FIXED: Mapping[str, ColumnElement[Any]] = {
    name: cast(literal_column(repr(USUAL[name])) if name in USUAL else null(), type_)
    for name, type_ in TYPES.items()
}
PLACE = "ordinality"


def search(
    entity: Any,
    query: str | ColumnElement[str],
    *,
    k: int | ColumnElement[int] = 10,
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
    hits = _hits("_search_v1", SCORES, _arguments(source, locals()))
    return _rows(entity, source, hits, SCORES)


def search_chunks(
    entity: Any,
    query: str | ColumnElement[str],
    *,
    k: int | ColumnElement[int] = 10,
    per_row: int | ColumnElement[int] = 1,
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
    arguments = {**_arguments(source, locals()), "per_row": cast(per_row, Integer)}
    return _rows(entity, source, _hits("_search_chunks_v1", CHUNKS, arguments), CHUNKS)


def _arguments(source: FromClause, told: Mapping[str, Any]) -> dict[str, ColumnElement[Any]]:
    """What both functions take; later versions of them have more, hence each goes by its name."""
    weights = told["weights"]
    given = {
        **{name: told[name] for name in PLAIN},
        "weights": None if weights is None else [float(weight) for weight in weights],
        "filter": _json(told["filter"]),
        "boost": _json(told["boost"]),
    }
    arguments = {name: _argument(name, value) for name, value in given.items()}
    return {"source": RowOf(source), **arguments, "condition": Condition(source)}


def _argument(name: str, value: Any) -> ColumnElement[Any]:
    """An argument, without a parameter where it is the usual one."""
    usual = USUAL.get(name)
    is_fixed = value is None if usual is None else type(value) is type(usual) and value == usual
    return FIXED[name] if is_fixed else cast(value, TYPES[name])


def _json(given: Mapping[str, Any] | None) -> ColumnElement[Any] | None:
    return None if given is None else cast(json.dumps(given, default=str), Text)


def searched(entity: Any) -> FromClause:
    """The table that an entity is searched in, or an alias of it."""
    try:
        found = inspect(entity)
    except NoInspectionAvailable:
        found = None
    if isinstance(found, Mapper):
        found = _mapped_table(found)
    elif isinstance(found, AliasedInsp):
        found = found.selectable
    if not isinstance(found, FromClause) or not isinstance(base_table(found), Table):
        hint = "give a mapped class, an alias of one, or a table: search(Doc, 'money back')"
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


def _kinds(entity: Any, source: FromClause) -> list[ColumnElement[bool]]:
    """What tells the rows of a class from others in a table of a class that it inherits by a join."""
    found = inspect(entity)
    if not isinstance(found, Mapper) or found.local_table is source or found.polymorphic_on is None:
        return []
    kinds = [mapper.polymorphic_identity for mapper in found.self_and_descendants]
    return [found.polymorphic_on.in_(kinds)]


def _hits(function: str, columns: Columns, arguments: Mapping[str, ColumnElement[Any]]) -> TableValuedAlias:
    typed = [column(name, type_) for name, type_ in columns.items()]
    called: Function[Any] = getattr(func.embed, function)(Named(arguments))
    return called.table_valued(column("hit"), *typed, with_ordinality=PLACE)


def _rows(entity: Any, source: FromClause, hits: TableValuedAlias, columns: Iterable[str]) -> Select[Any]:
    # not by JOIN, after which filter_by() would not be about the entity
    matched = [key == Field(hits.c.hit, key.name, key.type) for key in source.primary_key]
    told = [hits.c[name].label(name) for name in columns]
    return select(entity, *told).where(*matched, *_kinds(entity, source)).order_by(hits.c[PLACE])
