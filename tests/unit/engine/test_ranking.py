"""Rerankers in the engine: calls within limits, order, bounds, cancelling, and models of the other kind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pg_embed.engine import Engine, EngineSettings
from pg_embed.engine.observer import Silence
from pg_embed.engine.ranking import split
from pg_embed.errors import (
    InputRejected,
    InvalidArgument,
    ModelUnavailable,
    Overloaded,
    PgEmbedError,
    SidecarTimeout,
)
from pg_embed.records import Priority, Scores
from tests.fix_models import CARD, PATIENCE, STEPPED, Call, OneModel, SteppedEmbedder, SteppedReranker

QUERY, LIVE, BACKFILL = Priority
Make = Callable[..., Engine]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Engines over one reranker; at the end its calls are let go."""
    made: list[tuple[Engine, SteppedEmbedder]] = []

    def make(model: SteppedEmbedder, observer: Silence | None = None, **settings: Any) -> Engine:
        engine = Engine(OneModel(lambda spec: model), EngineSettings(**settings), observer)
        made.append((engine, model))
        return engine

    yield make
    for _, model in made:
        for call in model.calls:
            call.go()
    for engine, _ in made:
        await engine.close()


async def next_call(model: SteppedEmbedder) -> Call:
    return await asyncio.to_thread(model.next_call)


def ask(
    engine: Engine, *texts: str, query: str = "q", priority: Priority = QUERY, timeout: float = PATIENCE
) -> asyncio.Task[Scores]:
    return asyncio.create_task(engine.rerank(STEPPED, query, texts, priority, timeout))


async def started(*tasks: asyncio.Task[Scores]) -> None:
    """Let the tasks come as far as they can on the event loop."""
    for _ in range(5 * len(tasks)):
        await asyncio.sleep(0)


async def test_scores_come_in_the_order_of_the_texts_from_calls_of_like_lengths(make: Make) -> None:
    model = SteppedReranker(free=True, concurrency=1, max_batch_items=3, max_batch_tokens=1_000)
    texts = ["word " * count for count in (1, 5, 2, 7, 3, 6, 4)]
    found = await ask(make(model), *texts, query="two words")
    assert found.scores.tolist() == [len(text) for text in texts]
    assert found.scores.dtype == np.float32
    assert found.tokens == 28
    assert [[text.count("word") for text in call.texts] for call in model.calls] == [
        [7, 6, 5],
        [4, 3, 2],
        [1],
    ]
    assert {call.kind for call in model.calls} == {"two words"}


@pytest.mark.parametrize(
    ("padded", "calls"), [(True, [["c c c"], ["b b", "a"]]), (False, [["c c c", "b b"], ["a"]])]
)
async def test_the_query_is_counted_with_every_text(make: Make, padded: bool, calls: list[list[str]]) -> None:
    model = SteppedReranker(free=True, concurrency=1, max_batch_tokens=8 if not padded else 7, padded=padded)
    await ask(make(model), "a", "b b", "c c c", query="one")
    assert [call.texts for call in model.calls] == calls


def test_a_text_dearer_than_a_call_may_be_goes_alone() -> None:
    card = replace(CARD, max_batch_items=2, max_batch_tokens=10)
    assert split([2, 0, 1, 3], [5, 5, 99, 1], card) == [[2], [0, 1], [3]]
    assert split([], [], card) == []


async def test_no_texts_are_no_call_and_an_empty_query_is_one(make: Make) -> None:
    model = SteppedReranker(free=True)
    engine = make(model)
    assert (await ask(engine)).scores.shape == (0,)
    assert model.calls == []
    assert (await ask(engine, "", "a", query="")).scores.tolist() == [0, 1]


async def test_a_listwise_model_sees_all_texts_at_once_in_their_order(make: Make) -> None:
    model = SteppedReranker(free=True, listwise=True, max_batch_items=5, max_batch_tokens=1)
    engine = make(model)
    assert (await ask(engine, "a", "bbb", "cc", "d", "eeee")).scores.tolist() == [1, 3, 2, 1, 4]
    assert [call.texts for call in model.calls] == [["a", "bbb", "cc", "d", "eeee"]]
    with pytest.raises(InvalidArgument, match="at most 5 of them, not 6"):
        await ask(engine, *"abcdef")


