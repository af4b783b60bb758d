"""`pg-embed vectorize`: keep columns of vectors of a table's text."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json
from pg_embed.cli.output import print_json


@app.command()
def vectorize(
    dsn: DsnOption,
    table: Annotated[str, typer.Argument(help="The table, as SQL writes it.", show_default=False)],
    columns: Annotated[
        list[str] | None,
        typer.Argument(metavar="COLUMN", help="Its columns of text.", show_default=False),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Instead of columns, such as '{title}: {body}'.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="By default the database's default model.")] = None,
    filter: Annotated[str | None, typer.Option(help="A condition in SQL; other rows get no vector.")] = None,
    column: Annotated[
        str, typer.Option(help="The column for the vectors, added where it is missing.")
    ] = "embedding",
    column_type: Annotated[str | None, typer.Option(help="halfvec or vector.")] = None,
    sparse: Annotated[
        str | None, typer.Option(help="A second model, for sparse vectors beside the dense ones: bm25.")
    ] = None,
    sparse_column: Annotated[
        str | None, typer.Option(help="A column for the sparse vectors of a model that makes them.")
    ] = None,
    multi_column: Annotated[
        str | None, typer.Option(help="A column for the token vectors of a model that makes them.")
    ] = None,
    prepare: Annotated[
        str | None, typer.Option(help="A hook of the workers, by name, that makes texts of the columns.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="By default table_column.")] = None,
    index: Annotated[
        str, typer.Option(help="An index to build after the backfill: none, auto, hnsw or binary.")
    ] = "none",
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="No error where there is one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a vectorizer: rows of a table are embedded from now on.

    Rows that are there already are embedded behind those that change.
    """
    from pg_embed.cli.database import ask

    (made,) = ask(
        dsn,
        "create_vectorizer",
        table=table,
        columns=columns or None,
        template=template,
        model=model,
        filter=filter,
        column=column,
        column_type=column_type,
        sparse_column=sparse_column,
        multi_column=multi_column,
        prepare=prepare,
        name=name,
        if_not_exists=if_not_exists,
        index=index,
        sparse=sparse,
    )
    if as_json:
        print_json(made)
    else:
        typer.echo(f"vectorizer {made['vectorizer']}; see how far it is with: pg-embed status")
