"""`embed.search` as a part of a QuerySet: a join with what a search finds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from django.db.models import Expression, Field, FloatField, IntegerField, Min, TextField
from django.db.models.expressions import Col
from django.db.models.sql.constants import INNER
from psycopg import sql

from pg_embed import statements
from pg_embed.django.conditions import condition_of
from pg_embed.django.fields import TemplateField
from pg_embed.errors import InvalidArgument
from pg_embed.search import Fusion, Mode

SQL = statements.fragments("django")
HITS = "pg_embed_hits"
SCORES = ("score", "dense_rank", "dense_score", "sparse_rank", "sparse_score", "rerank_score")
CHUNKS = ("chunk_no", "chunk", "context", "score", "chunk_score")
PLACE = "place"
TYPES: dict[str, type[Field]] = {
    **dict.fromkeys(("chunk", "context"), TextField),
    **dict.fromkeys((PLACE, "chunk_no", "dense_rank", "sparse_rank"), IntegerField),
}  # the others are numbers


@dataclass(frozen=True)
class Asked:
    """The arguments of a search, in the order of the statement, all but the condition."""

    query: str
    k: int
    mode: Mode | None
    filter: str | None  # JSON
    fusion: Fusion
    weights: tuple[float, ...] | None
    candidates: int
    rerank: str | None
    min_score: float | None
    vectorizer: str | None
    diversity: float | None
    boost: str | None  # JSON
    skip: int
    per_row: int | None = None  # chunks, where they are searched

    @property
    def columns(self) -> tuple[str, ...]:
        """What is told of a hit, in the order of the function's columns."""
        return SCORES if self.per_row is None else CHUNKS

    def parameters(self) -> list[Any]:
        """As the driver is given them."""
        told = dict(self.__dict__)
        if self.per_row is None:
            del told["per_row"]
        return [list(value) if isinstance(value, tuple) else value for value in told.values()]


class HitColumn(Expression):
    """A column of what a search finds, which is of no model."""

    def __init__(self, alias: str, name: str) -> None:
        super().__init__(output_field=TYPES.get(name, FloatField)(null=True))
        self.alias = alias
        self.name = name

    def relabeled_clone(self, change_map: Mapping[Any, Any]) -> HitColumn:
        """The same in a query whose aliases have changed."""
        return HitColumn(change_map.get(self.alias, self.alias), self.name)

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """The alias, and the name that the statement gives the column."""
        return f"{connection.ops.quote_name(self.alias)}.{self.name}", []


class Best(Expression):
    """The order of the hits of a query, wherever the query stands and whatever its aliases are by then."""

    def __init__(self) -> None:
        super().__init__(output_field=IntegerField())

    def resolve_expression(self, query: Any = None, *args: Any, **options: Any) -> Any:
        """The place of a hit, or the best one of a group of them."""
        place = HitColumn(_alias_of_hits(query), PLACE)
        return Min(place).resolve_expression(query) if isinstance(query.group_by, tuple) else place


@dataclass(unsafe_hash=True)
class Hits:
    """The join, as Django's queries know joins, which they give an alias and a type.

    `source` is the alias of the searched table, `key` its key's columns in a hit and in the query; `child` is
    the model of which the rows must be, where that inherits the searched table by a join.
    """

    asked: Asked
    table: str
    source: str  # alias
    key: tuple[tuple[str, Col], ...]  # column in the hit, and where the query has it
    child: Any = None
    table_alias: str | None = field(default=None, compare=False)
    table_name: str = HITS
    join_type: str = field(default=INNER, compare=False)
    nullable: bool = False
    filtered_relation: None = None

    @property
    def parent_alias(self) -> str:
        """What it hangs on."""
        return str(self.key[0][1].alias)

    def promote(self) -> Hits:
        """A row that was not found is no row."""
        return self

    demote = promote

    def relabeled_clone(self, change_map: Mapping[Any, Any]) -> Hits:
        """The same in a query whose aliases have changed."""
        key = tuple((name, column.relabeled_clone(change_map)) for name, column in self.key)
        source = change_map.get(self.source, self.source)
        return replace(
            self, key=key, source=source, table_alias=change_map.get(self.table_alias, self.table_alias)
        )

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """The function in FROM, given what the query demands of the table."""
        if connection.vendor != "postgresql":
            hint = "choose the database: Doc.objects.using('...').search(...)"
            raise InvalidArgument(f"database {connection.alias!r} is {connection.vendor}", hint=hint)
        conditions = condition_of(compiler, compiler.query.where, self.source)
        if self.child is not None:
            conditions.append(self._is_child(connection))
        alias = connection.ops.quote_name(self.table_alias)
        matches = [
            f"({alias}.hit).{_quoted(connection, column)} = {compiler.compile(place)[0]}"
            for column, place in self.key
        ]
        has_chunks = self.asked.per_row is not None
        text = sql.SQL(SQL["hits"]).format(
            function=sql.SQL("_search_chunks_v1" if has_chunks else "_search_v1"),
            per_row=sql.SQL(SQL["per_row"] if has_chunks else ""),
            columns=sql.SQL(", ").join(map(sql.Identifier, ("hit", *self.asked.columns, PLACE))),
            table=sql.SQL(_quoted(connection, self.table)),
            alias=sql.SQL(alias),
            matches=sql.SQL(" AND ".join(matches)),
        )
        return text.as_string(None), [*self.asked.parameters(), " AND ".join(conditions) or None]

    def _is_child(self, connection: Any) -> str:
        meta, quote = self.child._meta, connection.ops.quote_name
        names = {"key": self.key[0][0], "child_key": meta.pk.column, "child": meta.db_table}
        parts = {name: sql.SQL(quote(value)) for name, value in names.items()}
        return sql.SQL(SQL["is_child"]).format(**parts).as_string(None)


