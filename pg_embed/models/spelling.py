"""Vectors as pgvector reads them in texts; a trap: its sparse vectors count from 1 there, ours from 0."""

from __future__ import annotations

import numpy as np
import orjson

from pg_embed.errors import ModelUnavailable
from pg_embed.records import Card, Embeddings, Float32, Output, SparseVectors, TokenVectors


def spell(found: Embeddings, output: Output, card: Card) -> list[str]:
    """One output of each text: a vector, a sparsevec or an array of halfvec."""
    if output == "sparse" and found.sparse is not None:
        return spelled(found.sparse, card.size("sparse"))
    if output == "multi" and found.multi is not None:
        return spelled(found.multi, card.size("multi"))
    return spelled(found.dense, card.size("dense"))


def spelled(vectors: Float32 | SparseVectors | TokenVectors, dimensions: int) -> list[str]:
    """The same of vectors alone; only sparse ones do not tell their dimensions."""
    if isinstance(vectors, SparseVectors):
        return _sparse(vectors, dimensions)
    return _multi(vectors) if isinstance(vectors, TokenVectors) else _vectors(vectors)


def _vectors(matrix: Float32) -> list[str]:
    rows = np.ascontiguousarray(matrix, dtype=np.float32)
    _must_be_finite(rows)
    return [_list(row) for row in rows]


def _sparse(found: SparseVectors, dimensions: int) -> list[str]:
    _must_be_finite(found.values)
    spelled = []
    for row in range(len(found)):
        indices, values = found.row(row)
        pairs = zip((indices + 1).tolist(), _digits(values), strict=True)
        spelled.append(f"{{{','.join(f'{index}:{value}' for index, value in pairs)}}}/{dimensions}")
    return spelled


def _multi(found: TokenVectors) -> list[str]:
    rows = (_vectors(found.row(row)) for row in range(len(found)))
    return ["{" + ",".join(f'"{vector}"' for vector in vectors) + "}" for vectors in rows]


def _list(numbers: Float32) -> str:
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _digits(values: Float32) -> list[str]:
    return _list(np.ascontiguousarray(values))[1:-1].split(",") if len(values) else []


def _must_be_finite(numbers: Float32) -> None:
    if not np.isfinite(numbers).all():
        raise ModelUnavailable("the model gave a vector with a number that is not finite")
