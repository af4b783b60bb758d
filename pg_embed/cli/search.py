"""`pg-embed search`: the rows of a table that answer a query best."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json


@app.command()
def search(
    dsn: DsnOption,
    table: Annotated[str, typer.Option(help="The table, as in SQL.", show_default=False)],
    query: Annotated[str | None, typer.Argument(help="What to look for.", show_default=False)] = None,
    like: Annotated[
        str | None,
        typer.Option(
            help="In place of a query: the key of a row, to find others like it.", show_default=False
        ),
    ] = None,
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
    vectorizer: Annotated[str | None, typer.Option(help="Its name, where there are several.")] = None,
    diversity: Annotated[
        float | None, typer.Option(help="From 0 to 1: how much rows that are alike are kept apart.")
    ] = None,
    boost: Annotated[
        str | None, typer.Option(help='JSON: {"published_at": {"half_life": "30 days", "weight": 0.5}}.')
    ] = None,
    skip: Annotated[int, typer.Option(help="How many of the first rows to leave out.")] = 0,
    chunks: Annotated[int | None, typer.Option(help="So many of the best chunks of each row.", min=1)] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Show this one; may be given often. By default all but vectors.", show_default=False
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the ranks and scores by which a row came here.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Do not search: show how it would be done, and by which indexes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search a table by meaning and by words, or rows like another."""
    from pg_embed.cli.finding import find, for_people, print_plan, read_json
    from pg_embed.cli.output import print_rows

    options = {
        "k": k,
        "mode": mode,
        "fusion": fusion,
        "rerank": rerank,
        "vectorizer": vectorizer,
        "key": like,
        "diversity": diversity,
        "skip": skip,
        "filter": read_json("filter", filters),
        "boost": read_json("boost", boost),
    }
    if plan:
        print_plan(dsn, table, query, options, as_json=as_json)
        return
    found = find(dsn, table, query, column, options, explain=explain, chunks=chunks)
    print_rows(found if as_json else for_people(found), as_json=as_json, nothing="there is no answer")
