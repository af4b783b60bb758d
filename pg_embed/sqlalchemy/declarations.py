"""What a table is declared to have embedded: plain values, read from the columns' info."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Column, MetaData, Table

from pg_embed.errors import InvalidArgument

Stored = Literal["dense", "sparse"]
INFO = "pg_embed"  # the key in a column's info


@dataclass(frozen=True)
class Embedded:
    """What a column holds: the vectors of which text, by which model."""

    template: str
    model: str | None
    output: Stored
    filter: str | None = None
    index: str = "none"
    vectorizer: str | None = None


@dataclass(frozen=True)
class Vectorizer:
    """A vectorizer that a table should have; columns by the names that they have in the database.

    `model` is None for the database's default, `name` where the database chooses one. `dense` and `sparse`
    are the columns for the model's outputs, of which there is one at least.
    """

    table: str
    schema: str | None
    template: str
    model: str | None
    dense: str | None = None
    sparse: str | None = None
    filter: str | None = None
    index: str = "none"
    name: str | None = None


def embedded_by(column: Column[Any]) -> Embedded | None:
    """What a column was declared with, if by `embedded()`."""
    found = column.info.get(INFO)
    return found if isinstance(found, Embedded) else None


def declared(table: Table) -> list[Vectorizer]:
    """The vectorizers of a table: columns of one text and one model are filled by one, in one go."""
    made: dict[tuple[Any, ...], Vectorizer] = {}
    for column in table.columns:
        wanted = embedded_by(column)
        if wanted is None:
            continue
        key = (wanted.template, wanted.model, wanted.filter, wanted.vectorizer)
        plain = Vectorizer(
            table.name,
            table.schema,
            wanted.template,
            wanted.model,
            filter=wanted.filter,
            name=wanted.vectorizer,
        )
        present = made.get(key, plain)
        if getattr(present, wanted.output) is not None:
            hint = "leave one out, or give it a vectorizer of its own: embedded(..., vectorizer='another')"
            told = f"two {wanted.output} columns of {table} hold the same: {getattr(present, wanted.output)}"
            raise InvalidArgument(f"{told} and {column.name}", hint=hint)
        index = wanted.index if present.index == "none" else present.index
        made[key] = replace(present, index=index, **{wanted.output: column.name})
    return list(made.values())


def vectorizers(metadata: MetaData) -> list[Vectorizer]:
    """All vectorizers that the tables of a MetaData are declared to have."""
    return [vectorizer for table in metadata.tables.values() for vectorizer in declared(table)]
