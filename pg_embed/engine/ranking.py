"""One loaded reranker's queue: cuts requests into calls, gives them to threads, and answers the callers.

All state is touched on the event loop only, as in the batcher. A call has one query, so it is of one request.
The requests of one priority are served in the order in which they came. No threads are kept for queries:
reranking is done for them alone, or nearly so, and the other threads would be idle.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from pg_embed.engine.batcher import CLOSING, nothing
from pg_embed.engine.lanes import Lane
from pg_embed.engine.observer import Observer
from pg_embed.engine.settings import EngineSettings
from pg_embed.engine.throttle import Gate
from pg_embed.errors import InvalidArgument, ModelUnavailable, Overloaded, PgEmbedError
from pg_embed.protocols import Reranker
from pg_embed.records import Allowance, Card, Float32, ModelSpec, Priority, Scores


class Request:
    """A query and its texts; the calls that no thread has taken wait here. `costs` has each text's tokens."""

    def __init__(
        self,
        query: str,
        texts: Sequence[str],
        costs: Sequence[int],
        calls: Sequence[list[int]],
        future: asyncio.Future[Scores],
    ) -> None:
        self.query = query
        self.texts = texts
        self.costs = costs
        self.future = future
        self.waiting = deque(calls)
        self._missing = len(texts)
        self._tokens = self._calls = 0
        self._scores = np.empty(len(texts), np.float32)

    def receive(self, rows: list[int], found: Scores) -> None:
        """The scores of some texts; the caller is answered with the last of them."""
        self._scores[rows] = found.scores
        self._tokens += found.tokens
        self._calls += 1
        self._missing -= len(rows)
        if not self._missing and not self.future.done():
            self.future.set_result(Scores(self._scores, self._tokens, self._calls))

    def fail(self, error: PgEmbedError) -> None:
        """Answer the caller with an error; scores still to come are dropped."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class Call:
    """Some texts of a request, in one call of the model."""

    request: Request
    rows: list[int]
    priority: Priority

    @property
    def texts(self) -> list[str]:
        """Those texts."""
        return [self.request.texts[row] for row in self.rows]

    @property
    def tokens(self) -> int:
        """As counted before, the query with each text."""
        return sum(self.request.costs[row] for row in self.rows)


class Ranker:
    """Takes requests for one reranker from any number of callers."""

    def __init__(
        self,
        reranker: Reranker,
        name: str,
        settings: EngineSettings,
        observer: Observer,
        gate: Gate | None = None,
    ) -> None:
        self.card = reranker.card
        self._gate = gate or Gate(self.card, ModelSpec(name, self.card.family), None)
        self._allowance: Callable[[], Allowance | None] = getattr(reranker, "allowance", nothing)
        self.name = name
        self._reranker = reranker
        self._observer = observer
        self._bound = settings.max_queued_pairs
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._queues: dict[Priority, deque[Request]] = {priority: deque() for priority in Priority}
        self._queued = dict.fromkeys(Priority, 0)
        self._lane: Lane[Call] = Lane(name, self.card.concurrency, list(Priority))

    @property
    def idle(self) -> bool:
        """Whether nobody waits for this model."""
        return not self._lane.running and not any(self._queued.values())

    async def rerank(self, query: str, texts: Sequence[str], priority: Priority) -> Scores:
        """Scores in the order of the texts; cancelling the caller drops what waits."""
        if not texts:
            return Scores(np.empty(0, np.float32))
        return await self.submit(query, texts, priority)

    def submit(self, query: str, texts: Sequence[str], priority: Priority) -> asyncio.Future[Scores]:
        """Put a request into its queue, or refuse it at once; an empty queue takes one of any size."""
        if self._closing:
            raise ModelUnavailable(CLOSING)
        if self._queued[priority] and self._queued[priority] + len(texts) > self._bound:
            raise Overloaded(
                f"{self._queued[priority]} texts wait for model {self.name!r} already",
                hint="try again in a moment",
            )
        asked, *counts = self._reranker.count_tokens([query, *texts])
        costs = [asked + count for count in counts]
        request = Request(query, texts, costs, self._cut(texts, costs), self._loop.create_future())
        request.future.add_done_callback(lambda _: self._discard(request, priority))
        self._queues[priority].append(request)
        self._queued[priority] += len(texts)
        self._move()
        return request.future

    async def close(self, timeout: float) -> None:
        """Refuse what waits, let running calls end, end the threads, then the model."""
        self._closing = True
        error = ModelUnavailable(CLOSING)
        for request in [request for queue in self._queues.values() for request in queue]:
            request.fail(error)
        if self._lane.admitting is not None:
            self._lane.admitting.cancel()
        await asyncio.to_thread(self._lane.threads.close, timeout)
        for call in self._lane.running:
            call.request.fail(error)
        await asyncio.to_thread(self._reranker.close)

    def _cut(self, texts: Sequence[str], costs: Sequence[int]) -> list[list[int]]:
        """The rows of each call."""
        card = self._gate.card if not self.card.listwise else self.card
        if card.listwise:
            if len(texts) > card.max_batch_items:
                raise InvalidArgument(
                    f"model {self.name!r} compares all texts with each other, and takes at most"
                    f" {card.max_batch_items} of them, not {len(texts)}",
                    hint="give it the best of a first search only",
                )
            return [list(range(len(texts)))]
        # by characters too, for counts are equal where texts are cut at the model's limit
        order = sorted(range(len(texts)), key=lambda row: (-costs[row], -len(texts[row])))
        return split(order, costs, card)

    def _move(self) -> None:
        while not self._lane.full and (call := self._next()) is not None:
            self._lane.running.append(call)
            if self._gate.is_open:
                self._lane.threads.submit(partial(self._run, call))
            else:
                self._lane.admitting = self._loop.create_task(self._admit(call))
        for priority, texts in self._queued.items():
            self._observer.queued(self.name, priority, texts)

    async def _admit(self, call: Call) -> None:
        """Hand a call on when the model's limits let it go; what comes meanwhile waits in the queues."""
        try:
            waited = await self._gate.admit(call, len(call.rows), call.tokens, call.priority)
        except PgEmbedError as exc:
            self._lane.admitting = None
            self._finish(call, exc, None, 0.0)
            return
        if waited:
            self._observer.throttled(self.name, call.priority, waited)
        self._lane.admitting = None
        self._lane.threads.submit(partial(self._run, call))
        self._move()

    def _next(self) -> Call | None:
        for priority, queue in self._queues.items():
            while queue:
                request = queue[0]
                if request.future.done():
                    self._discard(request, priority)
                    continue
                call = Call(request, request.waiting.popleft(), priority)
                self._queued[priority] -= len(call.rows)
                if not request.waiting:
                    queue.popleft()
                return call
        return None

    def _discard(self, request: Request, priority: Priority) -> None:
        """Forget what is left of a request whose caller has gone or has been answered."""
        if request in self._queues[priority]:
            self._queues[priority].remove(request)
            self._queued[priority] -= sum(map(len, request.waiting))
            request.waiting.clear()

    def _run(self, call: Call) -> None:
        """In a thread: one call of the model."""
        started = perf_counter()
        outcome = self._outcome(call)
        with suppress(RuntimeError):  # the event loop has been closed: nobody is left to tell
            seconds, allowance = perf_counter() - started, self._allowance()
            self._loop.call_soon_threadsafe(self._finish, call, outcome, allowance, seconds)

    def _outcome(self, call: Call) -> Scores | PgEmbedError:
        if self._closing or call.request.future.done():
            return ModelUnavailable(CLOSING)
        try:
            found = self._reranker.rerank(call.request.query, call.texts)
            return Scores(self._checked(found, len(call.rows)), found.tokens)
        except PgEmbedError as exc:
            return exc
        except BaseException as exc:  # a thread that dies would leave its callers waiting
            return ModelUnavailable(f"family {self.card.family!r} failed: {type(exc).__name__}: {exc}")

    def _checked(self, found: Scores, texts: int) -> Float32:
        """A finite score for each text; anything else is an error of the family."""
        scores = np.asarray(found.scores, np.float32)
        if scores.shape != (texts,):
            raise ModelUnavailable(
                f"family {self.card.family!r} gave scores of shape {scores.shape}, expected {(texts,)}"
            )
        if not np.isfinite(scores).all():
            raise ModelUnavailable(f"family {self.card.family!r} gave a score that is not finite")
        return scores

    def _finish(
        self, call: Call, outcome: Scores | PgEmbedError, allowance: Allowance | None, seconds: float
    ) -> None:
        """On the loop: answer, and go on."""
        self._lane.finished(call, seconds)
        if isinstance(outcome, Scores):
            self._gate.settle(call, outcome.tokens, allowance, None)
        else:
            self._gate.settle(call, 0, allowance, outcome)
        error, tokens = None, 0
        if isinstance(outcome, Scores):
            call.request.receive(call.rows, outcome)
            tokens = outcome.tokens
        else:
            call.request.fail(outcome)
            error = outcome
        self._move()
        self._observer.computed(self.name, call.priority, len(call.rows), tokens, seconds, error)


def split(order: Sequence[int], costs: Sequence[int], card: Card) -> list[list[int]]:
    """The rows, which come the dearest first, in calls within the card's limits; one too dear goes alone."""
    calls: list[list[int]] = []
    spent = 0
    for row in order:
        last = calls[-1] if calls else []
        cost = costs[last[0]] * (len(last) + 1) if last and card.padded else spent + costs[row]
        if not last or len(last) == card.max_batch_items or cost > card.max_batch_tokens:
            calls.append([row])
            spent = costs[row]
        else:
            last.append(row)
            spent += costs[row]
    return calls
