"""Models that are known beforehand, and those that a database uses."""

from __future__ import annotations

from pg_embed.cli.database import ask
from pg_embed.errors import PgEmbedError
from pg_embed.models.presets import presets
from pg_embed.records import Card, ModelSpec

FIRST = "all-MiniLM-L6-v2"  # small, free, and at hand without a key


def first_model() -> tuple[ModelSpec, Card]:
    """What an installation enters in the catalog, and a sidecar without a database answers for."""
    preset = presets()[FIRST]
    if preset.card is None:
        raise PgEmbedError(f"the card of {FIRST} is missing from this installation")
    return preset.spec, preset.card


def models_in_use(dsn: str) -> list[ModelSpec]:
    """The models of the vectorizers, and the default."""
    return [ModelSpec(**row) for row in ask(dsn, "models_in_use")]
