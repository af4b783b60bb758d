"""A model with limits: calls are cut to size, wait their turn, are settled; without, nothing is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from pg_embed.engine import Engine, EngineSettings
from pg_embed.errors import ModelMisconfigured, ModelUnavailable, PgEmbedError
from pg_embed.records import Allowance, CallLimit, ModelSpec, Priority, Reservation
from tests.fix_models import PATIENCE, OneModel, SteppedEmbedder

QUERY, LIVE, BACKFILL = Priority
SPEC = ModelSpec("stepped", "stepped")


@dataclass
class FakeThrottle:
    """Lets calls go when a test says so."""

    allowed: CallLimit | None = field(default_factory=CallLimit)
    seconds: float = 0.0
    refusal: PgEmbedError | None = None
    reserved: list[tuple[int, int, Priority]] = field(default_factory=list)
    settled: list[tuple[int | None, int | None, PgEmbedError | None]] = field(default_factory=list)
    turn: asyncio.Event = field(default_factory=asyncio.Event)

    def limit(self, spec: ModelSpec) -> CallLimit | None:
        assert spec == SPEC
        return self.allowed

    async def reserve(self, spec: ModelSpec, items: int, tokens: int, priority: Priority) -> Reservation:
        self.reserved.append((items, tokens, priority))
        await self.turn.wait()
        if self.refusal is not None:
            raise self.refusal
        return Reservation(self.seconds, tokens, tokens * 2)

    def settle(
        self,
        spec: ModelSpec,
        reservation: Reservation | None,
        used: int | None,
        allowance: Allowance | None,
        error: PgEmbedError | None,
    ) -> None:
        self.settled.append((None if reservation is None else reservation.reserved, used, error))


Make = Callable[[FakeThrottle, SteppedEmbedder], Engine]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Engines that are closed at the end."""
    made: list[Engine] = []

    def make(throttle: FakeThrottle, embedder: SteppedEmbedder) -> Engine:
        registry = OneModel(lambda spec: embedder)
        made.append(Engine(registry, EngineSettings(close_timeout=1.0), throttle=throttle))
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


