"""QuerySets and managers that search."""

from __future__ import annotations

from typing import Any

from django.db.models import Manager, QuerySet

from pg_embed.django.fields import EmbeddedField
from pg_embed.django.searching import is_searched, search, search_chunks
from pg_embed.errors import InvalidArgument

COMBINED = "use union(), or filter(pk__in=Doc.objects.search(...).values('pk'))"


class EmbeddedQuerySet(QuerySet):
    """A QuerySet with `search` and `search_chunks`, which leaves vectors to pg_embed."""

    def search(self, query: str, **options: Any) -> Any:
        """The rows that answer a query best: see pg_embed.django.search, whose options these are."""
        return search(self, query, **options)

    def search_chunks(self, query: str, **options: Any) -> Any:
        """The same with their chunks: see pg_embed.django.search_chunks, whose options these are."""
        return search_chunks(self, query, **options)

    def bulk_create(
        self,
        objs: Any,
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Any = None,
        unique_fields: Any = None,
    ) -> Any:
        """Django's own; fields of vectors are no more updated where rows conflict than by update()."""
        if update_fields is not None:
            vectors = {own.name for own in self.model._meta.fields if isinstance(own, EmbeddedField)}
            update_fields = [name for name in update_fields if name not in vectors]
        return super().bulk_create(
            objs, batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields
        )

    def __and__(self, other: Any) -> Any:
        if is_searched(self) and is_searched(other):
            raise InvalidArgument("two searches cannot be combined", hint=COMBINED)
        return super().__and__(other)

    def __or__(self, other: Any) -> Any:
        self._refuse_hits(other)
        return super().__or__(other)

    def __xor__(self, other: Any) -> Any:
        self._refuse_hits(other)
        return super().__xor__(other)

    def _refuse_hits(self, other: Any) -> None:
        """A row that was not found is not among the hits, whatever else is asked for."""
        if is_searched(self) or is_searched(other):
            raise InvalidArgument("only the conditions of a search can be combined by | and ^", hint=COMBINED)


class EmbeddedManager(Manager.from_queryset(EmbeddedQuerySet)):  # type: ignore[misc]
    """`objects = EmbeddedManager()`, for `Doc.objects.search("money back")`."""
