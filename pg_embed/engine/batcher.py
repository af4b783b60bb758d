"""One loaded model's queues: fills batches, gives them to threads, and answers the callers.

All state is touched on the event loop only. No task could die: every arrival and every finished call moves
the queues on. Models that take several calls at once keep some threads for queries, so that a query never
waits for a bulk batch; with one thread it waits for one at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pg_embed import heap
from pg_embed.engine.entries import Batch, Entry
from pg_embed.engine.lanes import Lane, lanes_for
from pg_embed.engine.observer import Observer
from pg_embed.engine.queues import Queue
from pg_embed.engine.settings import EngineSettings
from pg_embed.engine.throttle import Gate
from pg_embed.errors import InputRejected, ModelUnavailable, Overloaded, PgEmbedError
from pg_embed.protocols import Embedder
from pg_embed.records import (
    Allowance,
    Embeddings,
    Kind,
    ModelSpec,
    Outputs,
    Priority,
    SparseVectors,
    TokenVectors,
)

Float32 = npt.NDArray[np.float32]
CLOSING = "the engine is closing"


class Batcher:
    """Takes requests for one model from any number of callers."""

    def __init__(
        self,
        embedder: Embedder,
        name: str,
        settings: EngineSettings,
        observer: Observer,
        gate: Gate | None = None,
    ) -> None:
        self.card = embedder.card
        self._embedder = embedder
        self._name = name
        self._observer = observer
        self._gate = gate or Gate(self.card, ModelSpec(name, self.card.family), None)
        self._allowance: Callable[[], Allowance | None] = getattr(embedder, "allowance", nothing)
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._trimming = heap.Trimming()
        self._queues = {
            priority: Queue(priority, settings.max_queued_texts if priority else settings.max_queued_queries)
            for priority in Priority
        }
        self._lanes = {priority: lane for lane in lanes_for(self.card, name) for priority in lane.priorities}

    @property
    def idle(self) -> bool:
        """Whether nobody waits for this model."""
        return not any(lane.running for lane in self._lanes.values()) and not any(
            queue.texts for queue in self._queues.values()
        )

    def submit(
        self, texts: Sequence[str], kind: Kind, priority: Priority, outputs: Outputs | None = None
    ) -> asyncio.Future[Embeddings]:
        """Put a request into its queue, or refuse it at once; cancel the future to give it up.

        Of the model's outputs all, or those that are named.
        """
        queue = self._queues[priority]
        if self._closing:
            raise ModelUnavailable(CLOSING)
        if not queue.has_room(len(texts)):
            raise Overloaded(
                f"{queue.texts} texts wait for model {self._name!r} already", hint="try again in a moment"
            )
        future: asyncio.Future[Embeddings] = self._loop.create_future()
        wanted = frozenset(self.card.outputs) if outputs is None else outputs
        entry = Entry(texts, self._embedder.count_tokens(texts), kind, wanted, future, self._gate.card)
        future.add_done_callback(lambda _: queue.discard(entry))
        queue.push(entry)
        self._move(self._lanes[priority])
        return future

    async def embed(
        self, texts: Sequence[str], kind: Kind, priority: Priority, outputs: Outputs | None = None
    ) -> Embeddings:
        """Bulk: wait for room in the queue, then for the vectors."""
        await self._queues[priority].room(len(texts))
        return await self.submit(texts, kind, priority, outputs)

    async def close(self, timeout: float) -> None:
        """Refuse what waits, let running calls end, and end the threads."""
        self._closing = True
        error = ModelUnavailable(CLOSING)
        for queue in self._queues.values():
            queue.fail(error)
        lanes = set(self._lanes.values())
        for lane in lanes:
            if lane.admitting is not None:
                lane.admitting.cancel()
        await asyncio.gather(*(asyncio.to_thread(lane.threads.close, timeout) for lane in lanes))
        for batch in [batch for lane in lanes for batch in (*lane.running, *lane.again)]:
            batch.fail(error)

    def _move(self, lane: Lane[Batch]) -> None:
        while not lane.full and (batch := self._next(lane)) is not None:
            lane.running.append(batch)
            if self._gate.is_open:
                lane.threads.submit(partial(self._run, lane, batch))
            else:
                lane.admitting = self._loop.create_task(self._admit(lane, batch))
        for priority in lane.priorities:
            self._observer.queued(self._name, priority, self._queues[priority].texts)

    def _next(self, lane: Lane[Batch]) -> Batch | None:
        if lane.again:
            return lane.again.popleft()
        batches = (self._queues[priority].fill(self._gate.card) for priority in lane.priorities)
        return next((batch for batch in batches if batch is not None), None)

    async def _admit(self, lane: Lane[Batch], batch: Batch) -> None:
        """Hand a batch on when the model's limits let it go; what comes meanwhile waits in the queues."""
        try:
            waited = await self._gate.admit(batch, batch.items, batch.tokens, batch.priority)
        except PgEmbedError as exc:
            lane.admitting = None
            self._finish(lane, batch, exc, None, 0.0)
            return
        if waited:
            self._observer.throttled(self._name, batch.priority, waited)
        lane.admitting = None
        lane.threads.submit(partial(self._run, lane, batch))
        self._move(lane)

    def _run(self, lane: Lane[Batch], batch: Batch) -> None:
        """In a thread: one call of the model."""
        started = perf_counter()
        outcome = self._outcome(batch)
        ended = partial(self._finish, lane, batch, outcome, self._allowance(), perf_counter() - started)
        with suppress(RuntimeError):  # the event loop has been closed: nobody is left to tell
            self._loop.call_soon_threadsafe(ended)
        if self.card.shares_cpu:
            self._trimming.look()

    def _outcome(self, batch: Batch) -> Embeddings | PgEmbedError:
        if self._closing or batch.abandoned():
            return ModelUnavailable(CLOSING)
        try:
            found = self._embedder.embed(batch.texts(), batch.kind, batch.outputs)
            return self._checked(found, batch)
        except PgEmbedError as exc:
            return exc
        except BaseException as exc:  # a thread that dies would leave its callers waiting
            return ModelUnavailable(f"family {self.card.family!r} failed: {type(exc).__name__}: {exc}")

    def _checked(self, found: Embeddings, batch: Batch) -> Embeddings:
        """What was asked for, and nothing else; another shape than the card's is an error of the family."""
        wanted, texts = batch.outputs, batch.items
        return Embeddings(
            dense=self._dense(found, texts) if "dense" in wanted else np.empty((texts, 0), np.float32),
            tokens=found.tokens,
            sparse=self._sparse(found, texts) if "sparse" in wanted else None,
            multi=self._multi(found, texts) if "multi" in wanted else None,
        )

    def _dense(self, found: Embeddings, texts: int) -> Float32:
        dense = np.asarray(found.dense, np.float32)
        self._must("vectors", dense.shape, (texts, self.card.dimensions))
        return dense

    def _sparse(self, found: Embeddings, texts: int) -> SparseVectors:
        sparse = found.sparse
        if sparse is None or len(sparse) != texts:
            raise self._broken(f"sparse vectors for {0 if sparse is None else len(sparse)} of {texts} texts")
        size = self.card.size("sparse")
        if len(sparse.indices) and not 0 <= sparse.indices.min() <= sparse.indices.max() < size:
            raise self._broken(f"a sparse vector with an index outside its {size} dimensions")
        return sparse

    def _multi(self, found: Embeddings, texts: int) -> TokenVectors:
        multi = found.multi
        if multi is None or len(multi) != texts:
            raise self._broken(f"token vectors for {0 if multi is None else len(multi)} of {texts} texts")
        self._must("token vectors", multi.vectors.shape, (multi.starts[-1], self.card.size("multi")))
        return multi

    def _must(self, what: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise self._broken(f"{what} of shape {found}, expected {expected}")

    def _broken(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(f"family {self.card.family!r} gave {what}")

    def _finish(
        self,
        lane: Lane[Batch],
        batch: Batch,
        outcome: Embeddings | PgEmbedError,
        allowance: Allowance | None,
        seconds: float,
    ) -> None:
        """On the loop: answer, and go on; of a refused batch each caller's part is tried alone."""
        lane.finished(batch, seconds)
        if isinstance(outcome, Embeddings):
            self._gate.settle(batch, outcome.tokens, allowance, None)
        else:
            self._gate.settle(batch, 0, allowance, outcome)
        error, tokens = None, 0
        if isinstance(outcome, Embeddings):
            batch.deliver(outcome)
            tokens = outcome.tokens
        elif isinstance(outcome, InputRejected) and len(batch.parts) > 1:
            lane.again.extend(batch.separate())
        else:
            batch.fail(outcome)
            error = outcome
        self._move(lane)
        self._observer.computed(self._name, batch.priority, batch.items, tokens, seconds, error)


def nothing() -> None:
    """What a model says of limits that has none."""
