"""What a table is declared to have embedded: plain values, read from its info and its columns'."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Column, MetaData, Table

from pg_embed.errors import InvalidArgument
from pg_embed.records import Output

ColumnType = Literal["halfvec", "vector"]
INFO = "pg_embed"  # the key in the info of a column, a table, a relationship


@dataclass(frozen=True)
class Embedded:
    """What a column holds: the vectors of which text, by which model."""

    template: str
    model: str | None
    output: Output
    filter: str | None = None
    index: str = "none"
    vectorizer: str | None = None


@dataclass(frozen=True)
class Vectorizer:
    """A vectorizer that a table should have; columns by the names that they have in the database.

    `model` is None for the database's default, `name` where the database chooses one. `dense`, `sparse` and
    `multi` are the columns for the model's outputs, of which there is one at least. With a `chunk_view` they
    are those of a table of chunks; only then may the sparse vectors be of another model, and the database is
    told the type of the dense ones. `chunking` is JSON.
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
    multi: str | None = None
    sparse_model: str | None = None
    column_type: ColumnType | None = None
    chunking: str | None = None
    chunk_table: str | None = None
    chunk_view: str | None = None


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
        filled: dict[str, Any] = {wanted.output: column.name}
        made[key] = replace(present, index=index, **filled)
    return list(made.values())


def declare_chunks(table: Table, wanted: Vectorizer) -> None:
    """Note that a table has chunks."""
    present = table.info.get(INFO, ())
    taken = {name for other in present if other != wanted for name in (other.chunk_table, other.chunk_view)}
    if taken & {wanted.chunk_table, wanted.chunk_view}:
        hint = "name the second ones: chunked(..., chunk_table='...', chunk_view='...')"
        raise InvalidArgument(f"two tables of chunks of {table} have one name", hint=hint)
    if wanted not in present:
        table.info[INFO] = (*present, wanted)


def declared_chunks(table: Table) -> list[Vectorizer]:
    """The vectorizers of a table that keep chunks of its texts."""
    return [
        replace(vectorizer, table=table.name, schema=table.schema) for vectorizer in table.info.get(INFO, ())
    ]


def vectorizers(metadata: MetaData) -> list[Vectorizer]:
    """All vectorizers that the tables of a MetaData are declared to have."""
    return [
        vectorizer
        for table in metadata.tables.values()
        for vectorizer in (*declared(table), *declared_chunks(table))
    ]
