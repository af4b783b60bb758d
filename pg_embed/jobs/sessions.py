"""Whether connections are sessions: a pooler in transaction mode gives each transaction whichever is free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from pg_embed import statements
from pg_embed.db import APPLICATION_NAME, CONNECT_TIMEOUT, checked, tls_advice, translate
from pg_embed.errors import InvalidArgument

SQL = statements.load("jobs")

# Limits of a role or a database that end sessions which only do what they are there for, and listen.
UNENDED = {"idle_session_timeout": "0", "transaction_timeout": "0"}

Connection = psycopg.AsyncConnection[Any]


async def require(dsn: str) -> None:
    """Refuse a DSN that leads to a pooler in transaction mode, or whose TLS cannot work.

    A database that is away is not refused.
    """
    try:
        async with await _connect(dsn) as first, await _connect(dsn) as second:
            await check(first, second)
    except psycopg.Error as exc:
        if tls_advice(exc):
            raise translate(exc) from exc
        return  # whoever needs the database tells of it, or waits for it


async def check(first: Connection, second: Connection) -> None:
    """Refuse two connections in autocommit that share what should be one's own: LISTEN, locks and settings.

    A backend that answers both, or a connection that two backends answer, is a pooler's doing.
    """
    seen = {await backend(first), await backend(first)}
    async with second.transaction():
        other = await backend(second)
        if len(seen) == 1 and other not in seen:
            seen.add(await backend(first))
    if len(seen) > 1 or other in seen:
        raise InvalidArgument(
            "the DSN leads to a connection pooler in transaction mode: no LISTEN, no locks of its own",
            hint="here the server's own address is needed, or a pooler in session mode;"
            " applications may stay with theirs",
        )


async def set_up(connection: Connection, settings: Mapping[str, str]) -> None:
    """Set what a session shall have, and let it live while nothing happens.

    Not by the startup packet: poolers refuse or drop its options.
    """
    await connection.execute(SQL["session"], {"settings": Jsonb({**UNENDED, **settings})})


async def backend(connection: Connection) -> int:
    """The process of the server that answers now."""
    row = await (await connection.execute(SQL["backend"], prepare=False)).fetchone()
    return int(row[0]) if row else 0


async def _connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(
        checked(dsn), autocommit=True, connect_timeout=CONNECT_TIMEOUT, application_name=APPLICATION_NAME
    )
