"""`embed.search` as an ordinary SELECT of SQLAlchemy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    FromClause,
    Integer,
    Select,
    Table,
    TableValuedAlias,
    Text,
    and_,
    cast,
    column,
    func,
    inspect,
    literal,
    literal_column,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.util import AliasedInsp
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Alias
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import NullType, TypeEngine

from pg_embed.errors import InvalidArgument
from pg_embed.search import Fusion, Mode
from pg_embed.sqlalchemy.conditions import Condition

SCORES = ("score", "dense_rank", "dense_score", "sparse_rank", "sparse_score", "rerank_score")
PLACE = "ordinality"


class RowOf(ColumnElement[Any]):
    """`NULL::docs`, by which a function knows the table."""

    _traverse_internals: Any = (("source", InternalTraversal.dp_clauseelement),)
    type = NullType()

    def __init__(self, source: FromClause) -> None:
        self.source = source


class Field(ColumnElement[Any]):
    """`(hits.hit).id`, a column of a whole row."""

    _traverse_internals: Any = (
        ("record", InternalTraversal.dp_clauseelement),
        ("name", InternalTraversal.dp_string),
        ("type", InternalTraversal.dp_type),
    )

    def __init__(self, record: ColumnElement[Any], name: str, type_: TypeEngine[Any]) -> None:
        self.record = record
        self.name = name
        self.type = type_

    @property
    def _from_objects(self) -> list[FromClause]:
        return self.record._from_objects


@compiles(RowOf)
def _row_of(element: RowOf, compiler: SQLCompiler, **kw: Any) -> str:
    return f"NULL::{compiler.preparer.format_table(_table(element.source))}"


@compiles(Field)
def _field(element: Field, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.record, **kw)}).{compiler.preparer.quote(element.name)}"


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
) -> Select[Any]:
    """The rows of a table that answer a query best, the best first, each with its scores.

    `entity` is a mapped class, an alias of one, or a table; the statement gives it first, then score,
    dense_rank, dense_score, sparse_rank, sparse_score and rerank_score. It takes joins, options, limits and
    conditions as any other. A condition on columns of the entity's own table, and of nothing else, holds
    within the search, which therefore finds k rows that meet it; others are applied to its answer. `filter`
    is embed.search's JSON; the other options are those of embed.search, too.
    """
    source = searched(entity)
    hits = _hits(
        source,
        query=_argument(query, Text()),
        k=_argument(k, Integer()),
        mode=_argument(mode, Text()),
        filter=cast(_argument(None if filter is None else json.dumps(filter, default=str), Text()), JSONB),
        fusion=_argument(fusion, Text()),
        weights=_argument(None if weights is None else [float(weight) for weight in weights], ARRAY(REAL)),
        candidates=_argument(candidates, Integer()),
        rerank=_argument(rerank, Text()),
        min_score=_argument(min_score, REAL()),
        vectorizer=_argument(vectorizer, Text()),
        condition=Condition(source),
    )
    matched = and_(*(key == Field(hits.c.hit, key.name, key.type) for key in source.primary_key))
    return (
        select(entity, *(hits.c[name].label(name) for name in SCORES))
        .join_from(entity, hits, matched)
        .order_by(hits.c[PLACE])
    )


def searched(entity: Any) -> FromClause:
    """The table that an entity is searched in, or an alias of it."""
    try:
        found = inspect(entity)
    except NoInspectionAvailable:
        found = None
    if isinstance(found, Mapper):
        found = found.local_table
    elif isinstance(found, AliasedInsp):
        found = found.selectable
    if not isinstance(found, FromClause) or not isinstance(_table(found), Table):
        hint = "give a mapped class, an alias of one, or a table: search(Doc, 'money back')"
        raise InvalidArgument(f"{entity!r} is nothing that can be searched", hint=hint)
    if not found.primary_key:
        raise InvalidArgument(
            f"table {_table(found)} has no primary key", hint="declare it in the Table, too"
        )
    return found


def _table(source: Any) -> Any:
    while isinstance(source, Alias):
        source = source.element
    return source


def _argument(value: Any, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """A value, or an expression such as a bindparam(), of the type that the function has."""
    if value is None:
        return cast(null(), type_)
    return cast(value if isinstance(value, ColumnElement) else literal(value, type_), type_)


def _hits(source: FromClause, **arguments: ColumnElement[Any]) -> TableValuedAlias:
    """The function's rows; later versions of it have more arguments, hence each goes by its name."""
    named = (literal_column(name).op("=>")(value) for name, value in arguments.items())
    ranks = [column(name, Integer if name.endswith("_rank") else REAL) for name in SCORES]
    return func.embed._search_v1(literal_column("source").op("=>")(RowOf(source)), *named).table_valued(
        column("hit"), *ranks, with_ordinality=PLACE
    )
