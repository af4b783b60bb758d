"""Searching and embedding with Django 5.2 and later: `"pg_embed.django"` in INSTALLED_APPS."""

from __future__ import annotations

from pg_embed.errors import MissingExtra

try:
    from pg_embed.django.chunks import Chunk, ChunkedField
    from pg_embed.django.embedding import CosineDistance, Embed, L1Distance, L2Distance, MaxInnerProduct
    from pg_embed.django.fields import EmbeddedField
    from pg_embed.django.querysets import EmbeddedManager, EmbeddedQuerySet
    from pg_embed.django.searching import search, search_chunks
except ModuleNotFoundError as exc:
    if exc.name is None or exc.name.partition(".")[0] != "django":
        raise
    raise MissingExtra("django is not installed", hint="pip install 'pg-embed[django]'") from exc

__all__ = [
    "Chunk",
    "ChunkedField",
    "CosineDistance",
    "Embed",
    "EmbeddedField",
    "EmbeddedManager",
    "EmbeddedQuerySet",
    "L1Distance",
    "L2Distance",
    "MaxInnerProduct",
    "search",
    "search_chunks",
]
