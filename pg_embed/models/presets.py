"""Models that are known before they are loaded: what is published about them, of some their cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from typing import Any

from pg_embed.errors import InvalidArgument, UnknownModel
from pg_embed.records import Card, ModelSpec, Output

HALFVEC_MOST = 4_000  # dimensions up to which the database, too, would choose halfvec
CPU_BYTES, GPU_BYTES = 4, 2  # of a parameter: float32 and bfloat16
EXAMPLES = 6  # names that an error shows
IDENTITY = (
    "model",
    "checkpoint",
    "revision",
    "base_url",
    "output",
)  # options that say which model, and whose


@dataclass(frozen=True)
class Preset:
    """A named model; None is what is not known of it.

    The card is what loading it on a CPU gives, and None where only loading tells. `dimensions` has the size
    of each output, of a dense vector the one it has unless told; `sizes` are others it may be told, and from
    `sizes_from` on it may be any. `licence` is of the weights or, for a hosted model, of the service.
    """

    name: str
    family: str
    options: Mapping[str, Any]
    licence: str | None
    commercial: bool | None  # whether the licence allows commercial use
    hosted: bool
    outputs: tuple[Output, ...]
    dimensions: Mapping[Output, int] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    sizes_from: int | None = None
    max_tokens: int | None = None
    languages: str | None = None
    price: float | None = None  # US dollars for a million tokens
    parameters: int | None = None
    revision: str | None = None
    card: Card | None = None

    @property
    def spec(self) -> ModelSpec:
        """What the registry loads."""
        return ModelSpec(self.name, self.family, self.options)

    @property
    def memory(self) -> tuple[int, int] | None:
        """Bytes that the weights take on a CPU and on an accelerator, as they are loaded unless told."""
        if self.parameters is None:
            return None
        return self.parameters * CPU_BYTES, self.parameters * GPU_BYTES

    def speaks(self, language: str) -> bool:
        """Whether the model is told to read a language, by name or as one of many; "code" is one, too."""
        known = [word.strip().lower() for word in (self.languages or "").split(",")]
        many = any(word == "many" or word.endswith("+") for word in known)
        return language.lower() in known or (many and language.lower() != "code")

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON types."""
        memory = dict(zip(("cpu", "gpu"), self.memory, strict=True)) if self.memory else None
        card = self.card.as_dict() if self.card else None
        return {**self.__dict__, "options": dict(self.options), "card": card, "memory": memory}


def presets() -> dict[str, Preset]:
    """All presets by name."""
    told = json.loads(files("pg_embed.models").joinpath("presets.json").read_text(encoding="utf-8"))
    return {name: _preset(name, **entry) for name, entry in told.items()}


def known_spec(name: str, options: Mapping[str, Any] | None = None) -> ModelSpec:
    """The model that is known by a name, with options of the caller's own before those of the preset."""
    known = presets()
    if name not in known:
        alike = get_close_matches(name, known, n=EXAMPLES) or list(known)
        raise UnknownModel(
            f"no model is known by the name {name!r}",
            hint=f"name its family, or one of those that are known, such as {', '.join(alike[:EXAMPLES])};"
            " pg-embed models --known lists them",
        )
    preset = known[name]
    return ModelSpec(name, preset.family, {**preset.options, **(options or {})})


def preset_of(spec: ModelSpec) -> Preset | None:
    """The preset that a model is, whatever it is called; None for another model, or on another server."""
    wanted = [spec.options.get(option) for option in IDENTITY]
    return next(
        (
            preset
            for preset in presets().values()
            if preset.family == spec.family and [preset.options.get(option) for option in IDENTITY] == wanted
        ),
        None,
    )


def _preset(name: str, *, card: dict[str, Any] | None = None, **rest: Any) -> Preset:
    """What a card says is not said twice."""
    told = {**rest, "sizes": tuple(rest.get("sizes", ()))}
    if card is None:
        return Preset(name=name, **{**told, "outputs": tuple(rest["outputs"])})
    made = Card(**{**card, "outputs": tuple(card["outputs"])})
    return Preset(
        name=name,
        card=made,
        outputs=made.outputs,
        dimensions={output: made.size(output) for output in made.outputs},
        max_tokens=made.max_tokens,
        **told,
    )


def known_size(model: str | None, output: Output) -> int:
    """The dimensions of a column for an output of a model, or an error that asks for them."""
    preset = presets().get(model or "")
    if preset is not None and output not in preset.outputs:
        hint = f"it makes {' and '.join(preset.outputs)} vectors"
        raise InvalidArgument(f"model {model!r} makes no {output} vectors", hint=hint)
    if preset is None or output not in preset.dimensions:
        hint = "give dimensions=, or a model that `pg-embed models --known` lists with its size"
        raise InvalidArgument(f"the size of the vectors of model {model!r} is not known", hint=hint)
    return preset.dimensions[output]
