"""Printing: tables for people, JSON for machines, errors in plain words."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from pg_embed.cli import logs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pg_embed.errors import PgEmbedError

WIDTH = 200  # characters of a line where there is no terminal
WIDEST = 10_000  # characters; no table is as wide


def print_json(value: Any) -> None:
    """One line, written at once; in ASCII where standard output is not UTF-8."""
    escaped = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
    typer.echo(json.dumps(value, default=str, ensure_ascii=escaped))
    sys.stdout.flush()


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, nothing: str) -> None:
    """Rows as a table, or as a JSON array; `nothing` is said where there are none."""
    if as_json:
        print_json(list(rows))
    elif not rows:
        typer.echo(nothing)
    else:
        console = _console()
        console.print(fitting(rows, console))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table with the rows' names as its head."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0] if rows else ():
        made.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        made.add_row(*map(_text, row.values()))
    return made


def fitting(rows: Sequence[Mapping[str, Any]], console: Console) -> Table:
    """A table; where its words do not fit beside each other, a line for each value."""
    made = table(rows)
    return made if _width(made, console) <= console.width else _records(rows)


def print_packed(rows: Sequence[Mapping[str, Any]], widths: Mapping[str, int], *, nothing: str) -> None:
    """Rows as a table without margins, some of its columns of a given width, for rows of many columns."""
    if not rows:
        typer.echo(nothing)
        return
    console, made = _console(), table(rows)
    made.show_edge, made.padding = False, 0
    for column, name in zip(made.columns, rows[0], strict=True):
        column.width = widths.get(name)
    console.print(made if _width(made, console) <= console.width else _records(rows))


def _console() -> Console:
    """Standard output, as wide as the terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def _width(made: Table, console: Console) -> int:
    """The least width in which no word is broken, in characters."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=WIDEST), made).minimum


def _records(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each value, and an empty one between rows."""
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for number, row in enumerate(rows):
        if number:
            made.add_row()
        for name, value in row.items():
            made.add_row(name.replace("_", " "), _text(value))
    return made


def say(sentence: str) -> None:
    """Tell a person something that is not a result; where the log is of JSON, in a line of it."""
    if not logs.told(logging.INFO, sentence):
        typer.echo(sentence, err=True)


def print_error(error: PgEmbedError) -> None:
    """What went wrong, and what to do."""
    message = " ".join(str(error).split())
    if logs.told(logging.ERROR, message, code=error.sqlstate, hint=error.hint):
        return
    say(f"error: {message}")
    if error.hint:
        say(f"hint: {error.hint}")


def duration(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB"):
        if count < 10_240:
            return f"{count} {unit}"
        count = round(count / 1_024)
    return f"{count} GB"


def _text(value: Any) -> Text:
    from rich.text import Text

    if value is None:
        return Text()
    return Text(f"{value:g}" if isinstance(value, float) else str(value))
