"""The doctor: what must hold for rows to be embedded and queries to be answered, checked one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

from pg_embed import db, statements
from pg_embed.errors import PgEmbedError, TransportMissing
from pg_embed.install import migrate

State = Literal["ok", "warning", "failed", "skipped"]
Connection = psycopg.Connection[dict[str, Any]]

POSTGRES = range(14, 19)
PGVECTOR = (0, 7)
DEFECTS: Sequence[tuple[tuple[int, ...], str]] = (  # the version that mends it, and what it mends
    ((0, 8, 2), "parallel HNSW builds can leak other tables' data or crash the server (CVE-2026-3172)"),
    ((0, 8, 3), "vacuum can corrupt an HNSW index"),
    ((0, 8, 4), "vacuum of an HNSW index, and inserts meanwhile, can fail"),
)
PING_TIMEOUT = 5  # seconds
CARD_TIMEOUT = 120  # seconds; a model may have to be loaded
CLOCK_SKEW = 5.0  # seconds
OLD = 300.0  # seconds that a row may wait before it is worth a word


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, whether it holds, and what to do if it does not."""

    name: str
    state: State
    found: str
    advice: str | None = None


def examine(dsn: str) -> Iterator[Check]:
    """All checks in order; what cannot be looked at is skipped with the reason."""
    try:
        connection = db.connect(dsn, row_factory=dict_row)
    except PgEmbedError as exc:
        advice = exc.hint or "check the DSN, the server and its pg_hba.conf"
        yield Check("connection", "failed", str(exc), advice)
        return
    with connection:
        yield Check("connection", "ok", f"as {connection.info.user} to {connection.info.dbname}")
        for name, look in CHECKS.items():
            check = _look(name, look, connection)
            yield check
            if name == "schema" and check.state == "failed":
                return


def _look(name: str, look: Callable[[Connection], Check], connection: Connection) -> Check:
    try:
        with db.translated():
            return look(connection)
    except TransportMissing:
        return Check(name, "skipped", "there is no transport to ask by")
    except PgEmbedError as exc:
        if isinstance(exc.__cause__, psycopg.errors.InsufficientPrivilege):
            return Check(name, "skipped", str(exc), "ask as the role that owns schema embed")
        return Check(name, "failed", str(exc), exc.hint)


