"""The conditions that a query puts on one table's own columns, as a text that a search is given.

A search runs them inside its legs: applied to its answer alone, they would leave fewer rows than it was asked
for. It is the driver that makes literals of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db.models import Func, Lookup, Value
from django.db.models.expressions import (
    Case,
    Col,
    ColPairs,
    CombinedExpression,
    ExpressionWrapper,
    When,
)
from django.db.models.functions import Random
from django.db.models.sql.where import AND, WhereNode

from pg_embed.django.embedding import Embed

PLAIN = (Lookup, WhereNode, Func, Case, When, CombinedExpression, ExpressionWrapper, ColPairs, Value, Embed)


def condition_of(compiler: Any, where: Any, alias: str) -> list[str]:
    """The conditions of a query about one alias alone, each in brackets; columns stand without a table."""
    found = []
    for part in _conjuncts(where):
        if not is_about(part, alias):
            continue
        try:
            text, parameters = compiler.compile(part.relabeled_clone({alias: None}))
        except FullResultSet:
            continue
        except EmptyResultSet:
            return ["false"]
        found.append(f"({compiler.connection.ops.compose_sql(text, tuple(parameters))})")
    return found


def is_about(condition: Any, alias: str) -> bool:
    """Whether a condition is about columns of one alias, and of nothing else."""
    about = False
    for part in _parts(condition):
        if isinstance(part, Col):
            if part.alias != alias:
                return False
            about = True
        elif hasattr(part, "as_sql") and not _is_plain(part):
            return False
    return about


def _is_plain(part: Any) -> bool:
    """Whether a row's columns tell its value, and all of it is seen by what it is made of."""
    of_many_rows = getattr(part, "contains_aggregate", False) or getattr(part, "contains_over_clause", False)
    return isinstance(part, PLAIN) and not isinstance(part, Random) and not of_many_rows


def _conjuncts(where: Any) -> Iterator[Any]:
    if isinstance(where, WhereNode) and where.connector == AND and not where.negated:
        for part in where.children:
            yield from _conjuncts(part)
    else:
        yield where


def _parts(node: Any) -> Iterator[Any]:
    """A condition and all that it is made of."""
    yield node
    if isinstance(node, WhereNode):
        inner = node.children
    elif isinstance(node, Lookup):
        inner = [node.lhs, *(node.rhs if isinstance(node.rhs, (list, tuple, set)) else [node.rhs])]
    elif isinstance(node, ColPairs):
        inner = node.get_cols()
    else:
        inner = node.get_source_expressions() if hasattr(node, "get_source_expressions") else []
    for part in inner:
        if part is not None:
            yield from _parts(part)
