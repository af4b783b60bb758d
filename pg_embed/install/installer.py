"""Install, upgrade and remove pg_embed in one transaction each, whoever else is doing the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
import stamina
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_embed import db, statements
from pg_embed.errors import DatabaseError, InvalidArgument, NotInstalled, PgEmbedError
from pg_embed.install import migrate, script, transports
from pg_embed.records import Card, ModelSpec

SQL = statements.load("install")
LOCK_TIMEOUT = (
    500  # milliseconds; less than Postgres's deadlock_timeout: who gives up is never a worker or a writer
)
PATIENCE = 300.0  # seconds in which an installation tries again to get its locks
PASSING = ("55P03", "40P01")  # SQLSTATEs: a lock that was not free in time, a deadlock
Transaction = tuple[sa.Connection, psycopg.Connection[Any]]
Tell = Callable[[str], object]  # hears a sentence
SECOND = 2  # the first try that somebody else's lock has brought about
T = TypeVar("T")
UNREACHED = "the server does not reach itself, and dblink must: give --dblink-host and --dblink-port"


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
def _transaction(dsn: str, notices: list[str]) -> Iterator[Transaction]:
    """A SQLAlchemy connection for Alembic and psycopg's beneath it for the rest, in one transaction."""
    raw = db.connect(dsn, autocommit=False, client_encoding="UTF8")
    raw.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=sa.NullPool)
    try:
        with db.translated(installing=True), _unwrapped(), engine.connect() as connection, connection.begin():
            # one installation at a time; the others find the work done
            raw.execute(SQL["lock_installation"])
            raw.execute(SQL["brief_locks"], {"milliseconds": LOCK_TIMEOUT})
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


def _patiently(dsn: str, work: Callable[[], T], patience: float, tell: Tell | None) -> T:
    """The result of a transaction that is tried again while others have its tables; each try is brief."""
    tries = stamina.retry_context(
        _is_passing, attempts=None, timeout=patience, wait_initial=0.1, wait_max=2.0, wait_jitter=0.5
    )
    try:
        for attempt in tries:
            if attempt.num == SECOND and tell is not None:
                tell(f"tables of pg_embed are in use; they are tried again for up to {patience:g} s")
            with attempt:
                return work()
    except PgEmbedError as exc:
        if not _is_passing(exc):
            raise
        raise _in_the_way(dsn, patience) from exc
    raise AssertionError("a retry ends with a result or an error")


def _is_passing(error: Exception) -> bool:
    """Whether somebody else had a lock, or was writing the same row of Postgres's own catalogs."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        return False
    return cause.sqlstate in PASSING or "concurrently updated" in str(cause)


def _in_the_way(dsn: str, patience: float) -> PgEmbedError:
    with db.connect(dsn) as connection, db.translated():
        rows = connection.execute(SQL["in_the_way"]).fetchall()
    told = "; ".join(
        f"pid {pid} ({name or 'unnamed'}, {state}) for {age:.0f} s" for pid, name, state, age in rows
    )
    return DatabaseError(
        f"tables of pg_embed were in use for {patience:g} s, whenever they were tried{told and ': ' + told}",
        hint="nothing was changed; let long transactions end, or end them with SELECT"
        " pg_terminate_backend(pid), and do it again",
    )


def install(
    dsn: str,
    *,
    transport: str | None = None,
    settings: Mapping[str, Any] | None = None,
    models: Sequence[tuple[ModelSpec, Card]] = (),
    patience: float = PATIENCE,
    tell: Tell | None = None,
) -> Report:
    """Install pg_embed, or bring an installation up to date; doing it again changes nothing.

    `transport` is the best that the server allows with these settings, unless it is named; without either,
    an installation that has a transport keeps it. A loopback of dblink asks as much of TLS as the server can
    give, and on the way to another address no less than `dsn` asks. `models` are entered in the catalog where
    no model of that name is; the first becomes the default of a database that has none. Workers may go on:
    tables that are in use are waited for, half a second at a time, for up to `patience` seconds.
    """
    return _patiently(dsn, lambda: _install(dsn, transport, settings, models), patience, tell)


def _install(
    dsn: str,
    transport: str | None,
    settings: Mapping[str, Any] | None,
    models: Sequence[tuple[ModelSpec, Card]],
) -> Report:
    notices: list[str] = []
    with _transaction(dsn, notices) as (connection, raw):
        if raw.info.parameter_status("server_encoding") == "SQL_ASCII":
            raise InvalidArgument(
                "the database has the encoding SQL_ASCII: its bytes are no texts, and no model reads them",
                hint="make a database with ENCODING 'UTF8', and move the tables there",
            )
        _run(raw, script.read("install", "roles.sql"))
        _run(raw, script.read("install", "prepare.sql"))
        if migrate.current(connection) is None and _one(raw, SQL["has_tables"]):
            raise InvalidArgument(
                "the tables of pg_embed are here without what they held, as from a dump without data",
                hint="DROP SCHEMA embed CASCADE, then install it and make the vectorizers anew",
            )
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


def uninstall(dsn: str, *, patience: float = PATIENCE, tell: Tell | None = None) -> None:
    """Remove pg_embed: triggers, functions, catalog and queue. Columns of vectors and the roles stay."""
    _patiently(dsn, lambda: _uninstall(dsn), patience, tell)


def _uninstall(dsn: str) -> None:
    with _transaction(dsn, []) as (connection, raw):
        if migrate.current(connection) is None:
            if not _one(raw, SQL["has_query_functions"]):
                raise NotInstalled(
                    "pg_embed is not installed in this database", hint="there is nothing to remove"
                )
            raw.execute(SQL["drop_query_functions"])  # what DROP SCHEMA embed CASCADE leaves
            return
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


def install_by(run: Callable[[str], Any]) -> None:
    """The same by a function that runs a text and gives the one value of its last statement, if any."""
    run(SQL["lock_installation"])
    run(script.read("install", "roles.sql"))
    run(script.read("install", "prepare.sql"))
    fresh = run(SQL["is_fresh"])
    steps = migrate.upgrade_sql(None if fresh else str(run(SQL["revision"])))
    if steps.strip():
        run(steps)
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
        _literal(SQL["brief_locks"], {"milliseconds": LOCK_TIMEOUT}) + ";",
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
