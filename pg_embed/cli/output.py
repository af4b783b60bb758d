"""Printing: tables for people, JSON for machines, errors in plain words."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from pg_embed.errors import PgEmbedError

WIDTH = 200  # characters of a line where there is no terminal


def print_json(value: Any) -> None:
    """One line, written at once."""
    typer.echo(json.dumps(value, default=str, ensure_ascii=False))
    sys.stdout.flush()


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, nothing: str) -> None:
    """Rows as a table, or as a JSON array; `nothing` is said where there are none."""
    if as_json:
        print_json(list(rows))
    elif not rows:
        typer.echo(nothing)
    else:
        print_table(table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table with the rows' names as its head."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0] if rows else ():
        made.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        made.add_row(*(Text(_plain(value)) for value in row.values()))
    return made


def print_packed(rows: Sequence[Mapping[str, Any]], widths: Mapping[str, int], *, nothing: str) -> None:
    """Rows as a table without margins, some of its columns of a given width, for rows of many columns."""
    if not rows:
        typer.echo(nothing)
        return
    made = table(rows)
    made.show_edge, made.padding = False, 0
    for column, name in zip(made.columns, rows[0], strict=True):
        column.width = widths.get(name)
    print_table(made)


def print_table(made: Table) -> None:
    """To standard output, as wide as the terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(made)


def say(sentence: str) -> None:
    """Tell a person something that is not a result."""
    typer.echo(sentence, err=True)


def print_error(error: PgEmbedError) -> None:
    """What went wrong, and what to do."""
    say(f"error: {' '.join(str(error).split())}")
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


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
