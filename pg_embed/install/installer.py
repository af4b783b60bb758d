"""Install, upgrade and remove pg_embed in one transaction each, whoever else is doing the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import sqlalchemy as sa
import stamina
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_embed import db, statements
from pg_embed.errors import NotInstalled
from pg_embed.install import migrate, script, transports
from pg_embed.records import Card, ModelSpec

SQL = statements.load("install")
UNREACHED = "the server does not reach itself, and dblink must: give --dblink-host and --dblink-port"
TRIES = 8  # of a removal that met a worker's locks in another order


@dataclass(frozen=True)
class Report:
    """What an installation did, for people and for `--json`."""

    revision: str
    transport: str
    reasons: Mapping[str, str]
    roles: tuple[str, ...]
    query_schema: str  # the schema where embed() stands
    notices: tuple[str, ...] = field(default=())


@contextmanager
def _transaction(dsn: str, notices: list[str]) -> Iterator[tuple[sa.Connection, psycopg.Connection[Any]]]:
    """A SQLAlchemy connection for Alembic and psycopg's beneath it for the rest, in one transaction."""
    raw = db.connect(dsn, autocommit=False)
    raw.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=sa.NullPool)
    try:
        with db.translated(installing=True), _unwrapped(), engine.connect() as connection, connection.begin():
            # one installation at a time; the others find the work done
            raw.execute(SQL["lock_installation"])
            yield connection, raw
    finally:
        raw.close()


@contextmanager
def _unwrapped() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as exc:
        if isinstance(exc.orig, psycopg.Error):
            raise exc.orig from exc
        raise


def install(
    dsn: str,
    *,
    transport: str | None = None,
    settings: Mapping[str, Any] | None = None,
    models: Sequence[tuple[ModelSpec, Card]] = (),
) -> Report:
    """Install pg_embed, or bring an installation up to date; doing it again changes nothing.

    `transport` is the best that the server allows with these settings, unless it is named; without either,
    an installation that has a transport keeps it. `models` are entered in the catalog where no model of that
    name is; the first becomes the default of a database that has none.
    """
    notices: list[str] = []
    with _transaction(dsn, notices) as (connection, raw):
        _run(raw, script.read("install", "roles.sql"))
        _run(raw, script.read("install", "prepare.sql"))
        migrate.upgrade(connection)
        _run(raw, script.read("transports", "none.sql"))  # the other functions call it
        _run(raw, script.functions())
        chosen = transports.set_up(raw, transport, settings)
        _run(raw, script.read("functions", "90_grants.sql"))
        for spec, card in models:
            raw.execute(SQL["seed_model"], _seed(spec, card))
        report = Report(
            revision=migrate.head(),
            transport=chosen.kind,
            reasons=chosen.reasons,
            roles=tuple(row[0] for row in raw.execute(SQL["roles"])),
            query_schema=str(_one(raw, SQL["query_schema"])),
            notices=tuple(notice for notice in notices if "does not exist, skipping" not in notice),
        )
    return replace(report, notices=(*report.notices, *_loopback(dsn, chosen, settings or {})))


def _loopback(dsn: str, chosen: transports.Chosen, settings: Mapping[str, Any]) -> list[str]:
    """What to say of a loopback that does not lead back; only one that is committed can be tried."""
    if chosen.kind != "dblink":
        return []
    with db.connect(dsn) as connection, db.translated(installing=True):
        problem = transports.reach(connection, settings, chosen.kept)
    return [] if problem is None else [f"{UNREACHED}: {problem}"]


def uninstall(dsn: str) -> None:
    """Remove pg_embed: triggers, functions, catalog and queue. Columns of vectors and the roles stay."""
    for attempt in stamina.retry_context(_is_deadlock, attempts=TRIES, wait_initial=0.1, wait_max=1.0):
        with attempt:
            _uninstall(dsn)


def _is_deadlock(error: Exception) -> bool:
    """Whether workers that go on had locked some of our tables, and wanted those that we had."""
    return isinstance(error.__cause__, psycopg.errors.DeadlockDetected)


