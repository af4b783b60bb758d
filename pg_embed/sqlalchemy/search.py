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
    cast,
    column,
    func,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.util import AliasedInsp
from sqlalchemy.sql.elements import ColumnElement

from pg_embed.errors import InvalidArgument
from pg_embed.search import Fusion, Mode
from pg_embed.sqlalchemy.conditions import Condition
from pg_embed.sqlalchemy.declarations import declared
from pg_embed.sqlalchemy.tables import Field, RowOf, base_table

SCORES = ("score", "dense_rank", "dense_score", "sparse_rank", "sparse_score", "rerank_score")
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
    hits = _hits(
        source,
        query=cast(query, Text),
        k=cast(k, Integer),
        mode=cast(mode, Text),
        filter=_json(filter),
        fusion=cast(fusion, Text),
        weights=cast(None if weights is None else [float(weight) for weight in weights], ARRAY(REAL)),
        candidates=cast(candidates, Integer),
        rerank=cast(rerank, Text),
        min_score=cast(min_score, REAL),
        vectorizer=cast(vectorizer, Text),
        condition=Condition(source),
        diversity=cast(diversity, REAL),
        boost=_json(boost),
        skip=cast(skip, Integer),
    )
    # not by JOIN, after which filter_by() would not be about the entity
    matched = [key == Field(hits.c.hit, key.name, key.type) for key in source.primary_key]
    scores = [hits.c[name].label(name) for name in SCORES]
    return select(entity, *scores).where(*matched, *_kinds(entity, source)).order_by(hits.c[PLACE])


def _json(given: Mapping[str, Any] | None) -> ColumnElement[Any]:
    return cast(cast(None if given is None else json.dumps(given, default=str), Text), JSONB)


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
    having = (table for table in reversed(mapper.tables) if declared(table))
    return next(having, mapper.local_table)


def _kinds(entity: Any, source: FromClause) -> list[ColumnElement[bool]]:
    """What tells the rows of a class from others in a table of a class that it inherits by a join."""
    found = inspect(entity)
    if not isinstance(found, Mapper) or found.local_table is source or found.polymorphic_on is None:
        return []
    kinds = [mapper.polymorphic_identity for mapper in found.self_and_descendants]
    return [found.polymorphic_on.in_(kinds)]


def _hits(source: FromClause, **arguments: ColumnElement[Any]) -> TableValuedAlias:
    """The function's rows; later versions of it have more arguments, hence each goes by its name."""
    named = (literal_column(name).op("=>")(value) for name, value in arguments.items())
    ranks = [column(name, Integer if name.endswith("_rank") else REAL) for name in SCORES]
    return func.embed._search_v1(literal_column("source").op("=>")(RowOf(source)), *named).table_valued(
        column("hit"), *ranks, with_ordinality=PLACE
    )