async def until(holds: Callable[[], object]) -> None:
    """Let the engine work until this holds: loading a model may take a while."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.005)


async def test_a_model_without_limits_reserves_nothing(make: Make) -> None:
    throttle = FakeThrottle(allowed=None)
    await make(throttle, SteppedEmbedder(free=True)).embed(SPEC, ["a b"], "document", LIVE, PATIENCE)
    assert throttle.reserved == throttle.settled == []


async def test_a_call_waits_for_its_turn_and_is_settled(make: Make) -> None:
    throttle, model = FakeThrottle(seconds=0.05), SteppedEmbedder(free=True)
    engine = make(throttle, model)
    asked = asyncio.create_task(engine.embed(SPEC, ["a b", "c"], "document", LIVE, PATIENCE))
    await until(lambda: throttle.reserved)
    assert throttle.reserved == [(2, 3, LIVE)]
    assert not model.calls
    throttle.turn.set()
    found = await asked
    assert (found.tokens, found.requests) == (3, 1)
    assert throttle.settled == [(6, 3, None)]


async def test_what_comes_while_a_call_waits_goes_together_with_the_next(make: Make) -> None:
    throttle, model = FakeThrottle(), SteppedEmbedder(free=True)
    engine = make(throttle, model)
    asked = [asyncio.create_task(engine.embed(SPEC, ["a"], "document", LIVE, PATIENCE))]
    await until(lambda: throttle.reserved)
    asked += [asyncio.create_task(engine.embed(SPEC, [text], "document", LIVE, PATIENCE)) for text in "bcd"]
    await asyncio.sleep(0.02)
    throttle.turn.set()
    found = await asyncio.gather(*asked)
    assert [items for items, _, _ in throttle.reserved] == [1, 3]
    assert sum(part.requests for part in found) == 2, "a call that several share is counted once"


async def test_a_query_does_not_wait_for_bulk_s_turn(make: Make) -> None:
    throttle, model = FakeThrottle(), SteppedEmbedder(free=True)
    engine = make(throttle, model)
    bulk = asyncio.create_task(engine.embed(SPEC, ["bulk"], "document", BACKFILL, PATIENCE))
    await until(lambda: throttle.reserved)
    query = asyncio.create_task(engine.embed(SPEC, ["q"], "query", QUERY, PATIENCE))
    await until(lambda: len(throttle.reserved) > 1)
    assert [priority for _, _, priority in throttle.reserved] == [BACKFILL, QUERY]
    throttle.turn.set()
    await asyncio.gather(bulk, query)


async def test_calls_are_cut_to_what_a_minute_has(make: Make) -> None:
    throttle, model = FakeThrottle(CallLimit(items=2)), SteppedEmbedder(free=True)
    throttle.turn.set()
    engine = make(throttle, model)
    found = await engine.embed(SPEC, ["a", "bb", "ccc", "dddd", "eeeee"], "document", LIVE, PATIENCE)
    assert found.dense.ravel().tolist() == [1, 2, 3, 4, 5]
    assert [len(call.texts) for call in model.calls] == [2, 2, 1]
    assert found.requests == 3


async def test_a_limit_that_comes_while_texts_wait_cuts_them_too(make: Make) -> None:
    throttle, model = FakeThrottle(allowed=None), SteppedEmbedder(concurrency=1)
    throttle.turn.set()
    engine = make(throttle, model)
    asked = [asyncio.create_task(engine.embed(SPEC, ["a"], "document", LIVE, PATIENCE))]
    first = await asyncio.to_thread(model.next_call)
    asked.append(asyncio.create_task(engine.embed(SPEC, ["ccc", "bb", "a"], "document", LIVE, PATIENCE)))
    await asyncio.sleep(0.02)
    throttle.allowed = CallLimit(items=2)
    first.go()
    for _ in range(2):
        (await asyncio.to_thread(model.next_call)).go()
    _, found = await asyncio.gather(*asked)
    assert found.dense.ravel().tolist() == [3, 2, 1]
    assert [len(call.texts) for call in model.calls] == [1, 2, 1]


async def test_a_turn_that_is_too_far_away_is_told(make: Make) -> None:
    throttle = FakeThrottle(refusal=ModelUnavailable("used up", retry_after=30.0))
    throttle.turn.set()
    engine = make(throttle, SteppedEmbedder(free=True))
    with pytest.raises(ModelUnavailable, match="used up"):
        await engine.embed(SPEC, ["q"], "query", QUERY, PATIENCE)
    throttle.refusal = None
    await engine.embed(SPEC, ["q"], "query", QUERY, PATIENCE)


@pytest.mark.parametrize(
    ("error", "told"),
    [(ModelUnavailable("slow down", limited=True), True), (ModelMisconfigured("no key"), False)],
)
async def test_too_many_calls_are_told_though_nothing_was_reserved(
    make: Make, error: PgEmbedError, told: bool
) -> None:
    throttle, model = FakeThrottle(allowed=None), SteppedEmbedder()
    engine = make(throttle, model)
    asked = asyncio.create_task(engine.embed(SPEC, ["a"], "document", LIVE, PATIENCE))
    (await asyncio.to_thread(model.next_call)).go(error)
    with pytest.raises(type(error)):
        await asked
    assert throttle.settled == ([(None, None, error)] if told else [])


async def test_closing_does_not_wait_for_turns(make: Make) -> None:
    throttle = FakeThrottle()
    engine = make(throttle, SteppedEmbedder(free=True))
    asked = asyncio.create_task(engine.embed(SPEC, ["a"], "document", LIVE, PATIENCE))
    await until(lambda: throttle.reserved)
    await engine.close()
    with pytest.raises(ModelUnavailable, match="closing"):
        await asked
