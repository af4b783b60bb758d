"""The engine: loads each model once, and embeds for everybody in the process."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from functools import partial
from time import monotonic, perf_counter
from typing import TypeVar, cast

import numpy as np

from pg_embed import heap
from pg_embed.chunks import Counter
from pg_embed.engine.batcher import CLOSING, Batcher
from pg_embed.engine.documents import Documents
from pg_embed.engine.memo import Memo
from pg_embed.engine.observer import Observer, Silence
from pg_embed.engine.ranking import Ranker
from pg_embed.engine.settings import EngineSettings
from pg_embed.engine.threads import apart
from pg_embed.engine.throttle import Gate
from pg_embed.errors import (
    InvalidArgument,
    ModelMisconfigured,
    ModelUnavailable,
    Overloaded,
    PgEmbedError,
    SidecarTimeout,
)
from pg_embed.log import event, logger
from pg_embed.models.registry import Registry
from pg_embed.protocols import ChunkEmbedder, Embedder, Reranker, Throttle
from pg_embed.records import VECTORS, Card, Embeddings, Kind, ModelSpec, Outputs, Priority, Scores

LOAD_TIMEOUT = 300.0  # seconds; a first load may download the weights
LOADERS = 4  # models that load at the same time
LARGE: Outputs = frozenset({"multi"})  # too large to remember, where a model has others
NAMES = {
    "dense": "dense vectors",
    "sparse": "sparse vectors",
    "multi": "token vectors",
    "score": "scores of texts for a query",
}

T = TypeVar("T")
log = logger("engine")


class Model:
    """A loaded model with its queues and its memory of queries."""

    def __init__(
        self,
        embedder: Embedder,
        spec: ModelSpec,
        settings: EngineSettings,
        observer: Observer,
        throttle: Throttle | None,
    ) -> None:
        self.name = spec.name
        self.card = embedder.card
        self.embedder = embedder
        gate = Gate(embedder.card, spec, throttle)
        self.batcher = Batcher(embedder, spec.name, settings, observer, gate)
        self._observer = observer
        self._own = frozenset(embedder.card.outputs)
        self._remembered = (self._own - LARGE) or self._own
        submit = partial(self.batcher.submit, outputs=self._remembered, priority=Priority.QUERY)
        self._memo = Memo(settings.memo_size, submit)
        self.documents = (
            Documents(cast(ChunkEmbedder, embedder), spec.name, observer, gate)
            if hasattr(embedder, "embed_chunks")
            else None
        )

    @property
    def idle(self) -> bool:
        """Whether nobody waits for this model."""
        return self.batcher.idle

    async def embed(
        self, texts: Sequence[str], kind: Kind, priority: Priority, outputs: Outputs
    ) -> Embeddings:
        """By way of the memory if it is a query, which then has all outputs that are remembered."""
        wanted = self._wanted(outputs)
        if not texts:
            return Embeddings(dense=np.empty((0, self.embedder.card.dimensions), np.float32))
        if priority is not Priority.QUERY:
            return await self.batcher.embed(texts, kind, priority, wanted)
        if not self._memo.suits(texts) or not wanted <= self._remembered:
            return await self.batcher.submit(texts, kind, priority, wanted)
        known = self._memo.recall(texts, kind)
        if known is not None:
            self._observer.remembered(self.name, hits=len(texts), misses=0)
            return known
        self._observer.remembered(self.name, hits=0, misses=len(texts))
        return await self._memo.embed(texts, kind)

    def _wanted(self, outputs: Outputs) -> Outputs:
        """Those of the model's that are asked for; all of them where all are asked for."""
        if outputs != VECTORS and (others := sorted(outputs - self._own)):
            raise _makes_no(NAMES[others[0]], self.name, self.card)
        return outputs & self._own

    async def close(self, timeout: float) -> None:
        """End the threads, then the model."""
        await self.batcher.close(timeout)
        await asyncio.to_thread(self.embedder.close)