def _quoted(connection: Any, name: str) -> str:
    """A name in a statement with parameters."""
    return str(connection.ops.quote_name(name)).replace("%", "%%")


def search(
    queryset: Any,
    query: str,
    *,
    k: int = 10,
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
    prefix: str = "",
) -> Any:
    """The rows of a QuerySet that answer a query best, the best first, each with its scores.

    A QuerySet as any other, whose objects have score, dense_rank, dense_score, sparse_rank, sparse_score and
    rerank_score, with `prefix` before the names. A condition on columns of the searched table, and of nothing
    else, holds within the search wherever it stands, which therefore finds k rows that meet it; others are
    applied to its answer. `filter` and `boost` are embed.search's JSON; the other options are its own, too.
    """
    return _searched(queryset, _asked(locals()), prefix)


def search_chunks(
    queryset: Any,
    query: str,
    *,
    k: int = 10,
    per_row: int = 1,
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
    prefix: str = "",
) -> Any:
    """What `search` finds, each row with its chunk that answers best, or once for `per_row` of them.

    The objects have chunk (its text), score (the row's), chunk_score (its own), chunk_no and context, with
    `prefix` before the names. The table has chunks by a ChunkedField, or by a vectorizer that was made in
    SQL. `k` counts rows; the rest is as in `search`.
    """
    return _searched(queryset, _asked(locals()), prefix)


def _asked(told: Mapping[str, Any]) -> Asked:
    given = {own.name: told[own.name] for own in fields(Asked) if own.name in told}
    weights = given["weights"]
    given["weights"] = None if weights is None else tuple(float(weight) for weight in weights)
    return Asked(**{**given, "filter": _json(given["filter"]), "boost": _json(given["boost"])})


def _searched(queryset: Any, asked: Asked, prefix: str) -> Any:
    told = {f"{prefix}{name}": name for name in asked.columns}
    _refuse(queryset, told)
    chained = queryset._chain()
    alias = chained.query.join(_hits(chained.query, asked))
    scores = {own: HitColumn(alias, name) for own, name in told.items()}
    return chained.annotate(**scores).order_by(Best())


def _refuse(queryset: Any, names: Iterable[str]) -> None:
    if queryset.query.is_sliced or queryset.query.combinator:
        hint = "search first, and slice or combine what it gives"
        raise InvalidArgument("a QuerySet that is sliced or combined cannot be searched", hint=hint)
    if is_searched(queryset):
        raise InvalidArgument("a QuerySet is searched once", hint="combine two searches in Python")
    present = {own.name for own in queryset.model._meta.get_fields()}
    taken = [name for name in names if name in present]
    if taken:
        hint = "give the scores other names: search(..., prefix='search_')"
        raise InvalidArgument(f"{queryset.model._meta.label} has a field {taken[0]!r} itself", hint=hint)


def is_searched(queryset: Any) -> bool:
    """Whether it gives what a search found."""
    return _alias_of_hits(queryset.query) is not None


def _alias_of_hits(query: Any) -> Any:
    return next((alias for alias, join in query.alias_map.items() if isinstance(join, Hits)), None)


def _hits(query: Any, asked: Asked) -> Hits:
    searched = searched_model(query.model)
    is_child = searched is not query.model._meta.concrete_model
    source = query.get_initial_alias()
    if is_child:
        source = query.join_parent_model(query.model._meta, searched, source, {None: source})
    pk = searched._meta.pk
    fields = getattr(pk, "fields", None) or [pk]  # a composite key has several
    key = tuple((column.column, Col(source, column)) for column in fields)
    return Hits(asked, searched._meta.db_table, source, key, query.model if is_child else None)


def searched_model(model: Any) -> Any:
    """Of a model and those that it inherits by a join, the nearest one that has vectors."""
    concrete = model._meta.concrete_model
    line = [concrete, *concrete._meta.all_parents]
    having = (
        candidate
        for candidate in line
        if any(isinstance(own, TemplateField) for own in candidate._meta.local_fields)
    )
    return next(having, concrete)


def _json(given: Mapping[str, Any] | None) -> str | None:
    return None if given is None else json.dumps(given, default=str)
