"""`pg-embed status`: how far the vectorizers are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import Dsn, Json, Vectorizer
from pg_embed.cli.output import duration, fitting, print_json, print_rows

INTERVAL = 1.0  # seconds between two looks
NOTHING = "there is no vectorizer; make one with: pg-embed vectorize TABLE COLUMN"


@app.command()
def status(
    dsn: Dsn,
    vectorizer: Vectorizer = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show rows pending, in flight and failed, and the time left."""
    from pg_embed.cli.database import ask

    def look() -> list[dict[str, Any]]:
        return ask(dsn, "status", vectorizer=vectorizer)

    if not watch:
        rows = look()
        print_rows(rows if as_json else _for_people(rows), as_json=as_json, nothing=NOTHING)
    elif as_json or not sys.stdout.isatty():
        while True:
            print_json(look())
            time.sleep(INTERVAL)
    else:
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            while True:
                live.update(fitting(_for_people(look()), live.console), refresh=True)
                time.sleep(INTERVAL)


def _for_people(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "vectorizer": row["vectorizer"],
            "model": " + ".join(filter(None, (row["model"], row["sparse_model"]))),
            "state": row["state"],
            "pending": row["pending"],
            "in_flight": row["in_flight"],
            "failed": row["failed"],
            "rows/s": row["rows_per_second"],
            "oldest": duration(row["oldest_seconds"]),
            "left": duration(row["seconds_left"]),
            "remarks": row["reason"] or row["last_error"] or "",
        }
        for row in rows
    ]