async def test_no_more_calls_at_a_time_than_the_model_takes(make: Make) -> None:
    model = SteppedReranker(concurrency=2, max_batch_items=1)
    engine = make(model)
    bulk, query = ask(engine, "a", "b", "c", priority=LIVE), ask(engine, "d", "e")
    first, second = await next_call(model), await next_call(model)
    assert {first.thread, second.thread} == {"pg_embed-stepped-0", "pg_embed-stepped-1"}
    await started(bulk, query)
    assert len(model.calls) == 2
    for call in (first, second, *[await released(model, first, second) for _ in range(3)]):
        call.go()
    assert (await bulk).scores.tolist() == [1, 1, 1]
    assert (await query).scores.tolist() == [1, 1]


async def released(model: SteppedReranker, *calls: Call) -> Call:
    """The next call, after these were let go."""
    for call in calls:
        call.go()
    call = await next_call(model)
    call.go()
    return call


async def test_queries_go_before_bulk_and_requests_in_the_order_in_which_they_came(make: Make) -> None:
    model = SteppedReranker(concurrency=1)
    engine = make(model)
    running = ask(engine, "running", priority=LIVE)
    first = await next_call(model)
    others = [ask(engine, name, priority=priority) for name, priority in
              (("backfill", BACKFILL), ("live", LIVE), ("one", QUERY), ("two", QUERY))]  # fmt: skip
    await started(*others)
    first.go()
    for expected in (["one"], ["two"], ["live"], ["backfill"]):
        call = await next_call(model)
        assert call.texts == expected
        call.go()
    await asyncio.gather(running, *others)


async def test_a_full_queue_refuses_at_once_and_an_empty_one_takes_any_request(make: Make) -> None:
    model = SteppedReranker(concurrency=1, max_batch_items=1)
    engine = make(model, max_queued_pairs=3)
    large = ask(engine, *["a"] * 5)  # one runs, four wait
    first = await next_call(model)
    for priority in (QUERY, QUERY):
        with pytest.raises(Overloaded, match="4 texts wait for model 'stepped'"):
            await ask(engine, "b", priority=priority)
    first.go()
    for _ in range(2):
        (await next_call(model)).go()
    await next_call(model)
    small = ask(engine, "b")
    await started(small)
    for call in model.calls:
        call.go()
    for _ in range(2):
        (await next_call(model)).go()
    assert (await large).scores.tolist() == [1] * 5
    assert (await small).scores.tolist() == [1]


async def test_what_waits_for_a_caller_that_has_gone_is_dropped(make: Make) -> None:
    model = SteppedReranker(concurrency=1, max_batch_items=1)
    engine = make(model, max_queued_pairs=3)
    goes = ask(engine, "a", "b", "c", "d")
    first = await next_call(model)
    goes.cancel()
    await asyncio.gather(goes, return_exceptions=True)
    stays = ask(engine, "x", "y", "z")
    await started(stays)
    first.go()
    for _ in range(3):
        (await next_call(model)).go()
    assert (await stays).scores.tolist() == [1, 1, 1]
    assert [call.texts for call in model.calls] == [["a"], ["x"], ["y"], ["z"]]


async def test_a_failed_call_fails_its_request_and_no_other(make: Make) -> None:
    model = SteppedReranker(concurrency=1, max_batch_items=1)
    engine = make(model)
    fails, works = ask(engine, "a", "b", "c"), ask(engine, "d")
    (await next_call(model)).go(InputRejected("no"))
    with pytest.raises(InputRejected):
        await fails
    (await next_call(model)).go()
    assert (await works).scores.tolist() == [1]
    assert [call.texts for call in model.calls] == [["a"], ["d"]]
    broken = ask(engine, "e")
    (await next_call(model)).go(ZeroDivisionError("surprise"))
    with pytest.raises(ModelUnavailable, match="ZeroDivisionError: surprise"):
        await broken


