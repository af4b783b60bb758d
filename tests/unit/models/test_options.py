"""Options are checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.models.options import read_options
from pg_embed.records import ModelSpec


@dataclass(frozen=True)
class Shape:
    name: str
    size: int = 1
    wait: float = 0.0
    on: bool = False
    colour: Literal["red", "blue"] | None = None


def read(**options: Any) -> Shape:
    return read_options(ModelSpec("m", "family", options), Shape)


def test_what_is_not_told_has_its_default() -> None:
    assert read(name="a") == Shape("a")


def test_what_is_told_is_taken() -> None:
    assert read(name="a", size=2, wait=1, on=True, colour="red") == Shape("a", 2, 1, True, "red")
    assert read(name="a", colour=None) == Shape("a")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"name": 1}, "'name' .* a string"),
        ({"size": 0}, "'size' .* whole number"),
        ({"size": True}, "'size'"),
        ({"size": 1.5}, "'size'"),
        ({"wait": -1}, "'wait' .* zero or more"),
        ({"wait": "1"}, "'wait'"),
        ({"on": 1}, "'on' .* true or false"),
        ({"colour": "green"}, "'colour' .* one of red, blue"),
        ({"size": None}, "'size'"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidArgument, match=expected):
        read(**{"name": "a", **wrong})


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match="'sise'") as caught:
        read(name="a", sise=2)
    assert "size" in str(caught.value.hint)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(InvalidArgument, match="needs the option 'name'"):
        read()
