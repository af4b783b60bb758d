"""A call of a function that searches, as what a SELECT reads from: one element, cheap to build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, REAL, Cast, FromClause, Integer, Text, cast, column, literal_column, null, table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnClause, ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeEngine

from pg_embed.sqlalchemy.conditions import condition_on
from pg_embed.sqlalchemy.tables import base_table, name_of

Columns = Mapping[str, TypeEngine[Any]]
SEARCH, SEARCH_CHUNKS = "_search_v1", "_search_chunks_v1"
TOLD: Mapping[str, Columns] = {
    SEARCH: {
        "score": REAL(),
        "dense_rank": Integer(),
        "dense_score": REAL(),
        "sparse_rank": Integer(),
        "sparse_score": REAL(),
        "rerank_score": REAL(),
    },
    SEARCH_CHUNKS: {
        "chunk": Text(),
        "score": REAL(),
        "chunk_score": REAL(),
        "chunk_no": Integer(),
        "context": Text(),
    },
}  # what a function tells of a hit
TYPES: Columns = {
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
    "weights": ARRAY(REAL),
    "filter": JSONB(),
    "boost": JSONB(),
    "per_row": Integer(),
}
USUAL: Mapping[str, Any] = {
    **dict.fromkeys(TYPES),
    "k": 10,
    "fusion": "convex",
    "candidates": 100,
    "skip": 0,
    "per_row": 1,
}
ASKED = ("query", "mode", "rerank", "vectorizer")  # by what a search asks models
NOTES = "pg_embed_searches"
HIT, PLACE = "hit", "ordinality"
OF_A_FROM = (
    "asfrom",
    "lateral",
    "enclosing_alias",
    "enclosing_lateral",
    "from_linter",
    "lateral_from_linter",
)


@dataclass(frozen=True)
class Noted:
    """A search in a compiled statement: its table, and the arguments by which it asks models."""

    source: FromClause
    told: Mapping[str, ColumnElement[Any]]


def noted(compiled: Any) -> list[Noted]:
    """The searches of a compiled statement."""
    found: list[Noted] = vars(compiled).get(NOTES, []) if compiled is not None else []
    return found


class Called(FromClause):
    """`embed._search_v1(NULL::docs, query => 'money back', …) WITH ORDINALITY`, to be used by an alias.

    `names` are those of the arguments that are not the usual ones, and `values` theirs. What the SELECT
    around it demands of `source` alone becomes an argument, too.
    """

    inherit_cache = True
    _traverse_internals: Any = (
        ("function", InternalTraversal.dp_string),
        ("source", InternalTraversal.dp_clauseelement),
        ("names", InternalTraversal.dp_string_list),
        ("values", InternalTraversal.dp_clauseelement_list),
    )

    def __init__(self, function: str, source: FromClause, given: Mapping[str, ColumnElement[Any]]) -> None:
        self.function = function
        self.source = source
        self.names = list(given)
        self.values = list(given.values())

    @property
    def c(self) -> Any:
        """Its columns, the same for all calls: an alias makes its own of them."""
        return _columns(self.function)


@cache
def _columns(function: str) -> Any:
    told = (column(name, type_) for name, type_ in TOLD[function].items())
    return table(function, column(HIT), *told, column(PLACE)).c


def columns_of(hits: FromClause, function: str) -> list[ColumnClause[Any]]:
    """The columns of an alias of a call in their order, as in its `c`, which costs more to make."""
    made = []
    for base in _columns(function):
        own = ColumnClause(base.name, base.type, _selectable=hits)
        own._proxies = [base]
        made.append(own)
    return made


@compiles(Called)
def _called(element: Called, compiler: SQLCompiler, **kw: Any) -> str:
    options = {name: value for name, value in kw.items() if name not in OF_A_FROM}
    given = dict(zip(element.names, element.values, strict=True))
    # later versions of a function have more arguments, hence each goes by its name
    values = {
        name: _cast(name, given.get(name, _usual(name)))
        for name in TYPES
        if name != "per_row" or element.function == SEARCH_CHUNKS
    }
    arguments = {name: compiler.process(value, **options) for name, value in values.items()}
    asked = {name: values[name].clause for name in ASKED}
    vars(compiler).setdefault(NOTES, []).append(Noted(base_table(element.source), asked))
    arguments["condition"] = condition_on(element.source, compiler, options)
    written = ", ".join(f"{name} => {value}" for name, value in arguments.items())
    row = f"NULL::{name_of(element.source, compiler)}"
    return f"embed.{element.function}({row}, {written}) WITH ORDINALITY"


def _usual(name: str) -> ColumnElement[Any]:
    return null() if USUAL[name] is None else literal_column(repr(USUAL[name]))


def _cast(name: str, value: ColumnElement[Any]) -> Cast[Any]:
    return value if isinstance(value, Cast) else cast(value, TYPES[name])
