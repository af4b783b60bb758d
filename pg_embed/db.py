"""Connections to Postgres; the only place where psycopg's errors become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pg_embed import errors

CONNECT_TIMEOUT = 10  # seconds
APPLICATION_NAME = "pg_embed"


def _by_sqlstate() -> dict[str, type[errors.PgEmbedError]]:
    classes = [errors.PgEmbedError]
    for parent in classes:
        classes.extend(parent.__subclasses__())
    return {cls.sqlstate: cls for cls in classes}


def translate(exc: psycopg.Error, *, installing: bool = False) -> errors.PgEmbedError:
    """The error of ours that says what Postgres said. Something of ours that is missing means that nothing is
    installed, unless an installation is what failed."""
    message = exc.diag.message_primary or str(exc).strip() or type(exc).__name__
    hint = exc.diag.message_hint
    cls = _by_sqlstate().get(exc.sqlstate or "", errors.DatabaseError)
    if not installing and exc.sqlstate in ("3F000", "42883", "42P01") and "embed." in message + str(exc):
        return errors.NotInstalled(
            "pg_embed is not installed in this database, or an older version of it is",
            hint="run: pg-embed install DSN",
        )
    return cls(message, hint=hint)


@contextmanager
def translated(*, installing: bool = False) -> Iterator[None]:
    """Let psycopg's errors leave the block as ours."""
    try:
        yield
    except psycopg.Error as exc:
        raise translate(exc, installing=installing) from exc


def connect(dsn: str, *, autocommit: bool = True, **kwargs: Any) -> psycopg.Connection[Any]:
    """A connection for commands; an unreachable server is an error of ours."""
    with translated():
        return psycopg.connect(
            dsn,
            autocommit=autocommit,
            connect_timeout=CONNECT_TIMEOUT,
            application_name=APPLICATION_NAME,
            **kwargs,
        )
