"""Quality against latency, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pg_embed.errors import InvalidArgument, MissingExtra

SIZE = (7.0, 4.5)  # inches
DPI = 150


def check_plot(path: Path) -> None:
    """Raise where matplotlib is not installed, or cannot write such a file there."""
    known = _figure().canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise InvalidArgument(f"no picture can be written to {path}", hint="name a file such as quality.png")
    if not path.resolve().parent.is_dir():
        raise InvalidArgument(f"there is no folder {path.resolve().parent}")


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A point a mode, a colour a collection: nDCG@10 over the median time, a line to the 95th percentile."""
    figure = _figure()
    axes = figure.add_subplot(
        xlabel="milliseconds of a search for 10 rows: median, and line to the 95th percentile",
        ylabel="nDCG@10",
        xscale="log",
    )
    for result in results:
        modes = result["modes"]
        times = [told["p50_ms"] for told in modes.values()]
        heights = [told["ndcg@10"] for told in modes.values()]
        late = [told["p95_ms"] - told["p50_ms"] for told in modes.values()]
        axes.errorbar(
            times, heights, xerr=[[0] * len(late), late], fmt="o", capsize=3, label=result["dataset"]
        )
        for name, time, height in zip(modes, times, heights, strict=True):
            axes.annotate(name, (time, height), xytext=(5, 5), textcoords="offset points")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=DPI)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingExtra(
            f"a package for plots is missing: {exc}", hint="pip install 'pg-embed[eval]'"
        ) from exc
    return Figure(figsize=SIZE, layout="constrained")
