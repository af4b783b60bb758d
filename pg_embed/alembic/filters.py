"""What env.py may hand to Alembic so that it does not look at what is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = "embed"


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Leave schema embed out: with include_schemas it saves reading tables that are passed over anyway."""
    return not (type_ == "schema" and name == SCHEMA)
