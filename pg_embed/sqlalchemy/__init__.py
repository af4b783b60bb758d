"""Searching and embedding with SQLAlchemy 2.0 and 2.1, by its ORM or by its Core."""

from __future__ import annotations

from pg_embed.sqlalchemy import ddl, reflection  # noqa: F401  # listen to what becomes of tables
from pg_embed.sqlalchemy.chunks import Chunk, chunk_class, chunked
from pg_embed.sqlalchemy.declarations import Embedded, Vectorizer, vectorizers
from pg_embed.sqlalchemy.embedded import embedded, embedded_column
from pg_embed.sqlalchemy.embedding import embed, embed_with
from pg_embed.sqlalchemy.search import search, search_chunks

__all__ = [
    "Chunk",
    "Embedded",
    "Vectorizer",
    "chunk_class",
    "chunked",
    "embed",
    "embed_with",
    "embedded",
    "embedded_column",
    "search",
    "search_chunks",
    "vectorizers",
]
