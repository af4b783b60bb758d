"""From numbers of a model to results."""

from __future__ import annotations

import numpy as np
import pytest

from pg_embed.errors import InputRejected
from pg_embed.models.results import check_finite, in_order, no_dense, no_rows, not_zero, strongest
from pg_embed.records import Card, Embeddings, SparseVectors, TokenVectors, starts

CARD = Card("m3", "tiny", ("dense", "sparse", "multi"), 4, 9, "cosine", "space", multi_dimensions=3)
NAN = float("nan")


def weights(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


def test_of_an_index_in_several_places_the_largest_weight_stays() -> None:
    rows, indices = np.asarray([0, 0, 0, 2, 2]), np.asarray([7, 3, 7, 3, 5])
    found = strongest(rows, indices, weights(1, 4, 2, 0, -1), (3, 10))
    assert found.starts.tolist() == [0, 2, 2, 2]
    assert found.indices.tolist() == [3, 7]
    assert found.values.tolist() == [4, 2]


def test_no_weights_are_rows_without_any() -> None:
    nothing = np.empty(0, np.int64)
    found = strongest(nothing, nothing, weights(), (2, 10))
    assert found.starts.tolist() == [0, 0, 0]
    assert (found.indices.dtype, found.values.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("values", [(NAN, 1), (1, NAN)])
def test_a_weight_that_is_no_number_is_not_lost(values: tuple[float, float]) -> None:
    found = strongest(np.asarray([0, 0]), np.asarray([1, 1]), weights(*values), (1, 10))
    assert np.isnan(found.values).tolist() == [True]
    with pytest.raises(InputRejected, match="not finite"):
        check_finite(Embeddings(dense=no_dense(1), sparse=found))


def test_a_tensor_of_few_numbers_becomes_sparse() -> None:
    import torch

    found = not_zero(torch.tensor([[0, 1.5, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0]], dtype=torch.bfloat16))
    assert found.starts.tolist() == [0, 2, 2, 3]
    assert found.indices.tolist() == [1, 3, 0]
    assert found.values.tolist() == [1.5, 2, 3]
    assert (found.indices.dtype, found.values.dtype) == (np.int32, np.float32)


def test_batches_come_back_in_the_order_of_the_texts() -> None:
    def part(*rows: int) -> Embeddings:
        """Row n has n token vectors, and n as its one sparse weight."""
        return Embeddings(
            dense=np.asarray([[row] for row in rows], np.float32),
            tokens=sum(rows),
            sparse=SparseVectors(starts([1] * len(rows)), np.zeros(len(rows), np.int32), weights(*rows)),
            multi=TokenVectors(starts(rows), np.repeat(weights(*rows), rows)[:, None]),
        )

    found = in_order([part(3, 1), part(2)], [[2, 0], [1]])
    assert found.dense[:, 0].tolist() == [1, 2, 3]
    assert found.tokens == 6
    assert found.sparse is not None
    assert found.sparse.values.tolist() == [1, 2, 3]
    assert found.multi is not None
    assert found.multi.vectors[:, 0].tolist() == [1, 2, 2, 3, 3, 3]


def test_no_texts_have_the_outputs_that_are_asked_for() -> None:
    some = no_rows(CARD, frozenset({"multi", "score"}))
    assert (some.dense.shape, some.sparse) == ((0, 0), None)
    assert some.multi is not None
    assert some.multi.vectors.shape == (0, 3)
    assert no_rows(CARD, frozenset({"dense"})).dense.shape == (0, 4)
