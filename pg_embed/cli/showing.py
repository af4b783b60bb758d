"""How the demo and an evaluation show their work: bars, the answers, the way on."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pg_embed.cli.output import duration, print_rows, say

LINE_EVERY = 5.0  # seconds between two lines where there is no terminal
TEXT_LENGTH = 90  # characters of a docstring


def embedding(counts: Iterable[tuple[int, int]]) -> int:
    """Show how many rows have vectors, the rate and the time left; returns how many got theirs meanwhile."""
    return progress(counts, "embedding", "rows")


def progress(counts: Iterable[tuple[int, int]], doing: str, unit: str) -> int:
    """Show how many of something are done, of how many; returns how many were meanwhile."""
    return _bar(counts, doing, unit) if sys.stderr.isatty() else _lines(counts, doing, unit)


def answers(found: Sequence[Mapping[str, Any]]) -> None:
    """Each question's SQL and the rows that it gave."""
    for answer in found:
        typer.echo(f"\n{answer['sql']}")
        print_rows([_shortened(row) for row in answer["rows"]], as_json=False, nothing="there is no answer")


def how_to_go_on(told: Mapping[str, Any], data_dir: Path) -> None:
    """Figures, and what to type next."""
    rate = (
        f" at {told['embedded'] / told['embed_seconds']:.0f} rows/s"
        if told["embedded"] and told["embed_seconds"]
        else ""
    )
    typer.echo(
        f"{told['rows']} rows, {told['embedded']} of them embedded now{rate}; {told['seconds']:.0f} s in all."
    )
    up = shlex.join(["pg-embed", "up", "--data-dir", str(data_dir)])
    typer.echo(f"\nGo on: start it with\n\n    {up}\n\nand in another terminal ask your own questions with\n")
    typer.echo(f"    {told['psql']}\n")


def _bar(counts: Iterable[tuple[int, int]], doing: str, unit: str) -> int:
    columns = (
        TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    began, first, done = time.monotonic(), None, 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, rate="")
        for done, total in counts:
            first = done if first is None else first
            rate = (done - first) / max(time.monotonic() - began, 1.0)
            bar.update(task, completed=done, total=total, rate=f"{rate:.0f} {unit}/s")
    return done - (first or 0)


def _lines(counts: Iterable[tuple[int, int]], doing: str, unit: str) -> int:
    began = last = time.monotonic()
    first, done = None, 0
    for done, total in counts:
        first = done if first is None else first
        now = time.monotonic()
        if now - last >= LINE_EVERY:
            last = now
            rate = (done - first) / (now - began)
            left = f", {duration((total - done) / rate)} left" if rate else ""
            say(f"{doing}: {done} of {total} {unit}, {rate:.0f} {unit}/s{left}")
    return done - (first or 0)


def _shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    first = " ".join(str(row["docstring"]).split("\n\n")[0].split())
    text = first if len(first) <= TEXT_LENGTH else first[: TEXT_LENGTH - 1] + "…"
    return {"name": f"{row['module']}.{row['name']}", "docstring": text}
