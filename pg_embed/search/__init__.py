"""Searching tables from Python, over psycopg's connections."""

from __future__ import annotations

from pg_embed.search.boosts import recency
from pg_embed.search.search import (
    Fusion,
    Hit,
    Mode,
    Search,
    search,
    search_async,
    similar,
    similar_async,
)
from pg_embed.search.tables import Table, identifier

__all__ = [
    "Fusion",
    "Hit",
    "Mode",
    "Search",
    "Table",
    "identifier",
    "recency",
    "search",
    "search_async",
    "similar",
    "similar_async",
]
