"""`pg-embed switch`: from one model to another while everybody searches."""

from __future__ import annotations

from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DsnOption, Json


@app.command()
def switch(
    dsn: DsnOption,
    vectorizer: Annotated[
        str | None, typer.Argument(help="By its name or its table's; without, all switches are listed.")
    ] = None,
    model: Annotated[str | None, typer.Argument(help="The new model: begin a switch to it.")] = None,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Swap when all rows are there and compared, without a further word."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is ready, or with --auto until it is done.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Say how far it is, and nothing else.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Swap now.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Give it up, and drop what was made.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the old vectors.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Drop the old vectors.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Swap though rows or their index are missing; with --finish.")
    ] = False,
    keep: Annotated[
        str, typer.Option(help="What becomes of the old vectors: 'in step', 'frozen' or 'drop'.")
    ] = "in step",
    chunking: Annotated[
        str | None, typer.Option(help="How the new model's chunks are cut, in JSON; by default as before.")
    ] = None,
    ignore_dependants: Annotated[
        bool, typer.Option("--ignore-dependants", help="Let views and the like keep the old vectors.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Change the model of a vectorizer while everybody searches.

    New columns or chunks are filled, compared and swapped; the old ones are kept, to go back to.
    """
    from pg_embed.cli.finding import read_json
    from pg_embed.cli.switching import act, show, until_ready
    from pg_embed.errors import InvalidArgument

    steps = {"finish": finish, "abort": abort, "rollback": rollback, "forget": forget}
    wished = [step for step, wish in steps.items() if wish] + (["begin"] if model else [])
    if len(wished) > 1 or (wished and status):
        raise InvalidArgument("several things are asked for at once", hint="name one of them")
    if vectorizer is None and (wished or wait):
        raise InvalidArgument("no vectorizer is named", hint="name one that pg-embed status lists")
    if chunking is not None and wished != ["begin"]:
        raise InvalidArgument("--chunking belongs to the beginning of a switch", hint="name a model, too")
    read_json("chunking", chunking)  # whose error says more than the server's
    if wished and vectorizer is not None:
        dependants = "ignore" if ignore_dependants else "refuse"
        begun = {"model": model, "auto": auto, "keep": keep, "dependants": dependants, "chunking": chunking}
        act(dsn, wished[0], vectorizer, **begun, force=force)
    if wait and vectorizer is not None:
        until_ready(dsn, vectorizer)
    show(dsn, vectorizer, as_json=as_json)
