"""What is asked of a split, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from pg_embed.chunks.grammars import GRAMMARS
from pg_embed.errors import InvalidArgument

Split = Literal["text", "markdown", "code"]

SMALLEST, LARGEST = 8, 1_000_000  # tokens of a chunk


@dataclass(frozen=True)
class Chunking:
    """How texts are split; `size` and `overlap` in tokens of the model.

    `language` is that of code; `headings` puts the path of Markdown's headings above each chunk.
    """

    size: int = 400
    overlap: int = 0
    split: Split = "text"
    language: str | None = None
    headings: bool = False

    def __post_init__(self) -> None:
        _check_whole("size", self.size, SMALLEST, LARGEST)
        _check_whole("overlap", self.overlap, 0, self.size - 1)
        if self.split not in get_args(Split):
            raise InvalidArgument(f"split must be one of {', '.join(get_args(Split))}, not {self.split!r}")
        if type(self.headings) is not bool:
            raise InvalidArgument(f"headings must be true or false, not {self.headings!r}")
        if self.headings and self.split != "markdown":
            raise InvalidArgument("only Markdown has headings", hint="say split = 'markdown', too")
        if self.language is not None and self.split != "code":
            raise InvalidArgument("only code has a language", hint="say split = 'code', too")
        if self.split == "code" and self.language not in GRAMMARS:
            raise InvalidArgument(
                f"code in {self.language!r} cannot be split" if self.language else "code needs its language",
                hint=f"language is one of {', '.join(sorted(GRAMMARS))}; other code may be split as text",
            )

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Chunking:
        """What JSON says; raises InvalidArgument for unknown keys and for values that cannot be used."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(told) - set(known)):
            raise InvalidArgument(
                f"chunking has no option {unknown[0]!r}", hint=f"options: {', '.join(known)}"
            )
        return cls(**told)

    def as_json(self) -> dict[str, Any]:
        """Every option, so that `from_json` gives the same again."""
        return asdict(self)


@dataclass(frozen=True)
class Chunk:
    """A part of a document, `text == document[start:end]`, and the path of headings above it."""

    text: str
    start: int
    end: int
    context: str = ""

    @property
    def input(self) -> str:
        """What is embedded: the context, an empty line, the text."""
        return above(self.context) + self.text


def above(context: str) -> str:
    """What stands in front of a chunk's text."""
    return f"{context}\n\n" if context else ""


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InvalidArgument(
            f"{name} must be a whole number of tokens from {least} to {most}, not {value!r}"
        )
