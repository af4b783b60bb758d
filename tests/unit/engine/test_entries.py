"""Filling batches from requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from pg_embed.engine.entries import Batch, Entry
from pg_embed.records import Card, Embeddings, Outputs, Priority
from tests.fix_models import CARD

DENSE: Outputs = frozenset({"dense"})
SUMMED = replace(CARD, padded=False)


def entry(counts: list[int], card: Card = CARD) -> Entry:
    future = asyncio.get_running_loop().create_future()
    return Entry([f"{count}#{n}" for n, count in enumerate(counts)], counts, "document", DENSE, future, card)


def batch(card: Card = CARD) -> Batch:
    return Batch(card, Priority.LIVE)


async def test_requests_are_taken_whole_until_one_does_not_fit() -> None:
    filled, first, second = batch(), entry([1, 2]), entry([3, 4, 5])
    assert filled.take(first) == 2
    assert filled.take(second) == 0
    assert filled.texts() == ["1#0", "2#1"]


async def test_the_budget_is_of_padded_tokens() -> None:
    filled = batch()
    assert filled.take(entry([30])) == 1
    assert filled.take(entry([50])) == 1
    assert filled.take(entry([10])) == 0  # three texts as long as 50 would be 150


async def test_the_budget_is_of_the_sum_for_models_that_do_not_pad() -> None:
    filled = batch(SUMMED)
    assert filled.take(entry([30], SUMMED)) == 1
    assert filled.take(entry([50], SUMMED)) == 1
    assert filled.take(entry([20], SUMMED)) == 1
    assert filled.take(entry([1], SUMMED)) == 0


@pytest.mark.parametrize("card", [CARD, SUMMED])
async def test_a_text_over_the_budget_goes_alone(card: Card) -> None:
    filled = batch(card)
    assert filled.take(entry([500], card)) == 1
    assert filled.take(entry([1], card)) == 0


@pytest.mark.parametrize("card", [CARD, SUMMED])
async def test_a_large_request_is_split_longest_first_and_answered_in_its_order(card: Card) -> None:
    request = entry([1, 90, 2, 60, 3, 4], card)
    batches = []
    while request.untaken:
        batches.append(batch(card))
        assert batches[-1].take(request) > 0
    taken = [[int(text.split("#")[0]) for text in filled.texts()] for filled in batches]
    assert [count for counts in taken for count in counts] == [90, 60, 4, 3, 2, 1]
    cost = max if card.padded else sum
    assert all(cost(counts) * (len(counts) if card.padded else 1) <= 100 for counts in taken)
    for filled, counts in zip(batches, taken, strict=True):
        filled.deliver(Embeddings(np.array([[count] for count in counts], np.float32), len(counts)))
    result = await request.future
    assert result.dense.ravel().tolist() == [1, 90, 2, 60, 3, 4]
    assert result.tokens == 6


async def test_texts_of_equal_counts_are_sorted_by_characters() -> None:
    future = asyncio.get_running_loop().create_future()
    texts = ["aa", "aaaa", "a", "aaa", "aaaaa"]
    filled = batch()
    filled.take(Entry(texts, [9] * 5, "document", DENSE, future, CARD))
    assert filled.texts() == ["aaaaa", "aaaa", "aaa", "aa"]


async def test_the_rest_of_a_large_request_shares_a_batch_with_the_next_one() -> None:
    large, next_one, filled = entry([1, 1, 1, 1, 1]), entry([1, 1]), batch()
    assert batch().take(large) == 4
    assert filled.take(large) == 1
    assert filled.take(next_one) == 2


async def test_each_caller_gets_its_vectors_and_its_share_of_the_tokens() -> None:
    one, two, filled = entry([10, 10]), entry([20]), batch()
    filled.take(one)
    filled.take(two)
    filled.deliver(Embeddings(np.array([[1], [2], [3]], np.float32), 80))
    assert (await one.future).dense.ravel().tolist() == [1, 2]
    assert (await one.future).tokens == 40
    assert (await two.future).dense.ravel().tolist() == [3]
    assert (await two.future).tokens == 40


async def test_a_whole_request_is_given_to_the_model_without_a_copy() -> None:
    request, filled = entry([1, 2]), batch()
    filled.take(request)
    assert filled.texts() is request.texts
