"""Indexes as `pg-embed index` shows and builds them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from pg_embed import db
from pg_embed.cli.database import ask
from pg_embed.cli.output import print_json, print_rows, say, size
from pg_embed.jobs import IndexBuild, sessions

POLL = 0.5  # seconds between two looks at a build
NOTHING = "no vectorizer keeps dense vectors; make one with: pg-embed vectorize TABLE COLUMN"


def build_now(dsn: str, vectorizer: str) -> None:
    """Build in a thread, with a bar where somebody looks; Ctrl-C cuts the build off. One that somebody else
    builds already is waited for."""
    asyncio.run(sessions.require(dsn))
    build = IndexBuild(dsn, vectorizer)
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            build.run()
            ended.append(None)
        except BaseException as exc:
            ended.append(exc)

    thread = threading.Thread(target=run, name="index")
    thread.start()
    try:
        if sys.stderr.isatty():
            _watch(dsn, vectorizer, thread)
        thread.join()
    except BaseException:
        build.cancel()
        thread.join()
        raise
    if ended[0] is not None:
        with db.translated():
            raise ended[0]
    if _is_building(dsn, vectorizer):
        say(f"{vectorizer}: somebody else builds the index; waiting for it")
        while _is_building(dsn, vectorizer):
            time.sleep(POLL)


def _is_building(dsn: str, vectorizer: str) -> bool:
    return any(row["state"] == "building" for row in ask(dsn, "indexes", vectorizer=vectorizer))


def _watch(dsn: str, vectorizer: str, thread: threading.Thread) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(vectorizer, total=100)
        while thread.is_alive():
            thread.join(POLL)
            (row,) = ask(dsn, "indexes", vectorizer=vectorizer)
            if row["phase"]:
                progress.update(task, description=row["phase"], completed=row["progress"] or 0)


def show_plan(planned: Mapping[str, Any], *, as_json: bool) -> None:
    """The statements to standard output, what they cost beside them."""
    if as_json:
        print_json(planned)
        return
    say(f"{planned['vectorizer']}: {planned['kind']}, about {planned['rows']} rows; {planned['remarks']}")
    if planned["seconds"] is not None:
        say(
            f"index {size(planned['index_bytes'])}, memory to build it {size(planned['memory_bytes'])},"
            f" about {planned['seconds']:g} s"
        )
    if planned["ddl"]:
        typer.echo(planned["ddl"])


def show(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Indexes as a table, or as a JSON array."""
    print_rows(rows if as_json else _for_people(rows), as_json=as_json, nothing=NOTHING)


def _for_people(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "vectorizer": row["vectorizer"],
            "index": row["index"],
            "kind": row["kind"],
            "state": row["state"],
            "done": "" if row["progress"] is None else f"{row['progress']:.0f} %",
            "rows": row["rows"],
            "size": size(row["bytes"]),
            "remarks": "; ".join(text for text in (row["explanation"], row["error"]) if text),
        }
        for row in rows
    ]