def _uninstall(dsn: str) -> None:
    with _transaction(dsn, []) as (connection, raw):
        if migrate.current(connection) is None:
            raise NotInstalled(
                "pg_embed is not installed in this database", hint="there is nothing to remove"
            )
        raw.execute(SQL["drop_vectorizers"])
        transports.take_down(raw)
        raw.execute(SQL["drop_query_functions"])
        migrate.downgrade(connection)
        raw.execute(SQL["drop_schema"])


def install_sql(models: Sequence[tuple[ModelSpec, Card]] = ()) -> str:
    """The whole installation as text that psql runs, any number of times; it sets up no transport.

    That is left to `pg-embed upgrade`.
    """
    parts = [
        "-- pg_embed: run with psql, as the role that shall own it.",
        "\\set ON_ERROR_STOP on",
        "BEGIN;",
        installation_steps(),
        *(_literal(SQL["seed_model"], _seed(spec, card)) + ";" for spec, card in models),
        "RESET search_path;",
        "COMMIT;",
    ]
    return "\n\n".join(parts) + "\n"


def installation_steps() -> str:
    """What of it stands in the transaction, for somebody else's script; it leaves a search_path behind."""
    parts = [
        script.read("install", "roles.sql"),
        script.read("install", "prepare.sql"),
        SQL["is_fresh"] + " \\gset",
        "\\if :fresh",
        migrate.upgrade_sql(),
        script.read("transports", "none.sql"),
        "\\else",
        _literal(SQL["check_revision"], {"revision": migrate.head()}) + ";",
        "\\endif",
        script.functions(),
    ]
    return "\n\n".join(parts)


def install_within(connection: sa.Connection) -> None:
    """Install or upgrade in somebody else's transaction; no transport is set up, and one that is there stays.

    It leaves a search_path behind.
    """

    def run(text: str) -> sa.CursorResult[Any]:
        return connection.exec_driver_sql(text, execution_options={"no_parameters": True})

    run(SQL["lock_installation"])
    run(script.read("install", "roles.sql"))
    run(script.read("install", "prepare.sql"))
    fresh = run(SQL["is_fresh"]).scalar()
    migrate.upgrade(connection)
    if fresh:
        run(script.read("transports", "none.sql"))
    run(script.functions())


def removal_steps() -> list[str]:
    """The statements that remove pg_embed."""
    loopback = statements.load("transports")["drop_loopback"]
    return [SQL["drop_vectorizers"], loopback, SQL["drop_query_functions"], SQL["drop_schema"]]


def upgrade_sql(revision: str) -> str:
    """The upgrade of a database at a revision as text that psql runs; its transport stays as it is."""
    parts = [
        "-- pg_embed: run with psql, as the role that owns it.",
        "\\set ON_ERROR_STOP on",
        "BEGIN;",
        script.read("install", "roles.sql"),
        script.read("install", "prepare.sql"),
        migrate.upgrade_sql(revision),
        script.functions(),
        "RESET search_path;",
        "COMMIT;",
    ]
    return "\n\n".join(parts) + "\n"


def uninstall_sql() -> str:
    """The removal as text that psql runs."""
    return "\n\n".join(["\\set ON_ERROR_STOP on", "BEGIN;", *removal_steps(), "COMMIT;"]) + "\n"


def installed_revision(dsn: str) -> str | None:
    """The revision of a database's installation; None when there is none."""
    with _transaction(dsn, []) as (connection, _):
        return migrate.current(connection)


def _run(raw: psycopg.Connection[Any], text: str) -> None:
    raw.execute(text.encode())


def _one(raw: psycopg.Connection[Any], statement: Any) -> Any:
    row = raw.execute(statement).fetchone()
    return row[0] if row else None


def _seed(spec: ModelSpec, card: Card) -> dict[str, Any]:
    return {
        "name": spec.name,
        "family": spec.family,
        "options": Jsonb(dict(spec.options)),
        "card": Jsonb(card.as_dict()),
    }


def _literal(statement: str, parameters: Mapping[str, Any]) -> str:
    return statement % {name: sql.Literal(value).as_string(None) for name, value in parameters.items()}