class Broken(SteppedReranker):
    """Gives what it was told to."""

    def __init__(self, scores: Any) -> None:
        super().__init__(free=True)
        self.scores = scores

    def rerank(self, query: str, texts: Any) -> Scores:
        return Scores(np.array(self.scores, np.float32))


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([1.0], r"shape \(1,\), expected \(2,\)"),
        ([[1.0], [2.0]], r"shape \(2, 1\), expected \(2,\)"),
        ([1.0, np.nan], "not finite"),
        ([1.0, np.inf], "not finite"),
    ],
)
async def test_scores_that_are_none_are_an_error(make: Make, scores: Any, words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        await ask(make(Broken(scores)), "a", "b")


async def test_a_caller_waits_no_longer_than_its_timeout(make: Make) -> None:
    with pytest.raises(SidecarTimeout, match=r"within 0\.01 seconds"):
        await ask(make(SteppedReranker()), "a", timeout=0.01)


async def test_an_embedder_does_not_rerank_and_a_reranker_does_not_embed(make: Make) -> None:
    with pytest.raises(InvalidArgument, match="makes no scores of texts for a query") as raised:
        await ask(make(SteppedEmbedder(free=True)), "a")
    assert raised.value.hint == "it makes dense vectors"
    engine = make(SteppedReranker(free=True))
    with pytest.raises(InvalidArgument, match="model 'stepped' makes no vectors") as raised:
        await engine.embed(STEPPED, ["a"], "query", QUERY, PATIENCE)
    assert raised.value.hint == "it makes scores of texts for a query"
    with pytest.raises(InvalidArgument, match="makes no sparse vectors"):
        await engine.embed(STEPPED, ["a"], "query", QUERY, PATIENCE, frozenset({"sparse"}))
    assert (await engine.card(STEPPED)).outputs == ("score",)


async def test_closing_answers_who_waits_and_closes_the_model(make: Make) -> None:
    model = SteppedReranker(concurrency=1, max_batch_items=1)
    engine = make(model, close_timeout=0.05)
    running, waiting = ask(engine, "a"), ask(engine, "b")
    await next_call(model)
    await engine.close()
    for task in (running, waiting):
        with pytest.raises(ModelUnavailable, match="closing"):
            await task
    assert model.closed.is_set()
    with pytest.raises(ModelUnavailable, match="closing"):
        await ask(engine, "c")


class Watcher(Silence):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def computed(
        self, model: str, priority: Priority, texts: int, tokens: int, seconds: float, error: Any
    ) -> None:
        self.told.append(("computed", model, priority, texts, tokens, error))

    def answered(
        self, model: str, priority: Priority, texts: int, seconds: float, error: PgEmbedError | None
    ) -> None:
        self.told.append(("answered", model, priority, texts, error))


async def test_the_observer_is_told(make: Make) -> None:
    watcher = Watcher()
    engine = make(SteppedReranker(free=True, max_batch_items=2), watcher)
    await ask(engine, "two words", "one", "a b c")
    await engine.close()
    assert sorted(watcher.told, key=str) == sorted(
        [
            ("computed", "stepped", QUERY, 2, 5, None),
            ("computed", "stepped", QUERY, 1, 1, None),
            ("answered", "stepped", QUERY, 3, None),
        ],
        key=str,
    )


async def test_an_idle_reranker_makes_room_and_one_at_work_does_not(make: Make) -> None:
    model = SteppedReranker(concurrency=1)
    engine = make(model, max_models=1)
    working = ask(engine, "a")
    call = await next_call(model)
    with pytest.raises(Overloaded, match="all of them at work"):
        await engine.card(replace(STEPPED, options={"other": True}))
    call.go()
    await working
    await engine.card(replace(STEPPED, options={"other": True}))
    assert await asyncio.to_thread(model.closed.wait, PATIENCE)


async def test_in_a_storm_of_callers_each_gets_its_own_answer_and_nothing_is_left(make: Make) -> None:
    model = SteppedReranker(free=True, concurrency=4, max_batch_items=8, max_batch_tokens=30)
    engine = make(model, max_queued_pairs=100_000)
    chance = random.Random(7)
    await engine.card(STEPPED)

    async def caller() -> None:
        texts = ["a " * chance.randrange(12) for _ in range(chance.randrange(1, 60))]
        found = await engine.rerank(STEPPED, "q", texts, chance.choice(list(Priority)), PATIENCE)
        assert found.scores.tolist() == [len(text) for text in texts]

    callers = [asyncio.create_task(caller()) for _ in range(300)]
    for task in callers:
        if chance.random() < 0.3:
            task.cancel()
        if chance.random() < 0.2:
            await asyncio.sleep(0)
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    ranker = await engine._model(STEPPED)
    await asyncio.to_thread(ranker._lane.threads.close, PATIENCE)
    await asyncio.sleep(0)
    assert ranker.idle
    assert not any(ranker._queues.values())
