"""`pg-embed search`: the rows of a table that answer a query best."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json


@app.command()
def search(
    dsn: DsnOption,
    query: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    table: Annotated[str, typer.Option(help="The table, as in SQL.", show_default=False)],
    k: Annotated[int, typer.Option("--k", envvar="PG_EMBED_SEARCH_K", help="How many rows.")] = 10,
    mode: Annotated[
        str | None, typer.Option(help="hybrid, dense or sparse; by default what the table has.")
    ] = None,
    filters: Annotated[
        str | None,
        typer.Option(
            "--filter", envvar="PG_EMBED_SEARCH_FILTER", help='JSON: {"lang": "en", "year": {">=": 2020}}.'
        ),
    ] = None,
    fusion: Annotated[str, typer.Option(help="convex, rrf or dbsf.")] = "convex",
    rerank: Annotated[str | None, typer.Option(help="A model that judges the best rows again.")] = None,
    vectorizer: Annotated[
        str | None, typer.Option(help="Where the table has several of a kind: its name.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Show this one; may be given often. By default all but vectors.", show_default=False
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the ranks and scores by which a row came here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search a table by meaning and by words, asked of the sidecar through the database."""
    from pg_embed.cli.finding import find, for_people
    from pg_embed.cli.output import print_rows

    found = find(
        dsn,
        table,
        query,
        column,
        {"k": k, "mode": mode, "fusion": fusion, "rerank": rerank, "vectorizer": vectorizer},
        filters,
        explain=explain,
    )
    print_rows(found if as_json else for_people(found), as_json=as_json, nothing="there is no answer")
