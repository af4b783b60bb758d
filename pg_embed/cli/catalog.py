"""Models that are known beforehand, and those that a database uses."""

from __future__ import annotations

from collections.abc import Sequence

from pg_embed.cli.database import ask
from pg_embed.models.presets import presets
from pg_embed.records import Card, ModelSpec


def known_models() -> Sequence[tuple[ModelSpec, Card]]:
    """The models that an installation enters in the catalog: those of which we know what they are."""
    return [(preset.spec, preset.card) for preset in presets().values() if preset.card is not None]


def models_in_use(dsn: str) -> list[ModelSpec]:
    """The models of the vectorizers, and the default."""
    return [ModelSpec(**row) for row in ask(dsn, "models_in_use")]
