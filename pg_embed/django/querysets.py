"""QuerySets and managers that search."""

from __future__ import annotations

from typing import Any

from django.db.models import Manager, QuerySet

from pg_embed.django.searching import search, search_chunks


class EmbeddedQuerySet(QuerySet):
    """A QuerySet with `search` and `search_chunks`."""

    def search(self, query: str, **options: Any) -> Any:
        """The rows that answer a query best: see pg_embed.django.search, whose options these are."""
        return search(self, query, **options)

    def search_chunks(self, query: str, **options: Any) -> Any:
        """The same with their chunks: see pg_embed.django.search_chunks, whose options these are."""
        return search_chunks(self, query, **options)


class EmbeddedManager(Manager.from_queryset(EmbeddedQuerySet)):  # type: ignore[misc]
    """`objects = EmbeddedManager()`, for `Doc.objects.search("money back")`."""
