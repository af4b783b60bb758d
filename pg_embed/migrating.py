"""What migrations send, whichever tool runs them: plain SQL that needs no parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from psycopg import sql

from pg_embed import statements
from pg_embed.models.presets import presets

SQL = statements.fragments("migrating")


def call(function: str, /, first: Any, **named: Any) -> sql.Composed:
    """A call of one of the functions of schema embed: one argument by its place, the others by name."""
    arguments = [literal(first)] + [
        sql.SQL("{} => {}").format(sql.Identifier(name), literal(value)) for name, value in named.items()
    ]
    return sql.SQL(SQL["call"]).format(
        function=sql.Identifier(function), arguments=sql.SQL(", ").join(arguments)
    )


def literal(value: Any) -> sql.Composable:
    """A value as SQL writes it, with the type that tells our overloaded functions apart."""
    if isinstance(value, sql.Composable):
        return value
    if isinstance(value, Mapping):
        return sql.SQL("{}::jsonb").format(sql.Literal(orjson.dumps(dict(value)).decode()))
    if isinstance(value, str):
        return sql.SQL("{}::text").format(sql.Literal(str(value)))
    if isinstance(value, (list, tuple)):
        items = sql.SQL(", ").join(sql.Literal(str(item)) for item in value)
        return sql.SQL("ARRAY[{}]::text[]").format(items)
    return sql.Literal(value)


def create_model(
    name: str,
    family: str | None = None,
    options: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    **flags: bool,
) -> sql.Composed:
    """Enter a model; without a family it is what pg_embed knows by the name, card included."""
    told = {"family": family, "options": options, "card": card}
    preset = presets().get(name)
    if family is None and preset is not None and preset.card is not None:
        told = {"family": preset.family, "options": dict(preset.options), "card": preset.card.as_dict()}
    given = {key: value for key, value in told.items() if value is not None}
    return call("create_model", name, **given, **true(flags))


def drop_model(name: str, *, if_exists: bool = False, if_unused: bool = False) -> sql.Composed:
    """Remove a model, or only if nothing uses it."""
    if if_unused:
        return sql.SQL(SQL["drop_unused_model"]).format(name=sql.Literal(name))
    return call("drop_model", name, **true({"if_exists": if_exists}))


def true(flags: Mapping[str, bool]) -> dict[str, bool]:
    """Those flags that are set."""
    return {name: flag for name, flag in flags.items() if flag}
