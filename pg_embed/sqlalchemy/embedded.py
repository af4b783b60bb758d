"""Columns of vectors that are declared with their table."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import HALFVEC, SPARSEVEC, VECTOR
from sqlalchemy import Column
from sqlalchemy.orm import MappedColumn, mapped_column
from sqlalchemy.types import TypeEngine

from pg_embed.errors import InvalidArgument
from pg_embed.models.presets import HALFVEC_MOST, known_size
from pg_embed.records import VECTORS, Output
from pg_embed.sqlalchemy.declarations import INFO, ColumnType, Embedded
from pg_embed.sqlalchemy.embedding import compared_by_model
from pg_embed.sqlalchemy.tokens import TokenVectors


def embedded(
    template: str,
    *,
    model: str | None = None,
    output: Output = "dense",
    dimensions: int | None = None,
    column_type: ColumnType | None = None,
    filter: str | None = None,
    index: str = "none",
    vectorizer: str | None = None,
    **options: Any,
) -> MappedColumn[Any]:
    """A mapped column that pg_embed fills with the vectors of a text.

        embedding: Mapped[list[float] | None] = embedded("{title}: {body}", model="bge-m3")

    The template names columns of the table as the database does. `create_all` makes the vectorizer with the
    table, one for all columns of one template and model, and `drop_all` removes it. A model that is known by
    its name tells the size of its vectors; for others, and for one that is set to another size, give
    `dimensions`. Dense vectors are halfvec up to 4,000 dimensions unless `column_type` is "vector". `filter`,
    `index` and the name `vectorizer` are those of embed.create_vectorizer, `options` those of mapped_column.
    """
    told = Embedded(template, model, output, filter or None, index, vectorizer)
    type_ = vector_type(model, output, dimensions, column_type)
    info = {**options.pop("info", {}), INFO: told}
    return mapped_column(type_, info=info, **{"nullable": True, **options})


def embedded_column(
    name: str,
    template: str,
    *,
    model: str | None = None,
    output: Output = "dense",
    dimensions: int | None = None,
    column_type: ColumnType | None = None,
    filter: str | None = None,
    index: str = "none",
    vectorizer: str | None = None,
) -> Column[Any]:
    """The same for a Table of the Core."""
    told = Embedded(template, model, output, filter or None, index, vectorizer)
    return Column(name, vector_type(model, output, dimensions, column_type), info={INFO: told})


def vector_type(
    model: str | None, output: Output, dimensions: int | None, column_type: ColumnType | None
) -> TypeEngine[Any]:
    """The type of a column for an output of a model, whose size its name tells or is given."""
    if output not in VECTORS:
        hint = 'use "dense", "sparse" or "multi"'
        raise InvalidArgument(f"a column cannot be declared to hold {output!r} vectors", hint=hint)
    size = dimensions or known_size(model, output)
    if output == "multi":
        return TokenVectors(size)
    if output == "sparse":
        return compared_by_model(SPARSEVEC(size))
    half = size <= HALFVEC_MOST if column_type is None else column_type == "halfvec"
    return compared_by_model(HALFVEC(size) if half else VECTOR(size))
