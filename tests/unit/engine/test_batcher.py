"""Queues, lanes and failures of one model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pg_embed.engine.batcher import Batcher
from pg_embed.engine.observer import Silence
from pg_embed.engine.settings import EngineSettings
from pg_embed.errors import InputRejected, ModelUnavailable, Overloaded
from pg_embed.records import Embeddings, Kind, Priority
from tests.fix_models import PATIENCE, Call, SteppedEmbedder

QUERY, LIVE, BACKFILL = Priority
SETTINGS = EngineSettings(max_queued_queries=3, max_queued_texts=6)

Make = Callable[..., Batcher]


@pytest.fixture
async def make(stepped: SteppedEmbedder) -> AsyncIterator[Make]:
    """Batchers over the stepped model; at the end its calls are let go."""
    made: list[Batcher] = []

    def make(embedder: SteppedEmbedder = stepped) -> Batcher:
        made.append(Batcher(embedder, "model", SETTINGS, Silence()))
        return made[-1]

    yield make
    for call in stepped.calls:
        call.go()
    for batcher in made:
        await batcher.close(PATIENCE)


async def next_call(stepped: SteppedEmbedder) -> Call:
    return await asyncio.to_thread(stepped.next_call)


def one_lane(**card: Any) -> SteppedEmbedder:
    return SteppedEmbedder(concurrency=1, **card)


def lengths(embeddings: Embeddings) -> list[float]:
    return embeddings.dense.ravel().tolist()


async def test_callers_that_wait_together_share_a_call(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    first = batcher.submit(["a"], "document", LIVE)
    running = await next_call(stepped)
    others = [batcher.submit(["b" * n], "document", LIVE) for n in (2, 3)]
    running.go()
    assert lengths(await first) == [1]
    shared = await next_call(stepped)
    assert shared.texts == ["bb", "bbb"]
    shared.go()
    assert [lengths(await future) for future in others] == [[2], [3]]


async def test_a_query_does_not_wait_for_a_bulk_batch(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    bulk = batcher.submit(["bulk"], "document", BACKFILL)
    bulk_call = await next_call(stepped)
    query = batcher.submit(["q"], "query", QUERY)
    query_call = await next_call(stepped)
    assert (bulk_call.thread, query_call.thread) == ("pg_embed-model-bulk-0", "pg_embed-model-query-0")
    query_call.go()
    assert lengths(await query) == [1]
    assert not bulk.done()


async def test_in_a_single_lane_queries_go_first_then_live_rows() -> None:
    stepped = one_lane()
    batcher = Batcher(stepped, "model", SETTINGS, Silence())
    futures = [batcher.submit(["running"], "document", BACKFILL)]
    calls = [await next_call(stepped)]
    for text, priority in (("old", BACKFILL), ("new", LIVE), ("q", QUERY)):
        futures.append(batcher.submit([text], "document", priority))
    for expected in (["q"], ["new"], ["old"]):
        calls[-1].go()
        calls.append(await next_call(stepped))
        assert calls[-1].texts == expected
    calls[-1].go()
    await asyncio.gather(*futures)
    await batcher.close(PATIENCE)


async def test_a_flood_lets_single_rows_pass_and_goes_on() -> None:
    stepped = one_lane()
    batcher = Batcher(stepped, "model", EngineSettings(), Silence())
    futures = [batcher.submit(["x"] * 12, "document", LIVE) for _ in range(2)]
    call = await next_call(stepped)
    futures += [batcher.submit([text], "document", LIVE) for text in ("a", "b")]
    for expected, later in (("abxx", "c"), ("xxxx", "d"), ("cdxx", "e"), ("xxxx", "f"), ("efxx", "g")):
        call.go()
        call = await next_call(stepped)
        assert "".join(call.texts) == expected
        futures.append(batcher.submit([later], "document", LIVE))
    for expected in ("xxxx", "gxx"):
        call.go()
        call = await next_call(stepped)
        assert "".join(call.texts) == expected
    call.go()
    await asyncio.gather(*futures)
    await batcher.close(PATIENCE)


async def test_queries_and_documents_are_never_in_one_call(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    futures = [batcher.submit(["running"], "query", QUERY)]
    calls = [await next_call(stepped)]
    kinds: list[Kind] = ["query", "document", "document"]
    for kind in kinds:
        futures.append(batcher.submit([kind], kind, QUERY))
    for expected in (["query"], ["document", "document"]):
        calls[-1].go()
        calls.append(await next_call(stepped))
        assert calls[-1].texts == expected
    calls[-1].go()
    await asyncio.gather(*futures)


async def test_a_failed_call_fails_its_callers_and_nobody_else(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    first = batcher.submit(["a"], "document", LIVE)
    running = await next_call(stepped)
    doomed = [batcher.submit(["b"], "document", LIVE), batcher.submit(["c"] * 3, "document", LIVE)]
    later = batcher.submit(["d"], "document", LIVE)
    running.go()
    (await next_call(stepped)).go(ModelUnavailable("gone", retry_after=3))
    for future in doomed:
        with pytest.raises(ModelUnavailable, match="gone") as caught:
            await future
        assert caught.value.retry_after == 3
    (await next_call(stepped)).go()
    assert lengths(await first) == lengths(await later) == [1]


async def test_a_refused_text_fails_only_its_own_caller(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    first = batcher.submit(["a"], "document", LIVE)
    running = await next_call(stepped)
    good, bad = batcher.submit(["good"], "document", LIVE), batcher.submit(["poison"], "document", LIVE)
    running.go()
    (await next_call(stepped)).go(InputRejected("no"))
    for expected, error in (("good", None), ("poison", InputRejected("no"))):
        alone = await next_call(stepped)
        assert alone.texts == [expected]
        alone.go(error)
    assert lengths(await good) == [4]
    with pytest.raises(InputRejected):
        await bad
    await first


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit(1)])
async def test_whatever_a_family_raises_the_caller_gets_our_error(
    make: Make, stepped: SteppedEmbedder, error: BaseException
) -> None:
    batcher = make()
    future = batcher.submit(["a"], "document", LIVE)
    (await next_call(stepped)).go(error)
    with pytest.raises(ModelUnavailable, match=type(error).__name__):
        await future
    again = batcher.submit(["a"], "document", LIVE)
    (await next_call(stepped)).go()
    assert lengths(await again) == [1]


async def test_vectors_of_a_wrong_shape_are_an_error() -> None:
    stepped = SteppedEmbedder(free=True, dimensions=2)
    batcher = Batcher(stepped, "model", SETTINGS, Silence())
    with pytest.raises(ModelUnavailable, match="expected"):
        await batcher.submit(["a"], "document", LIVE)
    await batcher.close(PATIENCE)


async def test_a_caller_that_has_gone_is_skipped(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    first = batcher.submit(["a"], "document", LIVE)
    running = await next_call(stepped)
    gone, stays = batcher.submit(["gone"], "document", LIVE), batcher.submit(["stays"], "document", LIVE)
    gone.cancel()
    running.go()
    call = await next_call(stepped)
    assert call.texts == ["stays"]
    call.go()
    await asyncio.gather(first, stays)


async def test_a_caller_that_has_gone_makes_room_at_once(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    batcher.submit(["a"], "query", QUERY)
    await next_call(stepped)
    waiting = batcher.submit(["b"] * 3, "query", QUERY)
    with pytest.raises(Overloaded):
        batcher.submit(["c"], "query", QUERY)
    waiting.cancel()
    await asyncio.sleep(0)
    batcher.submit(["c"], "query", QUERY)


async def test_a_full_queue_of_queries_refuses_at_once_and_bulk_does_not_fill_it(
    make: Make, stepped: SteppedEmbedder
) -> None:
    batcher = make()
    for _ in range(2):
        batcher.submit(["bulk"] * 4, "document", BACKFILL)
    batcher.submit(["q"], "query", QUERY)
    await next_call(stepped)
    await next_call(stepped)
    batcher.submit(["q"] * 3, "query", QUERY)
    with pytest.raises(Overloaded, match="3 texts wait"):
        batcher.submit(["q"], "query", QUERY)


async def test_bulk_waits_for_room(make: Make, stepped: SteppedEmbedder) -> None:
    batcher = make()
    running = asyncio.create_task(batcher.embed(["a"] * 4, "document", BACKFILL))
    call = await next_call(stepped)
    waiting = asyncio.create_task(batcher.embed(["b"] * 4, "document", BACKFILL))
    beyond = asyncio.create_task(batcher.embed(["c"] * 4, "document", BACKFILL))
    live = asyncio.create_task(batcher.embed(["live"], "document", LIVE))  # has a bound of its own
    for expected in ("a", "live", "b", "c"):
        assert call.texts[0] == expected
        call.go()
        if expected != "c":
            call = await next_call(stepped)
    await asyncio.gather(running, waiting, beyond, live)


async def test_a_request_larger_than_the_bound_is_taken_when_nobody_waits(
    make: Make, stepped: SteppedEmbedder
) -> None:
    batcher = make()
    future = asyncio.create_task(batcher.embed(["x" * (n + 1) for n in range(10)], "document", BACKFILL))
    for _ in range(3):
        (await next_call(stepped)).go()
    assert lengths(await future) == list(range(1, 11))


async def test_after_a_failed_part_the_rest_of_a_request_is_not_computed(
    make: Make, stepped: SteppedEmbedder
) -> None:
    batcher = make()
    large = batcher.submit(["x"] * 8, "document", BACKFILL)
    first = await next_call(stepped)
    later = batcher.submit(["y"], "document", BACKFILL)
    first.go(ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable):
        await large
    call = await next_call(stepped)
    if call.texts[0] == "x":  # taken before the failure was known
        call.go()
        call = await next_call(stepped)
    assert call.texts == ["y"]
    call.go()
    assert lengths(await later) == [1]


async def test_closing_answers_everybody_and_ends_the_threads(stepped: SteppedEmbedder) -> None:
    batcher = Batcher(stepped, "model", SETTINGS, Silence())
    running = batcher.submit(["a"], "document", LIVE)
    call = await next_call(stepped)
    waiting = batcher.submit(["b"], "document", LIVE)
    closing = asyncio.create_task(batcher.close(PATIENCE))
    with pytest.raises(ModelUnavailable, match="closing"):
        await waiting
    call.go()
    assert lengths(await running) == [1]
    await closing
    with pytest.raises(ModelUnavailable, match="closing"):
        batcher.submit(["c"], "document", LIVE)


async def test_closing_does_not_wait_for_ever_for_a_hanging_call(stepped: SteppedEmbedder) -> None:
    batcher = Batcher(stepped, "model", SETTINGS, Silence())
    hanging = batcher.submit(["a"], "document", LIVE)
    call = await next_call(stepped)
    await batcher.close(timeout=0)
    with pytest.raises(ModelUnavailable, match="closing"):
        await hanging
    call.go()


async def test_a_hosted_model_keeps_a_call_for_queries() -> None:
    stepped = SteppedEmbedder(concurrency=8, padded=False)
    batcher = Batcher(stepped, "model", EngineSettings(), Silence())
    bulk = [batcher.submit(["bulk"] * 4, "document", BACKFILL) for _ in range(20)]
    calls = [await next_call(stepped) for _ in range(6)]
    query = batcher.submit(["q"], "query", QUERY)
    call = await next_call(stepped)
    assert call.texts == ["q"]
    call.go()
    await query
    for call in calls:
        call.go()
    for _ in range(14):
        (await next_call(stepped)).go()
    await asyncio.gather(*bulk)
    await batcher.close(PATIENCE)


@pytest.mark.parametrize("shares_cpu", [True, False])
async def test_a_model_on_this_machine_s_processors_gives_memory_back(
    shares_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[str]()
    monkeypatch.setattr("pg_embed.heap.Trimming.look", lambda self: looks.append("look"))
    batcher = Batcher(SteppedEmbedder(free=True, shares_cpu=shares_cpu), "model", SETTINGS, Silence())
    assert lengths(await batcher.submit(["abc"], "document", LIVE)) == [3]
    await batcher.close(PATIENCE)
    assert len(looks) == int(shares_cpu)
