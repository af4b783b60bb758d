"""What a model is declared to have embedded: plain values, read from its fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pg_embed.django.chunks import COLUMNS, ChunkedField
from pg_embed.django.fields import EmbeddedField
from pg_embed.django.templates import names_of, renamed, with_columns
from pg_embed.errors import InvalidArgument
from pg_embed.records import VECTORS


@dataclass(frozen=True)
class Declared:
    """A vectorizer that a model's table should have; all names are those of fields.

    `dense`, `sparse` and `multi` are the fields for the model's outputs, of which there is one at least.
    Where `chunks` names a field of chunks, they are columns of those.
    """

    template: str
    model: str | None
    dense: str | None = None
    sparse: str | None = None
    filter: str | None = None
    index: str = "none"
    name: str | None = None
    column_type: str | None = None
    multi: str | None = None
    sparse_model: str | None = None
    chunks: str | None = None
    chunking: Mapping[str, Any] | None = None
    chunk_table: str | None = None
    chunk_view: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Its fields of vectors, or that of its chunks."""
        if self.chunks is not None:
            return (self.chunks,)
        return tuple(name for name in (self.dense, self.sparse, self.multi) if name is not None)

    def reads(self, name: str, field: Any) -> bool:
        """Whether the text or the filter names a field, or its column."""
        told = {name, f"{name}_id", field.db_column or name}
        return bool(names_of(self.template) & told) or any(
            re.search(rf"(?<!\w){re.escape(one)}(?!\w)", self.filter or "") for one in told
        )

    def called(self, name: Callable[[str], str], columns: Mapping[str, str]) -> Declared:
        """The same after fields were renamed, and with them columns, which a filter follows by itself."""
        kept = ("chunks",) if self.chunks is not None else VECTORS
        old = {field: getattr(self, field) for field in kept}
        new: dict[str, Any] = {field: value and name(value) for field, value in old.items()}
        if self.filter is not None:
            new["filter"] = with_columns(self.filter, columns)
        return replace(self, template=renamed(self.template, name), **new)


def declared(fields: Iterable[tuple[str, Any]]) -> list[Declared]:
    """The vectorizers of fields by name: those of one text and one model are filled by one, in one go."""
    made: dict[tuple[Any, ...], Declared] = {}
    for name, field in fields:
        if isinstance(field, ChunkedField):
            made[name,] = _in_chunks(name, field)
        if not isinstance(field, EmbeddedField):
            continue
        key = (field.template, field.embedding_model, field.filter, field.vectorizer)
        plain = Declared(field.template, field.embedding_model, filter=field.filter, name=field.vectorizer)
        present = made.get(key, plain)
        if getattr(present, field.output) is not None:
            hint = (
                "leave one out, or give it a vectorizer of its own: EmbeddedField(..., vectorizer='another')"
            )
            told = f"two {field.output} fields hold the same: {getattr(present, field.output)}"
            raise InvalidArgument(f"{told} and {name}", hint=hint)
        index = field.index if present.index == "none" else present.index
        kind = field.column_type if field.output == "dense" else present.column_type
        filled: dict[str, Any] = {field.output: name}
        made[key] = replace(present, index=index, column_type=kind, **filled)
    return list(made.values())


def _in_chunks(name: str, field: ChunkedField) -> Declared:
    plain = Declared(field.template, field.embedding_model, filter=field.filter, index=field.index)
    columns: dict[str, Any] = {output: COLUMNS[output] for output in field.outputs}
    return replace(
        plain,
        **columns,
        name=field.vectorizer,
        column_type=field.column_type,
        sparse_model=field.sparse_model,
        chunks=name,
        chunking=field.chunking,
        chunk_table=field.chunk_table,
        chunk_view=field.chunk_view,
    )
