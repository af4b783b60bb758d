"""One load per model, memory of queries, time limits, closing."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pg_embed.engine import Engine, EngineSettings
from pg_embed.engine.engine import LOADERS
from pg_embed.engine.observer import Silence
from pg_embed.errors import (
    InputRejected,
    InvalidArgument,
    ModelMisconfigured,
    ModelUnavailable,
    Overloaded,
    PgEmbedError,
    SidecarTimeout,
)
from pg_embed.models.registry import default_registry
from pg_embed.protocols import Embedder
from pg_embed.records import Embeddings, Kind, ModelSpec, Priority
from tests.fix_models import PATIENCE, STEPPED, Call, OneModel, SteppedEmbedder

QUERY, LIVE, BACKFILL = Priority
OTHER = ModelSpec("other", "stepped", {"other": True})
KINDS: tuple[Kind, ...] = ("query", "document")
Make = Callable[..., Engine]


@pytest.fixture
async def make(stepped: SteppedEmbedder) -> AsyncIterator[Make]:
    """Engines over the stepped model; at the end its calls are let go."""
    made: list[Engine] = []

    def make(registry: OneModel | None = None, **settings: Any) -> Engine:
        made.append(Engine(registry or OneModel(lambda spec: stepped), EngineSettings(**settings)))
        return made[-1]

    yield make
    for call in stepped.calls:
        call.go()
    for engine in made:
        await engine.close()


async def next_call(stepped: SteppedEmbedder) -> Call:
    return await asyncio.to_thread(stepped.next_call)


def ask(engine: Engine, *texts: str, timeout: float = PATIENCE) -> asyncio.Task[Embeddings]:
    return asyncio.create_task(engine.embed(STEPPED, texts, "query", QUERY, timeout))


def lengths(embeddings: Embeddings) -> list[float]:
    return embeddings.dense.ravel().tolist()


async def test_vectors_of_the_fake_model_arrive_in_order() -> None:
    engine = Engine(default_registry())
    spec = ModelSpec("fake", "fake", {"dimensions": 4, "max_batch_items": 7})
    texts = [f"text {n}" * (n % 5) for n in range(50)]
    expected = default_registry().load(spec).embed(texts, "document").dense
    for priority in Priority:
        found = await engine.embed(spec, texts, "document", priority, PATIENCE)
        assert (found.dense == expected).all()
    await engine.close()


async def test_no_texts_are_no_call(make: Make) -> None:
    embeddings = await make().embed(STEPPED, [], "document", LIVE, PATIENCE)
    assert embeddings.dense.shape == (0, 1)


async def test_a_model_is_loaded_once_for_all_its_names(make: Make, stepped: SteppedEmbedder) -> None:
    registry = OneModel(lambda spec: stepped)
    engine = make(registry)
    same = ModelSpec("another name", STEPPED.family, STEPPED.options)
    cards = await asyncio.gather(*(engine.card(spec) for spec in [STEPPED, same] * 5))
    assert all(card is stepped.card for card in cards)
    assert len(registry.loads) == 1


async def test_a_failed_load_fails_all_its_callers_and_is_remembered_for_a_while(make: Make) -> None:
    registry = OneModel(lambda spec: ModelMisconfigured("no such checkpoint"))
    engine = make(registry)
    results = await asyncio.gather(*(engine.card(STEPPED) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no such checkpoint"] * 3
    with pytest.raises(ModelMisconfigured):
        await engine.card(STEPPED)
    assert len(registry.loads) == 1


async def test_a_failed_load_is_tried_again_after_the_pause(make: Make, stepped: SteppedEmbedder) -> None:
    outcomes: list[Embedder | PgEmbedError] = [ModelUnavailable("not yet"), stepped]
    engine = make(OneModel(lambda spec: outcomes.pop(0)), load_pause=0)
    with pytest.raises(ModelUnavailable):
        await engine.card(STEPPED)
    assert await engine.card(STEPPED) is stepped.card


async def test_a_loader_that_breaks_is_a_misconfiguration(make: Make) -> None:
    def broken(spec: ModelSpec) -> Embedder:
        raise KeyError("surprise")

    with pytest.raises(ModelMisconfigured, match="surprise"):
        await make(OneModel(broken)).card(STEPPED)


async def test_an_unknown_family_is_said_so() -> None:
    engine = Engine(default_registry())
    with pytest.raises(InvalidArgument, match="nonsense"):
        await engine.card(ModelSpec("x", "nonsense"))
    await engine.close()


async def test_the_model_idle_for_longest_makes_room_for_another(make: Make) -> None:
    made = [SteppedEmbedder(free=True) for _ in range(3)]
    supply = iter(made)
    engine = make(OneModel(lambda spec: next(supply)), max_models=2)
    specs = [ModelSpec(str(n), "stepped", {"n": n}) for n in range(3)]
    await engine.card(specs[0])
    await engine.card(specs[1])
    await engine.embed(specs[0], ["again"], "document", LIVE, PATIENCE)
    await engine.card(specs[2])
    assert await asyncio.to_thread(made[1].closed.wait, PATIENCE)
    assert not made[0].closed.is_set()


async def test_a_model_at_work_is_not_let_go(make: Make, stepped: SteppedEmbedder) -> None:
    engine = make(max_models=1)
    working = asyncio.create_task(engine.embed(STEPPED, ["a"], "document", LIVE, PATIENCE))
    call = await next_call(stepped)
    with pytest.raises(Overloaded, match="all of them at work"):
        await engine.card(OTHER)
    call.go()
    await working


@pytest.fixture
def hub() -> Iterator[threading.Event]:
    """Loads of models named `hung…` wait until it is set, which it is at the end."""
    answers = threading.Event()
    yield answers
    answers.set()


def hung_registry(hub: threading.Event, loads: Callable[[ModelSpec], Embedder]) -> OneModel:
    def load(spec: ModelSpec) -> Embedder:
        if spec.name.startswith("hung"):
            assert hub.wait(PATIENCE), "the test never let the load go"
        return loads(spec)

    return OneModel(load)


def hung(number: int) -> ModelSpec:
    return ModelSpec(f"hung {number}", "stepped", {"hung": number})


async def hang(engine: Engine, registry: OneModel, spec: ModelSpec) -> None:
    """Ask for a model in vain, until its load has begun and takes too long for others to wait for it."""
    with pytest.raises(SidecarTimeout):
        await engine.card(spec, 0.05)
    deadline = time.monotonic() + PATIENCE
    while spec not in registry.loads or spec.key not in engine._stuck:
        assert time.monotonic() < deadline, "the load does not hang"
        await asyncio.sleep(0.005)


async def test_loads_that_hang_do_not_keep_other_models_from_loading(
    make: Make, stepped: SteppedEmbedder, hub: threading.Event
) -> None:
    registry = hung_registry(hub, lambda spec: stepped)
    engine = make(registry, load_timeout=0.01, max_models=2)
    for number in range(2 * LOADERS):
        await hang(engine, registry, hung(number))
    assert await engine.card(STEPPED, PATIENCE) is stepped.card
    assert len(registry.loads) == 2 * LOADERS + 1


async def test_no_second_load_of_a_model_starts_while_one_hangs(
    make: Make, stepped: SteppedEmbedder, hub: threading.Event
) -> None:
    registry = hung_registry(hub, lambda spec: stepped)
    engine = make(registry, load_timeout=0.01, load_pause=0)
    for _ in range(3):
        await hang(engine, registry, hung(1))
    assert len(registry.loads) == 1
    hub.set()
    assert await engine.card(hung(1), PATIENCE) is stepped.card, "what came late is used"
    assert len(registry.loads) == 1


async def test_a_model_that_comes_late_has_no_room_where_all_others_are_at_work(
    make: Make, stepped: SteppedEmbedder, hub: threading.Event
) -> None:
    late = SteppedEmbedder(free=True)
    registry = hung_registry(hub, lambda spec: late if spec.name.startswith("hung") else stepped)
    engine = make(registry, load_timeout=0.01, max_models=1)
    await hang(engine, registry, hung(1))
    waiting = asyncio.create_task(engine.card(hung(1), PATIENCE))
    working = ask(engine, "a")
    call = await next_call(stepped)
    hub.set()
    with pytest.raises(Overloaded, match="all of them at work"):
        await waiting
    assert late.closed.is_set()
    call.go()
    await working


async def test_closing_does_not_wait_for_ever_for_a_load_that_hangs(
    make: Make, stepped: SteppedEmbedder, hub: threading.Event
) -> None:
    registry = hung_registry(hub, lambda spec: stepped)
    engine = make(registry, load_timeout=0.01, close_timeout=0.01)
    await hang(engine, registry, hung(1))
    await engine.close()
    assert not stepped.closed.is_set()
    hub.set()
    assert await asyncio.to_thread(stepped.closed.wait, PATIENCE), "what comes too late is closed"


async def test_equal_queries_at_the_same_time_are_one_call(make: Make, stepped: SteppedEmbedder) -> None:
    engine = make()
    asking = [ask(engine, "same") for _ in range(5)]
    (await next_call(stepped)).go()
    assert [lengths(await task) for task in asking] == [[4]] * 5
    assert lengths(await ask(engine, "same")) == [4]  # and afterwards it is remembered
    assert len(stepped.calls) == 1


async def test_a_remembered_vector_is_of_its_kind(make: Make, stepped: SteppedEmbedder) -> None:
    engine = make()
    for kind in KINDS:
        asking = asyncio.create_task(engine.embed(STEPPED, ["same"], kind, QUERY, PATIENCE))
        (await next_call(stepped)).go()
        await asking
    assert [call.kind for call in stepped.calls] == ["query", "document"]


async def test_known_running_and_new_texts_make_one_answer(make: Make, stepped: SteppedEmbedder) -> None:
    engine = make()
    known = ask(engine, "known")
    (await next_call(stepped)).go()
    await known
    running = ask(engine, "running")
    running_call = await next_call(stepped)
    mixed = ask(engine, "new", "running", "known", "new")
    await asyncio.sleep(0)
    running_call.go()
    new_call = await next_call(stepped)
    assert new_call.texts == ["new"]
    new_call.go()
    assert lengths(await mixed) == [3, 7, 5, 3]
    assert lengths(await running) == [7]


async def test_a_query_does_not_fail_for_the_text_of_another(make: Make, stepped: SteppedEmbedder) -> None:
    engine = make()
    both = ask(engine, "good", "poison")
    both_call = await next_call(stepped)
    one = ask(engine, "good")
    await asyncio.sleep(0)
    both_call.go(InputRejected("no"))
    (await next_call(stepped)).go()
    assert lengths(await one) == [4]
    with pytest.raises(InputRejected):
        await both


async def test_the_least_recently_used_query_is_forgotten_first(make: Make) -> None:
    stepped = SteppedEmbedder(free=True)
    engine = make(OneModel(lambda spec: stepped), memo_size=2)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        await ask(engine, text)
    assert [call.texts for call in stepped.calls] == [["a"], ["bb"], ["ccc"], ["bb"]]


async def test_one_caller_that_goes_does_not_take_the_call_from_another(
    make: Make, stepped: SteppedEmbedder
) -> None:
    engine = make()
    blocking = ask(engine, "blocking")
    blocking_call = await next_call(stepped)
    goes, stays = ask(engine, "same"), ask(engine, "same")
    await asyncio.sleep(0)
    goes.cancel()
    await asyncio.gather(goes, return_exceptions=True)
    blocking_call.go()
    (await next_call(stepped)).go()
    assert lengths(await stays) == [4]
    await blocking


async def test_a_call_that_nobody_waits_for_any_more_is_not_made_and_can_be_asked_for_again(
    make: Make, stepped: SteppedEmbedder
) -> None:
    engine = make()
    blocking = ask(engine, "blocking")
    blocking_call = await next_call(stepped)
    goes = ask(engine, "same")
    await asyncio.sleep(0)
    goes.cancel()
    await asyncio.gather(goes, return_exceptions=True)
    again = ask(engine, "same")
    await asyncio.sleep(0)
    blocking_call.go()
    (await next_call(stepped)).go()
    assert lengths(await again) == [4]
    assert [call.texts for call in stepped.calls] == [["blocking"], ["same"]]
    await blocking


async def test_a_failed_query_is_not_remembered(make: Make, stepped: SteppedEmbedder) -> None:
    engine = make()
    asking = [ask(engine, "same"), ask(engine, "same")]
    (await next_call(stepped)).go(InputRejected("no"))
    for task in asking:
        with pytest.raises(InputRejected):
            await task
    again = ask(engine, "same")
    (await next_call(stepped)).go()
    assert lengths(await again) == [4]


async def test_remembered_vectors_cannot_be_changed_by_who_got_them(make: Make) -> None:
    engine = make(OneModel(lambda spec: SteppedEmbedder(free=True)))
    for _ in range(2):
        got = await ask(engine, "same")
        assert lengths(got) == [4]
        if got.dense.flags.writeable:
            got.dense[:] = np.nan


@pytest.mark.parametrize("priority", Priority)
async def test_a_caller_waits_no_longer_than_its_timeout(
    make: Make, stepped: SteppedEmbedder, priority: Priority
) -> None:
    with pytest.raises(SidecarTimeout, match=r"within 0\.01 seconds"):
        await make().embed(STEPPED, ["a"], "query", priority, 0.01)


async def test_closing_answers_callers_who_wait_for_a_load(make: Make, stepped: SteppedEmbedder) -> None:
    loads, loaded = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(spec: ModelSpec) -> Embedder:
        loop.call_soon_threadsafe(loads.set)
        asyncio.run_coroutine_threadsafe(loaded.wait(), loop).result(PATIENCE)
        return stepped

    engine = make(OneModel(slow))
    waiting = asyncio.create_task(engine.card(STEPPED))
    await loads.wait()
    closing = asyncio.create_task(engine.close())
    with pytest.raises(ModelUnavailable, match="closing"):
        await waiting
    loaded.set()
    await closing
    assert await asyncio.to_thread(stepped.closed.wait, PATIENCE)


async def test_closing_closes_the_models_and_refuses_new_work(make: Make, stepped: SteppedEmbedder) -> None:
    engine = make()
    await engine.card(STEPPED)
    await engine.close()
    assert stepped.closed.is_set()
    with pytest.raises(ModelUnavailable, match="closing"):
        await engine.embed(STEPPED, ["a"], "query", QUERY, PATIENCE)


class Watcher(Silence):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def loaded(self, model: str, seconds: float, error: PgEmbedError | None) -> None:
        self.told.append(("loaded", model, error))

    def computed(
        self,
        model: str,
        priority: Priority,
        texts: int,
        tokens: int,
        seconds: float,
        error: PgEmbedError | None,
    ) -> None:
        self.told.append(("computed", priority, texts, tokens, error))

    def answered(
        self, model: str, priority: Priority, texts: int, seconds: float, error: PgEmbedError | None
    ) -> None:
        self.told.append(("answered", priority, texts, error))

    def remembered(self, model: str, hits: int, misses: int) -> None:
        self.told.append(("remembered", hits, misses))


async def test_the_observer_is_told() -> None:
    watcher = Watcher()
    engine = Engine(OneModel(lambda spec: SteppedEmbedder(free=True)), observer=watcher)
    await engine.embed(STEPPED, ["two words"], "query", QUERY, PATIENCE)
    await engine.embed(STEPPED, ["two words"], "query", QUERY, PATIENCE)
    await engine.close()
    assert sorted(watcher.told, key=str) == sorted(
        [
            ("loaded", "stepped", None),
            ("remembered", 0, 1),
            ("computed", QUERY, 1, 2, None),
            ("answered", QUERY, 1, None),
            ("remembered", 1, 0),
            ("answered", QUERY, 1, None),
        ],
        key=str,
    )


async def test_in_a_storm_of_callers_each_gets_its_own_answer_and_nothing_is_left() -> None:
    engine = Engine(default_registry(), EngineSettings(max_queued_texts=200, max_queued_queries=100_000))
    spec = ModelSpec(
        "f", "fake", {"dimensions": 4, "fail_on": "poison", "max_batch_items": 16, "concurrency": 4}
    )
    model = default_registry().load(spec)
    chance = random.Random(7)
    await engine.card(spec)

    async def caller(number: int) -> None:
        texts = [f"{chance.choice(['a', 'b'])}{chance.randrange(50)}" for _ in range(chance.randrange(1, 60))]
        poisoned = number % 10 == 0
        texts += ["poison"] * poisoned
        priority, kind = chance.choice(list(Priority)), chance.choice(KINDS)
        try:
            found = await engine.embed(spec, texts, kind, priority, PATIENCE)
        except InputRejected:
            assert poisoned
        else:
            assert (found.dense == model.embed(texts, kind).dense).all()

    callers = [asyncio.create_task(caller(number)) for number in range(400)]
    for task in callers:
        if chance.random() < 0.3:
            task.cancel()
        if chance.random() < 0.2:
            await asyncio.sleep(0)
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    batcher = (await engine._model(spec)).batcher
    await asyncio.to_thread(lambda: [lane.threads.close(PATIENCE) for lane in set(batcher._lanes.values())])
    await asyncio.sleep(0)
    assert batcher.idle
    await engine.close()
