"""The family "fake_reranker"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, ModelUnavailable
from pg_embed.models.overlap import FakeReranker, load
from pg_embed.records import ModelSpec


def fake(**options: Any) -> FakeReranker:
    return load(ModelSpec("fake", "fake_reranker", options))


def test_a_score_is_the_share_of_the_query_s_words_that_the_text_has() -> None:
    texts = ["The red fox.", "a fox, a RED one: the end", "", "foxes"]
    found = fake().rerank("Red fox the-red NIGHT", texts)
    assert found.scores.tolist() == [0.75, 0.75, 0.0, 0.0]
    assert found.scores.dtype == np.float32
    assert found.tokens == 4 * 6 + 4 + 7 + 1 + 2


def test_a_query_without_words_gives_nothing() -> None:
    assert fake().rerank("", ["a", ""]).scores.tolist() == [0, 0]
    assert fake().rerank(" ?! ", ["a ?!"]).scores.tolist() == [0]
    assert fake().rerank("a", []).scores.shape == (0,)


def test_words_are_those_of_any_language() -> None:
    assert fake().rerank("Größe 東京", ["GRÖSSE 東京", "東京都"]).scores.tolist() == [1.0, 0.0]


def test_its_card_is_a_reranker_s() -> None:
    card = fake(listwise=True, max_batch_items=3).card
    assert (card.outputs, card.dimensions, card.metric) == (("score",), 1, "ip")
    assert (card.listwise, card.max_batch_items) == (True, 3)
    assert card.space_id == fake(delay=1, fail_on="x").card.space_id


def test_it_fails_as_told() -> None:
    reranker = fake(fail_on="poison", unavailable_on="away")
    with pytest.raises(InputRejected):
        reranker.rerank("q", ["good", "a poison pill"])
    with pytest.raises(ModelUnavailable):
        reranker.rerank("q", ["gone away"])
    assert reranker.rerank("poison", ["good"]).scores.tolist() == [0]
