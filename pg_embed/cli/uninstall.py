"""`pg-embed uninstall`: triggers, functions, catalog and queue go; columns of vectors stay."""

from __future__ import annotations

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import OptionalDsn, Sql, no_dsn
from pg_embed.cli.output import say


@app.command()
def uninstall(dsn: OptionalDsn = None, sql: Sql = False) -> None:
    """Remove pg_embed from a database. Vectors, chunks and the three roles stay."""
    from pg_embed import install

    if sql:
        typer.echo(install.uninstall_sql(), nl=False)
    elif dsn:
        install.uninstall(dsn, tell=say)
        typer.echo(
            "removed; columns of vectors and tables of chunks stay, and the roles embed_reader, embed_owner,"
            " embed_worker"
        )
    else:
        raise no_dsn()
