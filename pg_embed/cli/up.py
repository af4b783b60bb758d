"""`pg-embed up`: an embedded PostgreSQL, doors and worker loops in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DataDir, Json
from pg_embed.cli.output import print_json, say

if TYPE_CHECKING:
    from pg_embed.cli.service import Service
    from pg_embed.embedded import EmbeddedServer


@app.command()
def up(
    data_dir: DataDir = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Listen on 127.0.0.1 too, with a password; 0 is any free port."),
    ] = None,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="For HTTP on 127.0.0.1; 0 is any free port.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Run an embedded PostgreSQL, sidecar and worker, until stopped."""
    from dataclasses import replace

    from pg_embed import config
    from pg_embed.cli import home, logs
    from pg_embed.cli.catalog import models_in_use
    from pg_embed.cli.running import run_until_stopped
    from pg_embed.cli.service import Plan
    from pg_embed.serve.directory import CatalogDirectory

    settings = config.read()
    logs.set_up(settings.log)
    say("starting PostgreSQL …")
    with home.opened(data_dir, port=port) as server:
        dsn = server.dsn()
        say("loading the models …")
        doors = replace(settings.serve, spool=server.spool_dir, http_port=http_port)
        plan = Plan(
            settings, doors, dsn, CatalogDirectory(dsn), warm=models_in_use(dsn), wait_for_models=True
        )
        run_until_stopped(plan, lambda service: _tell(server, service, port, as_json), at_once=server.stop)
    say("stopped")


def _tell(server: EmbeddedServer, service: Service, port: int | None, as_json: bool) -> None:
    from pg_embed.cli.home import psql_line

    dsn = server.dsn(tcp=port is not None)
    http = next(address for address in service.addresses if address.startswith("http"))
    if as_json:
        print_json({"dsn": dsn, "http": http, "data_dir": str(server.data_dir), "psql": psql_line(dsn)})
        return
    typer.echo(f"ready, with its data in {server.data_dir}\n\n    {psql_line(dsn)}\n")
    typer.echo(f"HTTP: {http}/v1/embeddings, /metrics. Ctrl-C stops everything and keeps the data.")