def _rows(connection: Connection, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
    return connection.execute(statements.load("doctor")[name], parameters).fetchall()


def _server(connection: Connection) -> Check:
    (row,) = _rows(connection, "server")
    found = f"PostgreSQL {row['version']}"
    if row["major"] < POSTGRES[0]:
        return Check("server", "failed", found, f"pg_embed needs PostgreSQL {POSTGRES[0]} or newer")
    if row["is_standby"]:
        return Check(
            "server", "warning", f"{found}, a standby", "queries work here; workers need the primary"
        )
    if row["major"] > POSTGRES[-1]:
        return Check("server", "warning", found, f"tested with {POSTGRES[0]} to {POSTGRES[-1]} only")
    return Check("server", "ok", found)


def _clock(connection: Connection) -> Check:
    (row,) = _rows(connection, "server")
    skew = abs(time.time() - row["clock"])
    if skew > CLOCK_SKEW:
        return Check(
            "clock", "warning", f"{skew:.0f} s from the server's", "set the clocks: logs will not agree"
        )
    return Check("clock", "ok", "agrees with the server's")


def _pgvector(connection: Connection) -> Check:
    rows = _rows(connection, "pgvector")
    if not rows:
        return Check("pgvector", "failed", "not installed", "CREATE EXTENSION vector")
    version, library = rows[0]["version"], rows[0]["library"]
    if _numbers(version) < PGVECTOR:
        advice = "install pgvector 0.8.4 or newer, then ALTER EXTENSION vector UPDATE"
        return Check("pgvector", "failed", f"{version}, which has no halfvec", advice)
    defects = [defect for mended, defect in DEFECTS if _numbers(library) < mended]
    if defects:
        newest = ".".join(str(number) for number in DEFECTS[-1][0])
        return Check("pgvector", "warning", f"{library}: {'; '.join(defects)}", f"install {newest} or newer")
    return Check("pgvector", "ok", version)


def _is_standby(connection: Connection) -> bool:
    return bool(_rows(connection, "server")[0]["is_standby"])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _schema(connection: Connection) -> Check:
    revision, newest = _rows(connection, "revision")[0]["revision"], migrate.head()
    if revision == newest:
        return Check("schema", "ok", f"revision {revision}")
    found = f"revision {revision}; this package has {newest}"
    if migrate.is_known(revision):
        return Check("schema", "failed", found, "run: pg-embed upgrade DSN")
    _rows(connection, "check_generation", generation=db.GENERATION)
    advice = "upgrade the package here, as in pip install --upgrade pg-embed"
    return Check("schema", "warning", f"{found}, which the database still serves", advice)


def _query_function(connection: Connection) -> Check:
    rows = _rows(connection, "query_function")
    if not rows:
        return Check("embed()", "failed", "not there", "run: pg-embed upgrade DSN")
    schema = rows[0]["schema"]
    if not rows[0]["is_visible"]:
        advice = f"call {schema}.embed(), or add {schema} to the search_path"
        return Check("embed()", "warning", f"in schema {schema}, which is not on the search_path", advice)
    return Check("embed()", "ok", f"in schema {schema}")


def _transport(connection: Connection) -> Check:
    rows = _rows(connection, "transport")
    if rows and rows[0]["kind"] == "none" and rows[0]["settings"].get("chosen"):
        return Check("transport", "ok", "none, as chosen: queries are embedded by the client")
    if not rows or rows[0]["kind"] == "none":
        advice = "run: pg-embed install DSN with --socket, --host or --spool, or --transport dblink"
        return Check("transport", "warning", "none: embed() cannot reach a sidecar", advice)
    row = rows[0]
    if row["kind"] == "dblink" and _is_standby(connection):
        advice = "on the primary, set up the transport plpython or spool: a standby can use these"
        return Check("transport", "warning", "dblink, which a standby cannot use", advice)
    if row["kind"] == "dblink" and (problem := _rows(connection, "loopback")[0]["problem"]):
        advice = (
            "name its address: pg-embed install DSN --transport dblink --dblink-host HOST --dblink-port PORT"
        )
        return Check("transport", "failed", f"dblink: the server does not reach itself: {problem}", advice)
    told = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
    reasons = [
        f"{kind}: {'could be had' if row[has] else missing}" for kind, has, missing in BETTER[row["kind"]]
    ]
    return Check("transport", "ok", "; ".join([f"{row['kind']} ({told})" if told else row["kind"], *reasons]))


PLPYTHON = ("plpython", "has_plpython", "this server has no plpython3u")
FILES = ("spool", "has_files", "this role may not read and write the server's files")
BETTER: dict[str, tuple[tuple[str, str, str], ...]] = {
    "plpython": (),
    "spool": (PLPYTHON,),
    "dblink": (PLPYTHON, FILES),
}


def _roles(connection: Connection) -> Check:
    missing = [row["name"] for row in _rows(connection, "roles")]
    if missing:
        advice = "an administrator creates them (NOLOGIN), then: pg-embed upgrade DSN"
        return Check("roles", "warning", f"missing: {', '.join(missing)}; all is the owner's", advice)
    return Check("roles", "ok", "embed_reader, embed_owner, embed_worker")


def _sidecar(connection: Connection) -> Check:
    started = time.perf_counter()
    with connection.transaction():
        _rows(connection, "patience", seconds=PING_TIMEOUT)
        _rows(connection, "ping")
    return Check("sidecar", "ok", f"answered in {(time.perf_counter() - started) * 1000:.1f} ms")


def _models(connection: Connection) -> Check:
    models = _rows(connection, "models")
    if not models:
        return Check(
            "models", "warning", "there is no default model", "pg-embed models create NAME --default …"
        )
    for model in models:
        if _space(connection, model["name"]) != model["space_id"]:
            advice = "give the sidecar the files that the catalog's vectors came from, or make a new model"
            return Check("models", "failed", f"{model['name']} gives vectors of another space", advice)
    return Check("models", "ok", f"loaded: {', '.join(model['name'] for model in models)}")


def _space(connection: Connection, model: str) -> str:
    with connection.transaction():
        _rows(connection, "patience", seconds=CARD_TIMEOUT)
        return str(_rows(connection, "card", name=model)[0]["space_id"])


def _workers(connection: Connection) -> Check:
    (row,) = _rows(connection, "workers")
    if _is_standby(connection):
        return Check("workers", "skipped", "those of a standby are connected to its primary")
    if row["workers"] == 0:
        state: State = "failed" if row["vectorizers"] else "warning"
        return Check("workers", state, "none is connected", "run: pg-embed worker DSN, or pg-embed serve DSN")
    return Check("workers", "ok", f"{row['workers']} connected")


def _queue(connection: Connection) -> Check:
    (row,) = _rows(connection, "queue")
    if not row["pending"]:
        return Check("queue", "ok", "empty")
    found = f"{row['pending']} rows wait, the oldest for {row['oldest'] or 0:.0f} s"
    if row["last_error"]:
        return Check(
            "queue", "warning", f"{found}; the last error was: {row['last_error']}", "see: pg-embed status"
        )
    if (row["oldest"] or 0.0) > OLD and not row["rate"]:
        return Check("queue", "warning", f"{found}, and none was embedded lately", "see: pg-embed status")
    return Check("queue", "ok", found)


def _failures(connection: Connection) -> Check:
    failed = _rows(connection, "queue")[0]["failed"]
    if failed:
        return Check(
            "failures", "warning", f"{failed} rows were given up", "see: pg-embed failures, then retry"
        )
    return Check("failures", "ok", "none")


def _vectorizers(connection: Connection) -> Check:
    rows = _rows(connection, "vectorizers")
    if not rows:
        return Check("vectorizers", "ok", "all active")
    found = "; ".join(f"{row['name']} {row['state']}: {row['reason']}" for row in rows)
    stopped = any(row["state"] == "stopped" for row in rows)
    advice = (
        "mend it with embed.alter_vectorizer, then embed.resume" if stopped else "go on with embed.resume"
    )
    return Check("vectorizers", "failed" if stopped else "warning", found, advice)


CHECKS: dict[str, Callable[[Connection], Check]] = {
    "server": _server,
    "clock": _clock,
    "pgvector": _pgvector,
    "schema": _schema,
    "embed()": _query_function,
    "transport": _transport,
    "roles": _roles,
    "sidecar": _sidecar,
    "models": _models,
    "workers": _workers,
    "queue": _queue,
    "failures": _failures,
    "vectorizers": _vectorizers,
}