class Engine:
    """Lives on one event loop; models are known by `spec.key`, whatever their names."""

    def __init__(
        self,
        registry: Registry,
        settings: EngineSettings | None = None,
        observer: Observer | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self._registry = registry
        self._throttle = throttle
        self._settings = settings or EngineSettings()
        self._observer = observer or Silence()
        self._models: OrderedDict[str, asyncio.Future[Model | Ranker]] = (
            OrderedDict()
        )  # the least recently used first
        self._failures: dict[str, tuple[float, PgEmbedError]] = {}  # until when a load is not tried again
        self._loaders = asyncio.Semaphore(LOADERS)
        self._loads: set[asyncio.Task[None]] = set()
        self._stuck: set[str] = set()  # take so long to load that others do not wait for them, one load each
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def card(self, spec: ModelSpec, timeout: float = LOAD_TIMEOUT) -> Card:
        """The model's card; loads the model if need be."""
        return (await _within(timeout, spec, self._model(spec))).card

    async def embed(
        self,
        spec: ModelSpec,
        texts: Sequence[str],
        kind: Kind,
        priority: Priority,
        timeout: float,
        outputs: Outputs = VECTORS,
    ) -> Embeddings:
        """Vectors in the order of the texts; of the model's outputs all, or those that are named.

        A query that finds its queue full raises `Overloaded` at once, bulk waits for room; after `timeout`
        seconds both raise `SidecarTimeout`. Cancelling the caller takes the request out of the queue.
        """
        work = self._embed(spec, texts, kind, priority, outputs)
        return await self._watched(spec, priority, len(texts), timeout, work)

    async def rerank(
        self, spec: ModelSpec, query: str, texts: Sequence[str], priority: Priority, timeout: float
    ) -> Scores:
        """How well each text answers the query, in the order of the texts.

        A full queue raises `Overloaded` at once, whatever the priority; after `timeout` seconds there is
        `SidecarTimeout`. Cancelling the caller takes what waits out of the queue.
        """
        work = self._rerank(spec, query, texts, priority)
        return await self._watched(spec, priority, len(texts), timeout, work)

    async def count(self, spec: ModelSpec, texts: Sequence[str], timeout: float) -> list[int] | None:
        """Tokens of each text as a document, as its own tokenizer counts them; None if it has none."""
        model = await _within(timeout, spec, self._model(spec))
        measure = getattr(model.embedder, "measure_tokens", None) if isinstance(model, Model) else None
        if measure is None:
            return None
        return await _within(timeout, spec, asyncio.to_thread(measure, texts))

    async def counter(self, spec: ModelSpec, timeout: float = LOAD_TIMEOUT) -> Counter:
        """Counts the tokens of texts as documents, in any thread.

        By the model's own tokenizer, or by the model's estimate where it has none.
        """
        model = await _within(timeout, spec, self._model(spec))
        if isinstance(model, Ranker):
            raise _makes_no("vectors", spec.name, model.card)
        return Counter(getattr(model.embedder, "measure_tokens", model.embedder.count_tokens))

    async def reads_documents(self, spec: ModelSpec, timeout: float = LOAD_TIMEOUT) -> bool:
        """Whether the model's vectors of chunks know of their document, as `embed_chunks` makes them."""
        model = await _within(timeout, spec, self._model(spec))
        return isinstance(model, Model) and model.documents is not None

    async def embed_chunks(
        self, spec: ModelSpec, documents: Sequence[Sequence[str]], priority: Priority, timeout: float
    ) -> list[Embeddings]:
        """Vectors of each document's chunks, in their order, for a model that `reads_documents`."""
        chunks = sum(len(document) for document in documents)
        return await self._watched(
            spec, priority, chunks, timeout, self._embed_chunks(spec, documents, priority)
        )

    async def close(self) -> None:
        """Refuse new work, give running calls some seconds, end all threads."""
        self._closed = True
        while self._models:
            self._let_go(self._models.popitem()[1])
        self._stuck.clear()
        if self._leaving:
            await asyncio.gather(*self._leaving, return_exceptions=True)
        if self._loads:
            await asyncio.wait(self._loads, timeout=self._settings.close_timeout)

    async def _embed(
        self, spec: ModelSpec, texts: Sequence[str], kind: Kind, priority: Priority, outputs: Outputs
    ) -> Embeddings:
        model = await self._model(spec)
        if isinstance(model, Ranker):
            wanted = "vectors" if outputs == VECTORS else NAMES[min(outputs)]
            raise _makes_no(wanted, spec.name, model.card)
        return await model.embed(texts, kind, priority, outputs)

    async def _embed_chunks(
        self, spec: ModelSpec, documents: Sequence[Sequence[str]], priority: Priority
    ) -> list[Embeddings]:
        model = await self._model(spec)
        if isinstance(model, Ranker) or model.documents is None:
            raise InvalidArgument(f"model {spec.name!r} does not read the chunks of a document together")
        return await model.documents.embed(documents, priority)

    async def _rerank(self, spec: ModelSpec, query: str, texts: Sequence[str], priority: Priority) -> Scores:
        model = await self._model(spec)
        if isinstance(model, Model):
            raise _makes_no(NAMES["score"], spec.name, model.card)
        return await model.rerank(query, texts, priority)

    async def _watched(
        self, spec: ModelSpec, priority: Priority, texts: int, timeout: float, work: Awaitable[T]
    ) -> T:
        started = perf_counter()
        error: PgEmbedError | None = None
        try:
            return await _within(timeout, spec, work)
        except PgEmbedError as exc:
            error = exc
            raise
        finally:
            self._observer.answered(spec.name, priority, texts, perf_counter() - started, error)

    async def _model(self, spec: ModelSpec) -> Model | Ranker:
        if self._closed:
            raise ModelUnavailable(CLOSING)
        key = spec.key
        loading = self._models.get(key) or self._load(key, spec)
        self._models.move_to_end(key)
        return loading.result() if loading.done() else await asyncio.shield(loading)

    def _load(self, key: str, spec: ModelSpec) -> asyncio.Future[Model | Ranker]:
        now = monotonic()
        self._failures = {known: failure for known, failure in self._failures.items() if failure[0] > now}
        if key in self._failures:
            raise self._failures[key][1].with_traceback(None)
        self._make_room()
        loading: asyncio.Future[Model | Ranker] = asyncio.get_running_loop().create_future()
        self._models[key] = loading
        load = asyncio.create_task(self._loaded(spec, loading), name=f"load {spec.name}")
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)
        return loading

    async def _loaded(self, spec: ModelSpec, loading: asyncio.Future[Model | Ranker]) -> None:
        """Load when there is room, and make way for others if it takes too long: a hub may never answer.

        A model has one load at a time, so no more threads than models hang.
        """
        async with self._loaders:
            if loading.done():  # the engine was closed meanwhile
                return
            event(
                log,
                logging.INFO,
                "model_loading",
                f"loading {spec.name}",
                model=spec.name,
                family=spec.family,
            )
            started = perf_counter()
            ended = apart(partial(_load, self._registry, spec), "pg_embed-load")
            await asyncio.wait([ended], timeout=self._settings.load_timeout)
        if not ended.done() and not loading.done():
            self._stuck.add(spec.key)
            text = (
                f"{spec.name} is not loaded after {self._settings.load_timeout:g} s; others go on without it"
            )
            event(log, logging.WARNING, "model_stuck", text, model=spec.name, family=spec.family)
        self._finish(spec, loading, await ended, perf_counter() - started)

    def _finish(
        self,
        spec: ModelSpec,
        loading: asyncio.Future[Model | Ranker],
        outcome: Embedder | Reranker | PgEmbedError,
        seconds: float,
    ) -> None:
        if loading.done():  # the engine was closed meanwhile
            if not isinstance(outcome, PgEmbedError):
                outcome.close()
            return
        if spec.key in self._stuck:
            outcome = self._admitted(outcome)
            self._stuck.discard(spec.key)
        error = outcome if isinstance(outcome, PgEmbedError) else None
        if isinstance(outcome, PgEmbedError):
            del self._models[spec.key]
            self._failures[spec.key] = (monotonic() + self._settings.load_pause, outcome)
            _refuse(loading, outcome)
        else:
            loading.set_result(self._with_queue(outcome, spec))
        _tell(spec, outcome, seconds)
        self._observer.loaded(spec.name, seconds, error)

    def _admitted(self, late: Embedder | Reranker | PgEmbedError) -> Embedder | Reranker | PgEmbedError:
        """A model that nobody counted with any more, or why there is no room for it."""
        if isinstance(late, PgEmbedError):
            return late
        try:
            self._make_room()
        except Overloaded as exc:
            late.close()
            return exc
        return late

    def _with_queue(self, loaded: Embedder | Reranker, spec: ModelSpec) -> Model | Ranker:
        if loaded.card.outputs == ("score",):
            gate = Gate(loaded.card, spec, self._throttle)
            return Ranker(cast(Reranker, loaded), spec.name, self._settings, self._observer, gate)
        return Model(cast(Embedder, loaded), spec, self._settings, self._observer, self._throttle)

    def _make_room(self) -> None:
        while len(self._models) - len(self._stuck) >= self._settings.max_models:
            idle = (key for key, model in self._models.items() if model.done() and model.result().idle)
            key = next(idle, None)
            if key is None:
                raise Overloaded(f"{self._settings.max_models} models are in memory, all of them at work")
            self._let_go(self._models.pop(key))

    def _let_go(self, model: asyncio.Future[Model | Ranker]) -> None:
        if not model.done():
            _refuse(model, ModelUnavailable(CLOSING))
            return
        task = asyncio.create_task(model.result().close(self._settings.close_timeout))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def _makes_no(wanted: str, name: str, card: Card) -> InvalidArgument:
    return InvalidArgument(
        f"model {name!r} makes no {wanted}",
        hint=f"it makes {' and '.join(NAMES[output] for output in card.outputs)}",
    )


