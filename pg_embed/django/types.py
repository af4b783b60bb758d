"""What becomes of a column, and of the texts in it, when a field changes."""

from __future__ import annotations

import re
from typing import Any

TEXT = re.compile(r"text|varchar(?:\((\d+)\))?")
INTEGERS = {"smallint", "integer", "bigint"}


def type_changes(old: Any, new: Any, connection: Any) -> bool:
    """Whether the column gets another type."""
    return bool(old.db_type(connection) != new.db_type(connection))


def keeps_texts(old: Any, new: Any, connection: Any) -> bool:
    """Whether all that stands in a column reads afterwards as it did before."""
    before, after = old.db_type(connection), new.db_type(connection)
    if old.null and not new.null:
        return False  # NULL becomes the field's default
    if {before, after} <= INTEGERS:
        return True
    texts = TEXT.fullmatch(before), TEXT.fullmatch(after)
    return all(texts) and _most(texts[1]) >= _most(texts[0])


def _most(text: Any) -> float:
    """The characters that a type holds."""
    return float(text[1] or "inf")
