"""`pg-embed rerank`: texts by how well they answer a query, by the way that queries take."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json
from pg_embed.cli.output import print_rows


@app.command()
def rerank(
    dsn: DsnOption,
    query: Annotated[str, typer.Argument(help="What the texts are to answer.", show_default=False)],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="By default the lines of standard input.", show_default=False),
    ] = None,
    model: Annotated[str | None, typer.Option(help="By default the database's only reranker.")] = None,
    as_json: Json = False,
) -> None:
    """Print texts by how well they answer a query.

    The database asks the sidecar for their scores.
    """
    from pg_embed.cli.database import ask

    found = ask(dsn, "rerank", query=query, texts=texts or _lines(), model=model)
    print_rows(found, as_json=as_json, nothing="there is no text")


def _lines() -> list[str]:
    """The lines of standard input that are not blank."""
    from pg_embed.errors import InvalidArgument

    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as exc:
        raise InvalidArgument("standard input is not valid UTF-8") from exc
    return [line for line in map(str.strip, text.split("\n")) if line]
