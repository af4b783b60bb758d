"""Searching and embedding with SQLAlchemy 2.0 and 2.1, by its ORM or by its Core."""

from __future__ import annotations

from pg_embed.sqlalchemy.embedding import embed, embed_with
from pg_embed.sqlalchemy.search import search

__all__ = ["embed", "embed_with", "search"]
