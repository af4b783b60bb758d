"""The application that the commands join."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="pg-embed",
    epilog="Every option can be given by the variable that stands behind it. Results go to standard output,"
    " all else to standard error. Exit status: 0 done, 1 failed, 2 wrong use,"
    " 130 interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "PG_EMBED", "help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from pg_embed import __version__

        typer.echo(f"pg-embed {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Text in PostgreSQL, searchable by meaning: rows are embedded by themselves, queries by pgvector."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
