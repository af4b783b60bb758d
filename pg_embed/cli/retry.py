"""`pg-embed retry`: send rows again that were given up."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import Dsn, Json, Vectorizer
from pg_embed.cli.output import print_json


@app.command()
def retry(
    dsn: Dsn,
    vectorizer: Vectorizer = None,
    key: Annotated[str | None, typer.Option(help="One row, by its key as failures shows it.")] = None,
    as_json: Json = False,
) -> None:
    """Send failed rows again, and do not wait for backoffs."""
    from pg_embed.cli.database import ask

    (sent,) = ask(dsn, "retry", vectorizer=vectorizer, key=key)
    if as_json:
        print_json(sent)
    else:
        typer.echo(f"{sent['rows']} rows are due again")
