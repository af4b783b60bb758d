"""Passes that have no room are halved; the budget is remembered, and grows again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import ModelUnavailable
from pg_embed.models import local
from pg_embed.models.budget import CALM, Budget
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName

TEXTS = [f"a cat sat on the mat {n} " * (1 + n % 7) for n in range(40)]


class Memory:
    """A pass that costs more than `room` has none; remembers what was tried."""

    def __init__(self, room: int, lengths: list[int]) -> None:
        self.room = room
        self.lengths = lengths
        self.tried: list[int] = []

    def __call__(self, rows: list[int]) -> list[int]:
        cost = len(rows) * max(self.lengths[row] for row in rows)
        self.tried.append(cost)
        if cost > self.room:
            raise local.OutOfMemory("out of memory")
        return [row * 10 for row in rows]


def run(budget: Budget, memory: Memory) -> list[int]:
    """All results, in order; the rows must be those that were given."""
    order = list(range(len(memory.lengths)))
    parts = list(budget.passes(order, memory.lengths, memory))
    assert [row for rows, _ in parts for row in rows] == order
    return [result for _, found in parts for result in found]


def test_all_in_one_pass_where_there_is_room() -> None:
    memory = Memory(room=100, lengths=[10] * 8)
    budget = Budget(80)
    assert run(budget, memory) == [row * 10 for row in range(8)]
    assert (memory.tried, budget.now) == ([80], 80)


def test_a_pass_without_room_is_halved_until_it_has_some_and_order_is_kept() -> None:
    memory = Memory(room=25, lengths=[10] * 8)
    budget = Budget(80)
    assert run(budget, memory) == [row * 10 for row in range(8)]
    assert memory.tried == [80, 40, 20, 20, 20, 20]
    assert budget.now == 20


def test_the_smaller_budget_holds_for_later_calls() -> None:
    memory = Memory(room=25, lengths=[10] * 8)
    budget = Budget(80)
    run(budget, memory)
    memory.tried.clear()
    run(budget, memory)
    assert memory.tried == [20] * 4


def test_long_texts_cost_more_than_short_ones() -> None:
    memory = Memory(room=60, lengths=[50, 50, 10, 10, 10, 10])
    budget = Budget(1_000)
    budget._now = 60
    run(budget, memory)
    assert memory.tried == [50, 50, 30, 10] or memory.tried == [50, 50, 10, 30]


def test_one_text_without_room_is_an_error() -> None:
    with pytest.raises(local.OutOfMemory):
        run(Budget(80), Memory(room=5, lengths=[10] * 8))


def test_the_budget_grows_slowly_and_never_beyond_the_first() -> None:
    budget = Budget(80)
    run(budget, Memory(room=45, lengths=[10] * 8))
    assert budget.now == 40
    memory = Memory(room=1_000, lengths=[10] * 4)
    for _ in range(CALM - 3):  # two passes of the call above were calm as well
        run(budget, memory)
    assert budget.now == 40
    run(budget, memory)
    assert budget.now == 46
    for _ in range(CALM * 20):
        run(budget, Memory(room=1_000, lengths=[10] * 8))
    assert budget.now == 80


def test_small_passes_say_nothing_about_large_ones() -> None:
    budget = Budget(80)
    run(budget, Memory(room=45, lengths=[10] * 8))
    for _ in range(CALM * 3):
        run(budget, Memory(room=45, lengths=[10]))
    assert budget.now == 40


def test_two_calls_that_run_out_at_once_halve_the_budget_once() -> None:
    budget, both = Budget(80), Barrier(2, timeout=20)

    def call(_: int) -> list[int]:
        memory = Memory(room=45, lengths=[10] * 8)

        def compute(rows: list[int]) -> list[int]:
            if len(rows) == 8:
                both.wait()  # neither has failed before both have begun
            return memory(rows)

        parts = budget.passes(range(8), memory.lengths, compute)
        return [result for _, found in parts for result in found]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call, range(2))) == [[row * 10 for row in range(8)]] * 2
    assert budget.now == 40


def test_running_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(Budget(80), Memory(room=45, lengths=[10] * 8))
    [record] = caplog.records
    assert (record.event, record.pg_embed_budget) == ("out_of_memory", 40)  # type: ignore[attr-defined]


def short_of_memory(forward: Callable[..., Any], room: int, sizes: list[int], error: Exception) -> Any:
    """A model's forward that has no room for more than `room` padded tokens."""

    def limited(*given: Any, **named: Any) -> Any:
        ids = named["input_ids"] if "input_ids" in named else given[0]["input_ids"]
        sizes.append(ids.numel())
        if ids.numel() > room:
            raise error
        return forward(*given, **named)

    return limited


def errors() -> list[Exception]:
    import torch

    words = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
    return [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(words), MemoryError()]


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("family", ["qwen3", "bce"])
def test_a_family_of_bare_transformers_goes_on_with_smaller_passes(
    checkpoint: ByName, monkeypatch: pytest.MonkeyPatch, family: str, error: Exception
) -> None:
    embedder: Any = default_registry().load(
        ModelSpec("tiny", family, {"checkpoint": str(checkpoint(family))})
    )
    expected = embedder.embed(TEXTS, "document")
    sizes: list[int] = []
    monkeypatch.setattr(
        embedder._model, "forward", short_of_memory(embedder._model.forward, 400, sizes, error)
    )
    found = embedder.embed(TEXTS, "document")
    assert np.allclose(found.dense, expected.dense, atol=1e-5)
    assert found.tokens == expected.tokens
    assert max(sizes) > 400
    sizes.clear()
    embedder.embed(TEXTS, "document")
    assert max(sizes) <= 400  # remembered
    monkeypatch.setattr(embedder._model, "forward", short_of_memory(embedder._model.forward, 0, sizes, error))
    with pytest.raises(ModelUnavailable, match="out of memory"):
        embedder.embed(TEXTS, "document")


def test_a_checkpoint_of_sentence_transformers_goes_on_with_smaller_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ModelSpec("minilm", "sentence_transformers", {"checkpoint": "all-MiniLM-L6-v2"})
    embedder: Any = default_registry().load(spec)
    expected = embedder.embed(TEXTS, "document")
    sizes: list[int] = []
    [error, *_] = errors()
    monkeypatch.setattr(
        embedder._model, "forward", short_of_memory(embedder._model.forward, 500, sizes, error)
    )
    with ThreadPoolExecutor(2) as pool:
        calls = list(pool.map(lambda _: embedder.embed(TEXTS, "document"), range(2)))
    for found in calls:
        assert np.allclose(found.dense, expected.dense, atol=1e-5)
        assert found.tokens == expected.tokens
    assert max(sizes) > 500
    sizes.clear()
    embedder.embed(TEXTS, "document")
    assert max(sizes) <= 500
