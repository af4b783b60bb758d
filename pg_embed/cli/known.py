"""The catalog of known models, narrowed and as a table that answers which one to take."""

from __future__ import annotations

from typing import Any

from pg_embed.cli.output import print_json, print_packed, say
from pg_embed.models.presets import Preset, presets

THOUSAND = 10_000  # token limits from here on are told in thousands
GIGABYTE = 1e9
WIDTHS = {  # the whole table then fits a line of 100 characters
    "name": 29,
    "outputs": 7,
    "dims": 8,
    "max tokens": 6,
    "languages": 9,
    "licence": 15,
    "memory": 7,
}
NOTE = (
    "Price: US dollars for a million tokens. Memory: GB of the weights on a CPU / on a GPU."
    " What is not known is left empty."
)


def print_known(*, hosted: bool | None, output: str | None, language: str | None, as_json: bool) -> None:
    """The known models that are hosted or not, make an output, and read a language."""
    found = [
        preset
        for preset in presets().values()
        if (hosted is None or preset.hosted is hosted)
        and (output is None or output in preset.outputs)
        and (language is None or preset.speaks(language))
    ]
    if as_json:
        print_json([preset.as_dict() for preset in found])
        return
    print_packed([_row(preset) for preset in found], WIDTHS, nothing="no known model is like that")
    if found:
        say(NOTE)


def _row(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "where": "hosted" if preset.hosted else "local",
        "outputs": "\n".join(preset.outputs),
        "dims": _dimensions(preset),
        "max tokens": _tokens(preset.max_tokens),
        "languages": preset.languages,
        "licence": _licence(preset),
        "price": preset.price,
        "memory": _memory(preset.memory),
    }


def _dimensions(preset: Preset) -> str:
    """The sizes of the vectors; below them the least and most that dense ones may be told to be."""
    sizes = [_size(size) for output, size in preset.dimensions.items() if output != "score"]
    others = [*preset.sizes, *([preset.sizes_from] if preset.sizes_from else [])]
    if others:
        sizes.append(f"{min(others)}-{max(*others, preset.dimensions['dense'])}")
    return "\n".join(sizes)


def _size(size: int) -> str:
    """10^9 for the billion of hashed words, which would not fit."""
    text = str(size)
    return f"10^{len(text) - 1}" if len(text) > WIDTHS["dims"] and not text[1:].strip("0") else text


def _tokens(tokens: int | None) -> str | None:
    """8192, 32k: those of providers are round thousands, those of checkpoints powers of two."""
    if tokens is None or tokens < THOUSAND:
        return None if tokens is None else str(tokens)
    return f"{tokens // (1024 if tokens % 1024 == 0 and tokens % 1000 else 1000)}k"


def _licence(preset: Preset) -> str:
    return f"{preset.licence}\nNO COMMERCIAL USE" if preset.commercial is False else preset.licence or ""


def _memory(memory: tuple[int, int] | None) -> str | None:
    """Gigabytes as `28/14`; parted where that is too long."""
    if memory is None:
        return None
    cpu, gpu = (_figure(size / GIGABYTE) for size in memory)
    return f"{cpu}/{gpu}" if len(cpu + gpu) < WIDTHS["memory"] else f"{cpu}/ {gpu}"


def _figure(gigabytes: float) -> str:
    return f"{gigabytes:.2g}" if gigabytes >= 1 else f"{gigabytes:.1g}"
