"""Tables and their rows, as functions of SQL are told of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import FromClause
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Alias
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import NullType, TypeEngine


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
    return f"NULL::{name_of(element.source, compiler)}"


@compiles(Field)
def _field(element: Field, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.record, **kw)}).{compiler.preparer.quote(element.name)}"


def name_of(source: FromClause, compiler: SQLCompiler) -> str:
    """The table that a source is, or stands for, as SQL writes it."""
    return compiler.preparer.format_table(base_table(source))


def base_table(source: Any) -> Any:
    """What an alias stands for."""
    while isinstance(source, Alias):
        source = source.element
    return source
