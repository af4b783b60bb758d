"""Models that are known beforehand, and those that a database uses."""

from __future__ import annotations

from collections.abc import Sequence

from pg_embed.cli.database import ask
from pg_embed.models.presets import presets
from pg_embed.records import Card, ModelSpec

FIRST = "all-MiniLM-L6-v2"  # small, free, and at hand without a key


def first_models() -> Sequence[tuple[ModelSpec, Card]]:
    """The models that an installation enters in the catalog."""
    first = presets()[FIRST]
    return [(first.spec, first.card)]


def known_models() -> Sequence[ModelSpec]:
    """The models that a sidecar without a database answers for; the first where none is named."""
    known = presets()
    return [known[FIRST].spec, *(preset.spec for name, preset in known.items() if name != FIRST)]


def models_in_use(dsn: str) -> list[ModelSpec]:
    """The models of the vectorizers, and the default."""
    return [ModelSpec(**row) for row in ask(dsn, "models_in_use")]
