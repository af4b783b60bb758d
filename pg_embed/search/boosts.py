"""Boosts in SQL: what is added to the score of each candidate of a search."""

from __future__ import annotations

import math
from datetime import timedelta

from psycopg import sql

from pg_embed import statements
from pg_embed.errors import InvalidArgument


def recency(column: str | sql.Composable, half_life: timedelta, weight: float) -> sql.Composed:
    """`weight` for a row of now, half of it after `half_life`, by a column of dates or timestamps.

    The column is one of the searched table, or an expression. Several boosts are joined by
    `sql.SQL(" + ").join([...])`.
    """
    if half_life <= timedelta(0):
        raise InvalidArgument(f"half_life is {half_life}", hint="it is above 0: timedelta(days=30)")
    if not math.isfinite(weight):
        raise InvalidArgument(f"the weight is {weight}", hint="give a finite number, such as 0.5")
    return sql.SQL(statements.load("search")["recency"]).format(
        column=sql.Identifier(column) if isinstance(column, str) else column,
        weight=sql.Literal(float(weight)),
        seconds=sql.Literal(half_life.total_seconds()),
    )
