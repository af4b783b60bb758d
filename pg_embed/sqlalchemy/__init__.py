"""Searching and embedding with SQLAlchemy 2.0 and 2.1, by its ORM or by its Core."""

from __future__ import annotations

import pgvector.sqlalchemy  # noqa: F401  # the types of a reflected table

from pg_embed.sqlalchemy.search import search

__all__ = ["search"]
