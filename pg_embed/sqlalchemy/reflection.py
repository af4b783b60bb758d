"""Columns of vectors that are read from the database, as by autoload_with or automap."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ARRAY, Inspector, Table, event

from pg_embed.sqlalchemy.embedding import COMPARATORS, compared_by_model
from pg_embed.sqlalchemy.tokens import TokenVectors

ADDED = "pg_embed: added for a vectorizer"  # the comment of a column that embed.create_vectorizer made


@event.listens_for(Table, "column_reflect")
def recognise(inspector: Inspector, table: Table, column_info: Any) -> None:
    """Give arrays of vectors a type that reads them, and let `embed()` know columns that vectorizers made."""
    type_ = column_info["type"]
    if isinstance(type_, ARRAY) and isinstance(type_.item_type, HALFVEC) and type_.item_type.dim:
        column_info["type"] = TokenVectors(type_.item_type.dim)
    elif column_info.get("comment") == ADDED and type(type_) in COMPARATORS:
        column_info["type"] = compared_by_model(type_)
