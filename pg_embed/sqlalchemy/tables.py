"""Tables and their rows, as functions of SQL are told of them."""

from __future__ import annotations

from collections.abc import Mapping
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


class Named(ColumnElement[Any]):
    """`query => 'money back', k => 10`, arguments by their names, as one element: that costs less."""

    _traverse_internals: Any = (
        ("names", InternalTraversal.dp_string_list),
        ("values", InternalTraversal.dp_clauseelement_list),
    )
    type = NullType()

    def __init__(self, arguments: Mapping[str, ColumnElement[Any]]) -> None:
        self.names = list(arguments)
        self.values = list(arguments.values())

    @property
    def _from_objects(self) -> list[FromClause]:
        return [source for value in self.values for source in value._from_objects]


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
    return f"NULL::{compiler.preparer.format_table(base_table(element.source))}"


@compiles(Named)
def _named(element: Named, compiler: SQLCompiler, **kw: Any) -> str:
    values = (compiler.process(value, **kw) for value in element.values)
    return ", ".join(f"{name} => {value}" for name, value in zip(element.names, values, strict=True))


@compiles(Field)
def _field(element: Field, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.record, **kw)}).{compiler.preparer.quote(element.name)}"


def base_table(source: Any) -> Any:
    """What an alias stands for."""
    while isinstance(source, Alias):
        source = source.element
    return source
