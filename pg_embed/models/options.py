"""Reading a model's options: a family states them as a frozen dataclass, and nothing else is accepted."""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pg_embed.errors import InvalidArgument
from pg_embed.records import ModelSpec

T = TypeVar("T")

WORDS = {
    str: "a string",
    int: "a positive whole number",
    float: "a number, zero or more",
    bool: "true or false",
}


def read_options(spec: ModelSpec, shape: type[T]) -> T:
    """The options as `shape`, each checked against its type; unknown or missing ones are errors."""
    hints = get_type_hints(shape)
    if unknown := sorted(set(spec.options) - set(hints)):
        raise InvalidArgument(
            f"family {spec.family!r} has no option {unknown[0]!r}",
            hint=f"options: {', '.join(sorted(hints))}",
        )
    for name, value in spec.options.items():
        if not _accepts(hints[name], value):
            raise InvalidArgument(
                f"option {name!r} of family {spec.family!r} must be {_describe(hints[name])}"
            )
    _check_required(spec, shape)
    return shape(**spec.options)


def _check_required(spec: ModelSpec, shape: Any) -> None:
    for field in fields(shape):
        if field.name not in spec.options and field.default is MISSING:
            raise InvalidArgument(f"family {spec.family!r} needs the option {field.name!r}")


def _accepts(hint: Any, value: object) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_accepts(choice, value) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in (int, float) and value >= 0  # type: ignore[operator]
    if hint is int:
        return type(value) is int and value >= 1
    return type(value) is hint


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe(choice) for choice in get_args(hint) if choice is not NoneType)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return WORDS[hint]
