"""`pg-embed serve`: the sidecar, doors to the models and worker loops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import OptionalDsn, mode
from pg_embed.errors import InvalidArgument

Port = Annotated[int | None, typer.Option(min=0, max=65535, show_default=False)]
Secret = Annotated[Path | None, typer.Option(help="A file with the token that callers must show.")]


@app.command()
def serve(
    dsn: OptionalDsn = None,
    socket: Annotated[Path | None, typer.Option(help="Unix socket, for plpython on this host.")] = None,
    socket_mode: Annotated[
        int | None, typer.Option(parser=mode, metavar="MODE", help="Who may connect to it, such as 0660.")
    ] = None,
    tcp_host: Annotated[str | None, typer.Option(help="Address for plpython on other hosts.")] = None,
    tcp_port: Port = None,
    tcp_token_file: Secret = None,
    spool: Annotated[Path | None, typer.Option(help="Folder of the spool transport.")] = None,
    mailbox: Annotated[bool, typer.Option("--mailbox", help="Answer the dblink transport.")] = False,
    http_host: Annotated[str | None, typer.Option(help="Address for HTTP.")] = None,
    http_port: Port = None,
    http_token_file: Secret = None,
    worker: Annotated[bool, typer.Option(help="Embed the database's rows, too.")] = True,
) -> None:
    """Serve the models, and embed changed rows, until stopped.

    Doors that are not named are those that the transport of the database leads to.
    """
    from pg_embed import config
    from pg_embed.cli import logs
    from pg_embed.cli.catalog import first_model, models_in_use
    from pg_embed.cli.doors import chosen
    from pg_embed.cli.running import run_until_stopped
    from pg_embed.cli.service import Plan
    from pg_embed.serve.directory import CatalogDirectory, StaticDirectory

    settings = config.read()
    logs.set_up(settings.log, "info")
    if worker and not dsn:
        raise InvalidArgument("a worker needs a database", hint="give its DSN, or --no-worker")
    doors = chosen(
        settings.serve,
        dsn,
        socket=socket,
        socket_mode=socket_mode,
        tcp_host=tcp_host,
        tcp_port=tcp_port,
        tcp_token_file=tcp_token_file,
        spool=spool,
        mailbox_dsn=dsn if mailbox else None,
        http_host=http_host,
        http_port=http_port,
        http_token_file=http_token_file,
    )
    first, _ = first_model()
    plan = Plan(
        settings,
        doors,
        worker_dsn=dsn if worker else None,
        limits_dsn=dsn,
        directory=CatalogDirectory(dsn) if dsn else StaticDirectory([first]),
        warm=models_in_use(dsn) if dsn else (),
    )
    run_until_stopped(plan, lambda service: None)
