"""Interleaved repeats, medians, and a table or JSON of ratios with their goals."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Measure = Callable[[], float]


@dataclass(frozen=True)
class Goal:
    """What a figure should be: at least or at most `limit`."""

    limit: float
    at_least: bool

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)}"


def at_least(limit: float) -> Goal:
    return Goal(limit, at_least=True)


def at_most(limit: float) -> Goal:
    return Goal(limit, at_least=False)


@dataclass(frozen=True)
class Line:
    """One row of the report: the figures, what they amount to, and the goal."""

    name: str
    figures: str
    result: float
    unit: str
    goal: Goal | None
    samples: Mapping[str, Sequence[float]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "result": self.result,
            "unit": self.unit,
            "goal": str(self.goal) if self.goal else None,
            "met": self.goal.holds(self.result) if self.goal else None,
            "samples": {side: list(values) for side, values in self.samples.items()},
        }


@dataclass
class Report:
    """Collects lines and prints them once, as a table or as one JSON object."""

    title: str
    conditions: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def ratio(
        self,
        name: str,
        over: tuple[str, Sequence[float]],
        under: tuple[str, Sequence[float]],
        unit: str,
        goal: Goal | None = None,
    ) -> float:
        """Median of `over` divided by the median of `under`."""
        (over_name, over_values), (under_name, under_values) = over, under
        top, bottom = statistics.median(over_values), statistics.median(under_values)
        figures = f"{over_name} {number(top)} · {under_name} {number(bottom)} {unit}"
        result = top / bottom if bottom else math.inf
        self._add(Line(name, figures, result, "×", goal, {over_name: over_values, under_name: under_values}))
        return result

    def figure(
        self,
        name: str,
        values: Sequence[float],
        unit: str,
        goal: Goal | None = None,
        quantile: float = 0.5,
    ) -> float:
        """One quantile of the values, shown with the p50 and p95 where there are enough of them."""
        ordered = sorted(values)
        result = percentile(ordered, quantile)
        spread = f"min {number(ordered[0])} · max {number(ordered[-1])} {unit}, n = {len(ordered)}"
        if len(ordered) >= 20:
            spread = (
                f"p50 {number(percentile(ordered, 0.5))} · p95 {number(percentile(ordered, 0.95))} · {spread}"
            )
        self._add(Line(name, spread, result, unit, goal, {"values": ordered}))
        return result

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        Console(stderr=True, soft_wrap=True).print(
            f"  {line.name}: [bold]{number(line.result)} {line.unit}[/]  ({line.figures})"
        )

    def finish(self, as_json: bool) -> None:
        conditions = {"machine": machine(), **self.conditions}
        if as_json:
            lines = [line.as_dict() for line in self.lines]
            print(json.dumps({"title": self.title, "conditions": conditions, "lines": lines}))
            return
        table = Table(title=self.title, title_justify="left", caption_justify="left")
        for column, justify in (
            ("what", "left"),
            ("figures (medians)", "left"),
            ("result", "right"),
            ("goal", "right"),
        ):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        for line in self.lines:
            colour = "" if line.goal is None else "[green]" if line.goal.holds(line.result) else "[red]"
            result = f"{colour}{number(line.result)} {line.unit}{'[/]' if colour else ''}"
            table.add_row(line.name, line.figures, result, str(line.goal or ""))
        console = Console(width=None if os.isatty(1) else 160)
        console.print(table)
        console.print("\n".join(f"{key}: {value}" for key, value in conditions.items()), highlight=False)


def interleave(repeats: int, sides: Mapping[str, Measure]) -> dict[str, list[float]]:
    """Measure every side in turn, `repeats` times, turning the order round each time."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(repeats):
        for name in order:
            samples[name].append(sides[name]())
        order.reverse()
    return samples


def percentile(values: Sequence[float], quantile: float) -> float:
    """The nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Seconds since the block began; after it, the block's whole time."""
    start = time.perf_counter()
    end: list[float] = []
    try:
        yield lambda: (end[0] if end else time.perf_counter()) - start
    finally:
        end.append(time.perf_counter())


def number(value: float) -> str:
    """Three figures, thousands parted."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def machine() -> str:
    """The machine in one line."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = f"{platform.system()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {versions}, load {os.getloadavg()[0]:.1f}"


def arguments(description: str, **defaults: int) -> argparse.ArgumentParser:
    """A parser with `--json` and one integer option for each default."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=" ")
    return parser


def log(text: str) -> None:
    """A line about progress, kept out of the result."""
    Console(stderr=True).print(f"[dim]{text}[/]", highlight=False)


def cache_dir() -> Path:
    """Where what takes long to make is kept: $XDG_CACHE_HOME/pg_embed/benchmarks."""
    base = os.environ.get("XDG_CACHE_HOME")
    path = (Path(base) if base else Path.home() / ".cache") / "pg_embed" / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    return path
