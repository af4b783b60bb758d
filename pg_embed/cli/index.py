"""`pg-embed index`: the indexes over dense vectors; build one from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json


@app.command()
def index(
    dsn: DsnOption,
    vectorizer: Annotated[
        str | None, typer.Argument(help="By its name or its table's; without, all are listed.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be built and what it costs, and build nothing.")
    ] = False,
    kind: Annotated[
        str | None, typer.Option(help="auto, hnsw, binary, or none to stop looking after it.")
    ] = None,
    m: Annotated[int | None, typer.Option(help="Edges of a row in the graph; by default by rows.")] = None,
    ef_construction: Annotated[
        int | None, typer.Option(help="Candidates for the edges of a row; by default by rows.")
    ] = None,
    min_rows: Annotated[
        int | None, typer.Option(help="auto builds none below so many rows; 10000 by default.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="maintenance_work_mem for the build, such as 2GB.")
    ] = None,
    parallel_workers: Annotated[
        int | None, typer.Option(help="max_parallel_maintenance_workers for the build.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the indexes, or build that of a vectorizer now.

    Who builds must be the owner of its table.
    """
    from pg_embed.cli.database import ask
    from pg_embed.cli.indexing import build_now, show, show_plan
    from pg_embed.errors import InvalidArgument

    shape = {"kind": kind, "m": m, "ef_construction": ef_construction, "min_rows": min_rows}
    wish = {**shape, "memory": memory, "parallel_workers": parallel_workers}
    wished = any(value is not None for value in wish.values())
    if vectorizer is None:
        if plan or wished:
            raise InvalidArgument("no vectorizer is named", hint="name one that pg-embed index lists")
        show(ask(dsn, "indexes", vectorizer=None), as_json=as_json)
        return
    if plan:
        (planned,) = ask(dsn, "index_plan", vectorizer=vectorizer, **shape)
        show_plan(planned, as_json=as_json)
        return
    wanted = next((row["wanted"] for row in ask(dsn, "indexes", vectorizer=vectorizer)), "none")
    if wished or wanted == "none":
        wish["kind"] = kind or (wanted if wanted != "none" else "auto")
        ask(dsn, "create_index", vectorizer=vectorizer, **wish)
    if kind != "none":
        build_now(dsn, vectorizer)
    after = ask(dsn, "indexes", vectorizer=vectorizer)
    show(after, as_json=as_json)
    if any(row["state"] not in ("valid", "none") for row in after):
        raise typer.Exit(1)
