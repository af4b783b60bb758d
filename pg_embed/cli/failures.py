"""`pg-embed failures`: rows that were given up."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import Dsn, Json, Vectorizer
from pg_embed.cli.output import print_rows


@app.command()
def failures(
    dsn: Dsn,
    vectorizer: Vectorizer = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows, at most.")] = 100,
    as_json: Json = False,
) -> None:
    """List the rows that were given up, with their errors.

    The oldest come first.
    """
    from pg_embed.cli.database import ask

    rows = ask(dsn, "failures", vectorizer=vectorizer, most=limit)
    print_rows(rows, as_json=as_json, nothing="no row was given up")
