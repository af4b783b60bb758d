"""Templates as Django's models have them: fields in braces, for which the database wants columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import FieldDoesNotExist

PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")  # a brace of the text, or a name
WORD = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")+)"|(\w+)""")  # of SQL: a text, or a name as it may stand
PLAIN = re.compile(r"[a-z_][a-z0-9_]*")  # a name that needs no quotes


def names_of(template: str) -> set[str]:
    """The names in braces."""
    return {found[1] for found in PART.finditer(template) if found[1] is not None}


def renamed(template: str, name: Callable[[str], str]) -> str:
    """The template with other names in its braces."""
    return PART.sub(lambda found: found[0] if found[1] is None else f"{{{name(found[1])}}}", template)


def with_columns(condition: str, columns: Mapping[str, str]) -> str:
    """A condition in SQL with other names of columns; what stands in texts stays."""

    def name(found: re.Match[str]) -> str:
        old = found[1] or found[2]
        if old not in columns or columns[old] == old:
            return found[0]
        return columns[old] if PLAIN.fullmatch(columns[old]) else f'"{columns[old]}"'

    return WORD.sub(name, condition)


def column_of(model: Any, name: str) -> str:
    """The column of a field by the field's name; another name is taken for a column's."""
    try:
        return str(model._meta.get_field(name).column or name)
    except (AttributeError, FieldDoesNotExist):
        return name
