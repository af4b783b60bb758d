"""Arguments and options that several commands have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pg_embed.errors import InvalidArgument

DSN_HELP = "The database: postgresql://user@host/name, or libpq's key=value words."

Dsn = Annotated[str, typer.Argument(envvar="PG_EMBED_DSN", help=DSN_HELP, show_default=False)]
OptionalDsn = Annotated[str | None, typer.Argument(envvar="PG_EMBED_DSN", help=DSN_HELP, show_default=False)]
DsnOption = Annotated[str, typer.Option("--dsn", envvar="PG_EMBED_DSN", help=DSN_HELP, show_default=False)]
OptionalDsnOption = Annotated[
    str | None, typer.Option("--dsn", envvar="PG_EMBED_DSN", help=DSN_HELP, show_default=False)
]
Json = Annotated[bool, typer.Option("--json", envvar="PG_EMBED_JSON", help="Print JSON.")]
Vectorizer = Annotated[str | None, typer.Option(help="One vectorizer, by its name or its table's.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the embedded PostgreSQL lives; by default the user's data folder."),
]
Known = Annotated[bool, typer.Option("--known", help="Those that may be taken, though a database is named.")]
Hosted = Annotated[
    bool | None, typer.Option("--hosted/--local", help="Of the known: at a provider, or here.")
]
Outputs = Annotated[
    Literal["dense", "sparse", "multi", "score"] | None,
    typer.Option(help="Of the known: those that make such, score being a reranker's."),
]
Language = Annotated[
    str | None, typer.Option(help="Of the known: those told to read it, such as chinese or code.")
]
Sql = Annotated[bool, typer.Option("--sql", help="Print what psql can run, and do not connect.")]


def no_dsn() -> InvalidArgument:
    """What a command says that needs a database and has none."""
    return InvalidArgument(
        "no database is named", hint="give its DSN, or set PG_EMBED_DSN, as in postgresql://user@host/name"
    )


def mode(text: str) -> int:
    """A file's mode, as an option gives it."""
    from pg_embed.config import read_mode

    try:
        return read_mode(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def named_value(text: str) -> tuple[str, Any]:
    """`dimensions=256` is a number, `query_prompt=find:` a text: what is JSON is read as JSON."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
