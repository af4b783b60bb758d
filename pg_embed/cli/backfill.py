"""`pg-embed backfill`: look at the rows of a table again."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption


@app.command()
def backfill(
    dsn: DsnOption,
    vectorizer: Annotated[str, typer.Argument(help="By its name or its table's.", show_default=False)],
    everything: Annotated[
        bool,
        typer.Option(
            "--all", envvar="PG_EMBED_BACKFILL_ALL", help="Every row again, not only those without vector."
        ),
    ] = False,
) -> None:
    """Queue the rows of a table that have no vector, or all of them.

    They are embedded behind rows that change.
    """
    from pg_embed.cli.database import ask

    ask(dsn, "backfill", vectorizer=vectorizer, mode="all" if everything else "missing")
    typer.echo("a worker will look at the table's rows; see how far it is with: pg-embed status")
