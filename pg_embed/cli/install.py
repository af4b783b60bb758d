"""`pg-embed install` and `pg-embed upgrade`: the same work, without and with an installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import Json, OptionalDsn, Sql, no_dsn
from pg_embed.cli.output import print_json
from pg_embed.errors import InvalidArgument

Kind = Annotated[
    str | None, typer.Option(help="plpython, spool, dblink or none; by default the best that can be set up.")
]
Socket = Annotated[
    Path | None, typer.Option(help="plpython: the sidecar's Unix socket on the server's host.")
]
Host = Annotated[str | None, typer.Option(help="plpython: the sidecar's host, as the server sees it.")]
Port = Annotated[int | None, typer.Option(help="plpython: the sidecar's TCP port.")]
Token = Annotated[Path | None, typer.Option(help="plpython: the file with its token, on the server's host.")]
Spool = Annotated[Path | None, typer.Option(help="spool: a folder that server and sidecar share.")]
Loopback = Annotated[str | None, typer.Option(help="dblink: how the server reaches itself.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds that embed() waits; 30 by default.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        envvar=["PG_EMBED_UPGRADE_FROM", "PG_EMBED_INSTALL_FROM"],
        help="With --sql: the revision that the database is at.",
    ),
]


def install(
    context: typer.Context,
    dsn: OptionalDsn = None,
    sql: Sql = False,
    revision: From = None,
    transport: Kind = None,
    socket: Socket = None,
    host: Host = None,
    port: Port = None,
    token_file: Token = None,
    spool: Spool = None,
    dblink_host: Loopback = None,
    dblink_port: Loopback = None,
    dblink_user: Loopback = None,
    dblink_password: Loopback = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Install pg_embed in a database, or change its transport."""
    from pg_embed.cli import installing

    upgrades = context.info_name == "upgrade"
    if sql:
        if upgrades and revision is None:
            raise InvalidArgument("name the database's revision with --from; pg-embed doctor tells it")
        typer.echo(installing.as_sql(revision), nl=False)
        return
    if not dsn:
        raise no_dsn()
    told: dict[str, Any] = {
        "socket": socket, "host": host, "port": port, "token_file": token_file, "directory": spool,
        "loopback_host": dblink_host, "loopback_port": dblink_port, "loopback_user": dblink_user,
        "loopback_password": dblink_password, "timeout": timeout,
    }  # fmt: skip
    settings = {name: value for name, value in told.items() if value is not None}
    report = installing.run(dsn, transport, settings or None, upgrades=upgrades)
    if as_json:
        print_json(report)
    else:
        installing.explain(report)


app.command()(install)
app.command("upgrade", help="Bring the installation of a database up to this version.")(install)
