"""Searching and embedding with Django 5.2 and later: `"pg_embed.django"` in INSTALLED_APPS."""

from __future__ import annotations

from pg_embed.django.embedding import CosineDistance, Embed, L1Distance, L2Distance, MaxInnerProduct
from pg_embed.django.fields import EmbeddedField
from pg_embed.django.querysets import EmbeddedManager, EmbeddedQuerySet
from pg_embed.django.searching import search

__all__ = [
    "CosineDistance",
    "Embed",
    "EmbeddedField",
    "EmbeddedManager",
    "EmbeddedQuerySet",
    "L1Distance",
    "L2Distance",
    "MaxInnerProduct",
    "search",
]
