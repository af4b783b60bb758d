"""Models that are known beforehand, and those that a database uses."""

from __future__ import annotations

from contextlib import closing

from pg_embed.cli.database import ask
from pg_embed.errors import PgEmbedError
from pg_embed.models.presets import Preset, known_spec, presets
from pg_embed.models.registry import default_registry
from pg_embed.records import Card, ModelSpec, Output

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


def entered(dsn: str, name: str, output: Output) -> str:
    """The model of the catalog, where a known one is entered if it is missing; how it is called there.

    A part of the name, such as minilm, will do where only one known model that makes the output has it.
    """
    there = {row["name"] for row in ask(dsn, "models")}
    alike = [preset for preset in presets().values() if _may_be_meant(preset, name, output)]
    if name not in there and name not in presets() and len(alike) == 1:
        name = alike[0].name
    if name not in there:
        _enter(dsn, known_spec(name))
    return name


def _may_be_meant(preset: Preset, name: str, output: Output) -> bool:
    return name.lower() in preset.name.lower() and output in preset.outputs


def _enter(dsn: str, spec: ModelSpec) -> None:
    from psycopg.types.json import Jsonb

    card = presets()[spec.name].card
    if card is None:
        with closing(default_registry().load(spec)) as model:
            card = model.card
    words = {"name": spec.name, "family": spec.family, "options": Jsonb(dict(spec.options))}
    ask(dsn, "create_model", **words, card=Jsonb(card.as_dict()), is_default=False)
