"""`pg-embed recall`: how well an index finds."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json
from pg_embed.cli.output import print_json, print_rows


@app.command()
def recall(
    dsn: DsnOption,
    vectorizer: Annotated[str, typer.Argument(help="By its name or its table's.", show_default=False)],
    k: Annotated[int, typer.Option(help="Results of a search.")] = 10,
    samples: Annotated[int, typer.Option(help="Stored vectors that are searched for, at most.")] = 50,
    seconds: Annotated[float, typer.Option(help="About how long to measure, at most.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Compare searches by the index with exact ones.

    Tells the share that the index finds, and the time of both.
    """
    from pg_embed.cli.database import ask

    (row,) = ask(dsn, "recall", vectorizer=vectorizer, k=k, samples=samples, seconds=seconds)
    if as_json:
        print_json(row)
        return
    tried = row.pop("tried") or {}
    remarks = row.pop("remarks")
    print_rows([row], as_json=False, nothing="")
    if tried:
        by_ef = [{"hnsw.ef_search": ef, "recall": tried[ef]} for ef in sorted(tried, key=int)]
        print_rows(by_ef, as_json=False, nothing="")
    typer.echo(remarks)
