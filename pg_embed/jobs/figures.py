"""How far the vectorizers of a database are, in numbers, as one query reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pg_embed.jobs.batch import Lane

# blocked: its table cannot be read or written; refused: a model's account; spent: its budget.
State = Literal["active", "blocked", "paused", "refused", "spent", "stopped"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class LaneFigures:
    """What stands in one lane of a vectorizer's queue."""

    rows: int = 0  # that wait
    in_flight: int = 0  # rows that workers hold
    oldest: float = 0.0  # seconds since the oldest of both was queued; 0 where there is none


@dataclass(frozen=True)
class VectorizerFigures:
    """One vectorizer."""

    name: str
    state: State
    reason: str | None
    failed: int  # rows that were given up
    backfill: int  # rows that the backfill has not reached
    lanes: Mapping[Lane, LaneFigures]


@dataclass(frozen=True)
class Figures:
    """A database at one moment."""

    workers: int  # that are connected
    vectorizers: Sequence[VectorizerFigures]
    costs: Mapping[str, float]  # US dollars by model, since it was made; of those with a price


def figures(found: Mapping[str, Any]) -> Figures:
    """What `embed._figures_v1()` says."""
    return Figures(found["workers"], [_vectorizer(row) for row in found["vectorizers"]], found["costs"])


def _vectorizer(row: Mapping[str, Any]) -> VectorizerFigures:
    lanes = {lane: LaneFigures(**row["lanes"].get(str(int(lane)), {})) for lane in Lane}
    return VectorizerFigures(**{**row, "lanes": lanes})
