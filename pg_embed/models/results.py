"""From what a model on this machine computed to results: sparse vectors, rows in order, finite numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from pg_embed.errors import InputRejected
from pg_embed.records import Card, Embeddings, Outputs, SparseVectors, TokenVectors, join, starts

Float32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

NO_DENSE = 0  # dimensions of the dense vectors of a result that has none


def no_dense(rows: int) -> Float32:
    """What stands for the dense vectors that nobody asked for."""
    return np.empty((rows, NO_DENSE), np.float32)


def no_rows(card: Card, outputs: Outputs) -> Embeddings:
    """The result for no texts."""
    wanted = outputs & set(card.outputs)
    nowhere, nothing = starts([]), np.empty(0, np.float32)
    return Embeddings(
        dense=np.empty((0, card.dimensions if "dense" in wanted else NO_DENSE), np.float32),
        sparse=SparseVectors(nowhere, np.empty(0, np.int32), nothing) if "sparse" in wanted else None,
        multi=TokenVectors(nowhere, nothing.reshape(0, card.size("multi"))) if "multi" in wanted else None,
    )


def in_order(parts: Sequence[Embeddings], rows: Iterable[Sequence[int]]) -> Embeddings:
    """One result of the results of batches, whose texts stood at `rows`; there must be one at least."""
    together = join(parts)
    return together.take(np.argsort(list(chain.from_iterable(rows))), tokens=together.tokens)


def check_finite(embeddings: Embeddings) -> None:
    """Raise `InputRejected` where a number of any output is none."""
    sparse, multi = embeddings.sparse, embeddings.multi
    values = [embeddings.dense, *([sparse.values] if sparse else []), *([multi.vectors] if multi else [])]
    if not all(np.isfinite(numbers).all() for numbers in values):
        raise InputRejected("a vector of the model is not finite", hint="the option dtype 'float32' may help")


def strongest(rows: Integers, indices: Integers, weights: Float32, shape: tuple[int, int]) -> SparseVectors:
    """The largest weight of each index in each row, where it is more than 0; all of shape (weights,).

    A weight that is no number stays, for the caller to find.
    """
    count, dimensions = shape
    places = rows * dimensions + indices
    order = np.argsort(places, kind="stable")
    places, weights = places[order], weights[order]
    first = np.flatnonzero(np.diff(places, prepend=-1))
    largest: Float32 = np.maximum.reduceat(weights, first) if len(first) else weights
    kept = ~(largest <= 0)
    found_rows, found = np.divmod(places[first][kept], dimensions)
    return SparseVectors(
        starts(np.bincount(found_rows, minlength=count)), found.astype(np.int32), largest[kept]
    )


def not_zero(vectors: Any) -> SparseVectors:
    """Sparse vectors of a tensor of shape (rows, dimensions) that is almost all zeros."""
    rows, indices = vectors.nonzero(as_tuple=True)
    lengths = np.bincount(rows.cpu().numpy(), minlength=len(vectors))
    return SparseVectors(
        starts(lengths),
        indices.cpu().numpy().astype(np.int32),
        vectors[rows, indices].float().cpu().numpy(),
    )
