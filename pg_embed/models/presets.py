"""Models that are known before they are loaded, some of them with their cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pg_embed.errors import UnknownModel
from pg_embed.records import Card, ModelSpec


@dataclass(frozen=True)
class Preset:
    """A named model; the card is what loading it on a CPU gives, and None where only loading tells."""

    name: str
    family: str
    options: Mapping[str, Any]
    licence: str
    card: Card | None = None

    @property
    def spec(self) -> ModelSpec:
        """What the registry loads."""
        return ModelSpec(self.name, self.family, self.options)


def presets() -> dict[str, Preset]:
    """All presets by name."""
    told = json.loads(files("pg_embed.models").joinpath("presets.json").read_text(encoding="utf-8"))
    return {name: _preset(name, **entry) for name, entry in told.items()}


def known_spec(name: str, options: Mapping[str, Any] | None = None) -> ModelSpec:
    """The model that is known by a name, with options of the caller's own before those of the preset."""
    known = presets()
    if name not in known:
        raise UnknownModel(
            f"no model is known by the name {name!r}", hint=f"name its family; known are: {', '.join(known)}"
        )
    preset = known[name]
    return ModelSpec(name, preset.family, {**preset.options, **(options or {})})


def known_price(spec: ModelSpec) -> float | None:
    """US dollars a million tokens of a model that is known by its name, if it is that one."""
    preset = presets().get(spec.name)
    if preset is None or preset.family != spec.family:
        return None
    if "base_url" in spec.options.keys() - preset.options.keys():
        return None
    if any(spec.options.get(name) != value for name, value in preset.options.items()):
        return None
    price: float | None = getattr(preset, "price", None)
    return price


def _preset(name: str, *, card: dict[str, Any] | None = None, **rest: Any) -> Preset:
    if card is None:
        return Preset(name=name, **rest)
    return Preset(name=name, card=Card(**{**card, "outputs": tuple(card["outputs"])}), **rest)
