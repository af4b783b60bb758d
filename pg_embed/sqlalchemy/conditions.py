"""The conditions that a SELECT puts on one table's own columns, as a text that the server puts together.

A search runs them inside its legs: applied to its answer alone, they would leave fewer rows than it was asked
for. Values stay bound parameters; it is `quote_nullable` on the server that makes literals of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from sqlalchemy import ARRAY, Column, FromClause, Select, all_, any_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ClauseElement,
    ColumnElement,
    Grouping,
    Label,
    NamedColumn,
    TextClause,
)
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.sql.sqltypes import TupleType
from sqlalchemy.types import TypeEngine

MEMBERSHIP = (operators.in_op, operators.not_in_op)
PASSED_ON = ("literal_binds", "render_postcompile")  # options of a compiler that concern parameters
MARK = "\0"  # stands in no statement


class Slot(ColumnElement[Any]):
    """The place of a value in a condition, only while it is compiled."""

    inherit_cache = False

    def __init__(self, number: int, type_: TypeEngine[Any]) -> None:
        self.number = number
        self.type = type_


@compiles(Slot)
def _slot(element: Slot, compiler: SQLCompiler, **kw: Any) -> str:
    return f"{MARK}{element.number}{MARK}"


def condition_on(source: FromClause, compiler: SQLCompiler, options: Mapping[str, Any]) -> str:
    """What the SELECT that is compiled demands of `source` alone, as an expression; NULL for nothing."""
    enclosing = compiler.stack[-1]["selectable"] if compiler.stack else None
    where = enclosing.whereclause if isinstance(enclosing, Select) else None
    own = [part for part in _conjuncts(where) if is_about(part, source)]
    if not own:
        return "CAST(NULL AS TEXT)"
    options = {name: options[name] for name in PASSED_ON if name in options}
    return " || $c$ AND $c$ || ".join(_quoted(part, compiler, options) for part in own)


def is_about(clause: ClauseElement, source: FromClause) -> bool:
    """Whether a condition is about columns of one table, and of nothing else."""
    about = False
    for element in visitors.iterate(clause):
        if isinstance(element, Label):
            continue
        if isinstance(element, (SelectBase, TextClause)) or _is_fixed_list(element):
            return False
        if isinstance(element, NamedColumn):
            if not isinstance(element, Column) or element.table != source:
                return False
            about = True
    return about


def _is_fixed_list(element: Any) -> bool:
    """A list that can be no array: of pairs, or a parameter by name, which is a list at its other places."""
    if not isinstance(element, BindParameter) or not element.expanding:
        return False
    return not element.unique or isinstance(element.type, TupleType) or element.type._isnull


def _conjuncts(where: Any) -> Iterator[ClauseElement]:
    if isinstance(where, Grouping):
        yield from _conjuncts(where.element)
    elif isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        for part in where.clauses:
            yield from _conjuncts(part)
    elif where is not None:
        yield where


def _quoted(clause: ClauseElement, compiler: SQLCompiler, options: dict[str, Any]) -> str:
    """The expression that gives one condition as a text, in brackets."""
    binds: list[BindParameter[Any]] = []

    def slot(bind: BindParameter[Any], type_: TypeEngine[Any]) -> Slot:
        held = bind._clone()
        held.expanding, held.literal_execute, held.type = False, False, type_
        binds.append(held)
        return Slot(len(binds) - 1, type_)

    def replace(element: Any, **kw: Any) -> ColumnElement[Any] | None:
        if isinstance(element, BinaryExpression) and element.operator in MEMBERSHIP:
            left, right = element.left, element.right
            if isinstance(right, BindParameter) and right.expanding:
                left = visitors.replacement_traverse(left, {}, replace)
                listed = slot(right, ARRAY(right.type))
                if element.operator is operators.in_op:
                    return Grouping(BinaryExpression(left, any_(listed), operators.eq))
                return Grouping(BinaryExpression(left, all_(listed), operators.ne))
        if isinstance(element, BindParameter):
            return slot(element, element.type)
        return None

    replaced = visitors.replacement_traverse(clause, {}, replace)
    # the legs read the table alone, under a name of their own
    text, *rest = compiler.process(replaced, include_table=False, **options).split(MARK)
    parts = [_dollars(f"({text}")]
    for number, between in zip(rest[::2], rest[1::2], strict=True):
        bind = binds[int(number)]
        bound = compiler.process(bind, **options)
        parts += [
            f"pg_catalog.quote_nullable(CAST({bound} AS TEXT))",
            _dollars(_cast(bind, compiler) + between),
        ]
    return f"{' || '.join(parts)} || $c$)$c$"


def _cast(bind: BindParameter[Any], compiler: SQLCompiler) -> str:
    """What the dialect writes behind a parameter of this type, as in ::INTEGER."""
    return compiler.bindparam_string("", bindparam_type=bind.type).removeprefix(compiler.bindparam_string(""))


def _dollars(text: str) -> str:
    """A text as SQL quotes it with nothing in it changed, signs of percent included."""
    tag = next(tag for tag in (f"$c{number or ''}$" for number in count()) if tag not in text)
    return f"{tag}{text}{tag}"
