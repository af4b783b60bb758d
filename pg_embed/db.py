"""Connections to Postgres; the only place where psycopg's errors become ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pg_embed import errors

CONNECT_TIMEOUT = 10  # seconds
APPLICATION_NAME = "pg_embed"
KEEPALIVE = {  # of connections that are kept: a network that goes silent is noticed after half a minute
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds; else what is sent into nowhere is waited for for long
}
READ_ONLY = "25006"  # SQLSTATE of a write on a standby, or in a session that may not write
GENERATION = (
    1  # of what workers and sidecars call; counted up, here and in 15_generations.sql, with each new call
)
NO_TABLE = "42P01"
REACHED = "check the DSN's host and port, and that the server runs and listens there"
ADMITTED = "check the DSN's user and password, and what the server's pg_hba.conf lets in"
REFUSALS = (  # words of the server, and what to do; one that speaks another language gets no hint
    ('" does not exist', "check the DSN's user and database; createdb makes a database"),
    ("authentication failed", ADMITTED),
    ("no password supplied", ADMITTED),
    ("pg_hba.conf", ADMITTED),
)
OURS = re.compile(r'(?<![\w"])"?embed"?\.|schema "embed"')

# What libpq, or the server for it, says of a connection that TLS prevents, and what to do. The messages have
# no SQLSTATE; of a certificate whose time is over libpq says no more than that it was not verified.
TLS_ADVICE = {
    "certificate verify failed": "no authority in sslrootcert made the server's certificate, or its time is"
    " over: take the service's present root certificates; if that does not help, the server needs a new one",
    "does not match host name": "sslmode=verify-full wants a name that is in the server's certificate: write"
    " that into the DSN as host (and the address, if need be, as hostaddr)",
    "root certificate file": "sslrootcert must be a file of certificates that this process can read: download"
    " the service's",
    "no pg_hba.conf entry for .*(no encryption|SSL off)": "if the server demands TLS: put sslmode=verify-full"
    " and the service's sslrootcert into the DSN, or else sslmode=require; or its pg_hba.conf wants a line",
    "server does not support SSL": "the server, or the pooler before it, has no TLS: turn it on there, or,"
    " where nobody can listen, take sslmode out of the DSN",
    "SSL required": "the pooler demands TLS: put sslmode=verify-full and its sslrootcert into the DSN, or"
    " else sslmode=require",
}


def _by_sqlstate() -> dict[str, type[errors.PgEmbedError]]:
    classes = [errors.PgEmbedError]
    for parent in classes:
        classes.extend(parent.__subclasses__())
    return {cls.sqlstate: cls for cls in classes}


def error_class(sqlstate: str) -> type[errors.PgEmbedError]:
    """The class of ours that has a SQLSTATE; `PgEmbedError` itself where none has."""
    return _by_sqlstate().get(sqlstate, errors.PgEmbedError)


def translate(exc: psycopg.Error, *, installing: bool = False) -> errors.PgEmbedError:
    """The error of ours that says what Postgres said. Something of ours that is missing means that nothing is
    installed, unless an installation is what failed."""
    message = exc.diag.message_primary or str(exc).strip() or type(exc).__name__
    hint = exc.diag.message_hint
    if exc.sqlstate == NO_TABLE:
        hint = hint or "check the name; a table that is not on the search_path is written schema.table"
    if exc.sqlstate == READ_ONLY:
        hint = hint or "this server is a standby, or the session is read-only: connect to the primary"
    hint = hint or tls_advice(exc)
    cls = _by_sqlstate().get(exc.sqlstate or "", errors.DatabaseError)
    if not installing and exc.sqlstate in ("3F000", "42883", "42P01") and OURS.search(message):
        return errors.NotInstalled(
            "pg_embed is not installed in this database, or an older version of it is",
            hint="run: pg-embed install DSN",
        )
    return cls(message, hint=hint)


def tls_advice(exc: Exception) -> str | None:
    """What to do about a connection that TLS prevented, and will again; None where something else did."""
    if not isinstance(exc, psycopg.OperationalError) or exc.sqlstate:
        return None
    return next((advice for said, advice in TLS_ADVICE.items() if re.search(said, str(exc))), None)


@contextmanager
def translated(*, installing: bool = False) -> Iterator[None]:
    """Let psycopg's errors leave the block as ours."""
    try:
        yield
    except psycopg.Error as exc:
        raise translate(exc, installing=installing) from exc


def checked(dsn: str) -> str:
    """The DSN, if libpq can read it; what it cannot read may hold a password, and is not repeated."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        hint = "write postgresql://user@host/name without a driver's name, or libpq's key=value words"
        raise errors.InvalidArgument("the DSN cannot be read", hint=hint) from None
    return dsn


def unconnected(exc: psycopg.Error) -> errors.DatabaseError:
    """The error of ours for a connection that was not made, with what to look at."""
    said = " ".join(str(exc).split()) or type(exc).__name__
    hint = translate(exc).hint or next((hint for words, hint in REFUSALS if words in said), None)
    return errors.DatabaseError(said, hint=hint or (None if "FATAL" in said else REACHED))


@contextmanager
def _connecting() -> Iterator[None]:
    with translated():
        try:
            yield
        except psycopg.OperationalError as exc:
            raise unconnected(exc) from exc


def connect(dsn: str, *, autocommit: bool = True, **kwargs: Any) -> psycopg.Connection[Any]:
    """A connection for commands; an unreachable server is an error of ours."""
    checked(dsn)
    with _connecting():
        return psycopg.connect(
            dsn,
            autocommit=autocommit,
            connect_timeout=CONNECT_TIMEOUT,
            application_name=APPLICATION_NAME,
            prepare_threshold=None,  # behind a pooler in transaction mode the next statement may go elsewhere
            **kwargs,
        )


def is_lost(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether a connection is closed, or the server ended it while it was idle; nothing is sent."""
    try:
        for _ in range(2):  # the server says farewell, and then its end is seen
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.closed
