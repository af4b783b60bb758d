"""Switches from one model to another, as a worker brings them further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SwitchJob:
    """A switch that waits for a step."""

    shadow: int  # the vectorizer that makes the new vectors
    name: str  # of the vectorizer that searches see
    step: str  # compare or swap
    may_do: bool  # whether whoever asked may; only the owner of the table may swap
    failures: int
    idle: float | None  # seconds since the last attempt; None before the first


def switch_job(row: Mapping[str, Any]) -> SwitchJob:
    """A row of the statement `switch_todo`."""
    return SwitchJob(
        shadow=row["shadow"],
        name=row["name"],
        step=row["step"],
        may_do=row["may_do"],
        failures=row["tries"],
        idle=row["idle_seconds"],
    )
