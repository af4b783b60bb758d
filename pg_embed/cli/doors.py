"""Which doors a sidecar opens: those that were named, or those that the database's transport leads to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from psycopg.errors import InsufficientPrivilege

from pg_embed.cli.database import ask
from pg_embed.errors import DatabaseError, InvalidArgument
from pg_embed.serve.settings import ServeSettings

ADDRESSES = ("socket", "tcp_port", "spool", "mailbox_dsn")


def chosen(settings: ServeSettings, dsn: str | None, **options: Any) -> ServeSettings:
    """The settings with the options that were given; with no door for the database among them, its own."""
    named = replace(settings, **{name: value for name, value in options.items() if value is not None})
    if dsn is None or any(getattr(named, address) is not None for address in ADDRESSES):
        return named
    return replace(named, **_of_transport(dsn))


def _of_transport(dsn: str) -> dict[str, Any]:
    try:
        rows = ask(dsn, "transport")
    except DatabaseError as exc:
        if not isinstance(exc.__cause__, InsufficientPrivilege):
            raise
        hint = "name the door: --socket, --tcp-port, --spool or --mailbox"
        raise InvalidArgument("this role may not read which door the database uses", hint=hint) from exc
    kind, told = (rows[0]["kind"], rows[0]["settings"]) if rows else ("none", {})
    if kind == "dblink":
        return {"mailbox_dsn": dsn}
    if kind == "spool":
        return {"spool": Path(told["directory"])}
    if kind == "plpython" and "socket" in told:
        return {"socket": Path(told["socket"])}
    if kind == "plpython":
        token = told.get("token_file")
        address = {"tcp_host": told["host"], "tcp_port": int(told["port"])}
        return address | ({"tcp_token_file": Path(token)} if token else {})
    return {}
