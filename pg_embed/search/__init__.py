"""Searching tables from Python, over psycopg's connections."""

from __future__ import annotations

from pg_embed.search.boosts import recency
from pg_embed.search.giving import Asked, give, give_async
from pg_embed.search.search import (
    ChunkHit,
    Fusion,
    Hit,
    Mode,
    Options,
    Search,
    search,
    search_async,
    search_chunks,
    search_chunks_async,
    similar,
    similar_async,
)
from pg_embed.search.tables import Table, identifier

__all__ = [
    "Asked",
    "ChunkHit",
    "Fusion",
    "Hit",
    "Mode",
    "Options",
    "Search",
    "Table",
    "give",
    "give_async",
    "identifier",
    "recency",
    "search",
    "search_async",
    "search_chunks",
    "search_chunks_async",
    "similar",
    "similar_async",
]