def _load(registry: Registry, spec: ModelSpec) -> Embedder | Reranker | PgEmbedError:
    try:
        return registry.load(spec)
    except PgEmbedError as exc:
        return exc
    except BaseException as exc:  # a thread that dies would leave its callers waiting
        return ModelMisconfigured(f"model {spec.name!r} cannot be loaded: {type(exc).__name__}: {exc}")
    finally:
        heap.trim()  # files were read and libraries imported: that leaves much that is free


def _tell(spec: ModelSpec, outcome: Embedder | Reranker | PgEmbedError, seconds: float) -> None:
    fields = {"model": spec.name, "family": spec.family}
    if isinstance(outcome, PgEmbedError):
        text = f"{spec.name}: {outcome}" + (f" (hint: {outcome.hint})" if outcome.hint else "")
        event(log, logging.ERROR, "model_failed", text, **fields, error=str(outcome))
    else:
        dimensions = outcome.card.dimensions
        text = f"loaded {spec.name} in {seconds:.1f} s"
        event(log, logging.INFO, "model_loaded", text, **fields, seconds=seconds, dimensions=dimensions)


def _refuse(loading: asyncio.Future[Model | Ranker], error: PgEmbedError) -> None:
    loading.set_exception(error)
    loading.exception()  # all callers may have gone: then nobody else looks at it


async def _within(timeout: float, spec: ModelSpec, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(timeout):
            return await work
    except TimeoutError as exc:
        raise SidecarTimeout(f"model {spec.name!r} gave no answer within {timeout:g} seconds") from exc
