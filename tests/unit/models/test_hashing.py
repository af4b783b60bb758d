"""The family "fake"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, ModelUnavailable
from pg_embed.models.hashing import FakeEmbedder, load
from pg_embed.records import ModelSpec


def fake(**options: Any) -> FakeEmbedder:
    return load(ModelSpec("fake", "fake", options))


def test_vectors_are_the_same_on_every_machine() -> None:
    dense = fake(dimensions=4).embed(["hello"], "document").dense
    assert np.allclose(dense * 178.3732, [[-114, -76, -74, -87]], atol=0.001)


def test_a_batch_across_chunks_keeps_the_order() -> None:
    texts = [str(n) for n in range(600)]
    dense = fake().embed(texts, "document").dense
    assert (dense[599] == fake().embed(["599"], "document").dense[0]).all()


def test_one_dimension_is_never_zero() -> None:
    dense = fake(dimensions=1).embed([str(n) for n in range(2_000)], "document").dense
    assert np.isin(dense, [-1, 1]).all()


def test_prompts_change_the_vectors_of_their_kind_and_the_space() -> None:
    plain, prompted = fake(), fake(query_prompt="query: ")
    assert (prompted.embed(["a"], "query").dense == plain.embed(["query: a"], "query").dense).all()
    assert (prompted.embed(["a"], "document").dense == plain.embed(["a"], "document").dense).all()
    assert plain.card.space_id != prompted.card.space_id


def test_what_does_not_change_vectors_does_not_change_the_space() -> None:
    assert fake().card.space_id == fake(delay=1, max_tokens=7, concurrency=5, fail_on="x").card.space_id
    assert fake().card.space_id != fake(dimensions=9).card.space_id


def test_it_fails_as_told() -> None:
    embedder = fake(fail_on="poison", unavailable_on="away")
    with pytest.raises(InputRejected):
        embedder.embed(["good", "a poison pill"], "document")
    with pytest.raises(ModelUnavailable):
        embedder.embed(["good", "gone away"], "document")
    assert len(embedder.embed(["good"], "document").dense) == 1


def test_a_lone_surrogate_is_a_text_too() -> None:
    assert np.isfinite(fake().embed(["\ud800"], "document").dense).all()
