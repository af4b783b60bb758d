"""`pg-embed embed`: the vector of a text, by the way that queries take."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json
from pg_embed.cli.output import print_json


@app.command()
def embed(
    dsn: DsnOption,
    text: Annotated[str, typer.Argument(help="The text.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="By default the one that the vectorizers use.")] = None,
    document: Annotated[bool, typer.Option("--document", help="As a vectorizer would store it.")] = False,
    as_json: Json = False,
) -> None:
    """Print the vector of a text.

    The database asks the sidecar for it, as it does for queries.
    """
    from pg_embed.cli.database import ask

    (found,) = ask(dsn, "embed_document" if document else "embed", text=text, model=model)
    if as_json:
        print_json({"vector": json.loads(found["vector"])})
    else:
        typer.echo(found["vector"])
