"""Switches of models as `pg-embed switch` brings them further, waits for them and shows them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from psycopg.errors import Diagnostic

from pg_embed import db, statements
from pg_embed.cli.database import ask
from pg_embed.cli.output import print_rows, say
from pg_embed.errors import PgEmbedError

POLL = 0.5  # seconds between two looks
STEPS = {
    "begin": ("model", "auto", "keep", "dependants", "chunking"),
    "finish": ("force",),
    "abort": (),
    "rollback": (),
    "forget": (),
}
NOTHING = "no switch is under way, and no old vectors are kept; begin one with: pg-embed switch TABLE MODEL"
STUCK = ("paused", "stopped")


class Told(Protocol):
    """Tells a person how far a switch is."""

    def __call__(self, row: Mapping[str, Any]) -> None: ...


def act(dsn: str, step: str, vectorizer: str, **given: Any) -> None:
    """Take one step of a switch, and tell what Postgres warns of; `given` holds what any step takes."""
    parameters = {"vectorizer": vectorizer, **{name: given[name] for name in STEPS[step]}}
    with db.connect(dsn) as connection, db.translated():
        connection.add_notice_handler(_warn)
        connection.execute(statements.load("cli")[f"switch_{step}"], parameters)


def until_ready(dsn: str, vectorizer: str) -> None:
    """Wait until a switch is ready; one that is automatic is swapped as well. What is stuck is an error."""
    with _telling(vectorizer) as tell:
        while (row := _look(dsn, vectorizer)) is not None and row["state"] != "swapped":
            tell(row)
            if row["state"] in STUCK:
                raise PgEmbedError(
                    f"the switch of {vectorizer} is {row['state']}: {row['explanation']}",
                    hint=f"go on with: SELECT embed.resume('{row['shadow']}')",
                )
            if row["state"] == "ready" and not _swapped(dsn, row):
                return
            time.sleep(POLL)


def show(dsn: str, vectorizer: str | None, *, as_json: bool) -> None:
    """Switches as a table, or as a JSON array."""
    rows = ask(dsn, "switches", vectorizer=vectorizer)
    print_rows(rows if as_json else [_for_people(row) for row in rows], as_json=as_json, nothing=NOTHING)


def _warn(notice: Diagnostic) -> None:
    say(f"{(notice.severity or 'notice').lower()}: {notice.message_primary}")
    if notice.message_hint:
        say(f"hint: {notice.message_hint}")


def _look(dsn: str, vectorizer: str) -> dict[str, Any] | None:
    rows = ask(dsn, "switches", vectorizer=vectorizer)
    return rows[0] if rows else None


def _swapped(dsn: str, row: Mapping[str, Any]) -> bool:
    """Swap what is automatic, for no worker need be the table's owner; whether there is more to wait for."""
    if not row["auto"]:
        return False
    try:
        act(dsn, "finish", row["vectorizer"], force=False)
    except PgEmbedError:
        after = _look(dsn, row["vectorizer"])  # a worker may have been faster
        if after is not None and after["state"] == "ready":
            raise
    return True


@contextmanager
def _telling(vectorizer: str) -> Iterator[Told]:
    if not sys.stderr.isatty():
        told: list[str] = []

        def line(row: Mapping[str, Any]) -> None:
            if not told or told[-1] != row["state"]:
                told.append(row["state"])
                say(f"{vectorizer}: {row['state']}: {row['explanation']}")

        yield line
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(vectorizer, total=None)
        most = 0

        def bar(row: Mapping[str, Any]) -> None:
            nonlocal most
            most = max(most, row["rows_left"])
            described = f"{vectorizer}: {row['state']}, {row['explanation']}"
            progress.update(
                task, description=described, total=most or None, completed=most - row["rows_left"]
            )

        yield bar


def _for_people(row: Mapping[str, Any]) -> dict[str, Any]:
    overlap = row["overlap_at_10"]
    return {
        "vectorizer": row["vectorizer"],
        "model": row["model"],
        "other_model": row["other_model"],
        "state": row["state"],
        "left": row["rows_left"],
        "failed": row["failed"],
        "index": row["index_state"],
        "overlap@10": "" if overlap is None else f"{overlap:.2f}",
        "remarks": row["explanation"],
    }
