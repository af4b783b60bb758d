"""One vectorizer's share of a worker: take batches while there are any, changed rows before the backfill."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import psycopg
from psycopg_pool import PoolTimeout

from pg_embed.db import translate
from pg_embed.errors import (
    InvalidArgument,
    MissingExtra,
    ModelMisconfigured,
    ModelUnavailable,
    NotInstalled,
    Overloaded,
    PgEmbedError,
    SpaceMismatch,
)
from pg_embed.jobs import Batch, Chunked, Dead, Lane, Outcome, Reading, Store, Work
from pg_embed.log import event, logger
from pg_embed.records import ModelSpec, no_embeddings
from pg_embed.worker.embedding import Models, embed_batch
from pg_embed.worker.observer import Observer, Reason, Silence, reason_of
from pg_embed.worker.preparing import Hooks, Prepared
from pg_embed.worker.settings import WorkerSettings
from pg_embed.worker.splitting import embed_documents
from pg_embed.worker.writing import write_batch, write_documents, write_gently

log = logger("worker")
REPAIR = (ModelMisconfigured, SpaceMismatch, MissingExtra, InvalidArgument)  # nobody's fault among the rows
FEWEST_ROWS = 32
GENTLE_SLOTS = 1  # batches in hand of a backfill that leaves room for searches
LONGEST_REST = 1.0  # seconds; a write that waited for others has rested already
FEWEST_DOCUMENTS = 1
FIRST_DOCUMENTS = 16
MULTI_CHARACTERS = 50_000  # of texts that get a vector for each token, read together at most
ROW_BYTES = 4_000_000  # of texts that are not split, read together
VECTOR_BYTES = 1 << 24  # of a batch's dense vectors in memory; they are held some times over
FIRST_ROWS = 240  # one full entry of the queue: enough to learn how fast the model is
LIMITED_SECONDS = 60.0  # a batch of a model with limits: small ones would waste the calls that it may do
LIMITED_TIMEOUT = 21_600.0  # seconds; what waits for its turn is not late, and calls have a time of their own
LINGER = (
    0.02  # seconds between two looks at changed rows that come one by one: each look costs more than a row
)
# SQLSTATEs that end a session, beside class 08: shutdown, crash, starting up, dropped database, being idle
# (without a transaction, or in one), a transaction that takes long.
ENDED = ("57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04")
Failed = tuple[str, str, str]  # key, code and error of a row that was given up
Done = tuple[int, list[Failed]]  # how many rows were written, and those that were given up
COLLISION_SHARE = 0.2  # of the wait after other errors: who went first is soon done
DEADLOCK = "40"  # the class: somebody else went first, and the next try may pass


def is_passing(error: Exception) -> bool:
    """Whether an error tells of a lost connection or of a collision, and so nothing of the table."""
    if not isinstance(error, psycopg.Error) or not error.sqlstate:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout))
    return error.sqlstate in ENDED or error.sqlstate[:2] in ("08", DEADLOCK)


class Dispatcher:
    """Runs while its vectorizer has rows that are due; the watcher starts it again when there are new."""

    def __init__(
        self,
        work: Work,
        store: Store,
        models: Callable[[Work], Models],
        settings: WorkerSettings,
        idle: Callable[[], None],
        is_limited: Callable[[ModelSpec], bool] = lambda spec: False,
        observer: Observer | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.work = work
        self._hooks = hooks or Hooks()
        self._observer = observer or Silence()
        self._idle = idle  # called when there is nothing left to take and nothing in hand
        self._store = store
        self._models = models  # as a vectorizer in its present state sees them
        self._is_limited = is_limited  # whether most of a batch's time may be waiting for its turn
        self._settings = settings
        self._most_rows = _most_rows(work, settings)
        self._fewest_rows = FEWEST_ROWS if work.chunking is None else FEWEST_DOCUMENTS
        self._rows = min(FIRST_ROWS if work.chunking is None else FIRST_DOCUMENTS, self._most_rows)
        self._in_hand: dict[asyncio.Task[None], Batch] = {}
        self._lanes: Counter[Lane] = Counter()
        self._stopping = False
        self._wait_until = 0.0  # monotonic; a failing model is left alone until then
        self._next_live = 0.0  # monotonic; changed rows are let come together until then
        self._failures = 0
        self._called = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether it takes or holds batches."""
        return bool(self._in_hand) or (self._task is not None and not self._task.done())

    @property
    def entries(self) -> list[int]:
        """The entries of the queue that are in hand."""
        return [entry for batch in self._in_hand.values() for entry in batch.entries]

    def call(self, work: Work) -> None:
        """There may be rows: look, unless it is looking already."""
        self.work = work
        self._called.set()
        if self._stopping or time.monotonic() < self._wait_until:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"dispatch {work.name}")

    def take_no_more(self) -> None:
        """Leave what is in the queue to others."""
        self._stopping = True
        self._called.set()

    async def stop(self, *, at_once: bool = False) -> None:
        """Take nothing more, and finish what is in hand; or let go of it at once."""
        self.take_no_more()
        if at_once:
            self.abort()
        tasks = [*self._in_hand, *([self._task] if self._task else [])]
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(
            *self._in_hand, return_exceptions=True
        )  # what was being taken when the stop came

    def abort(self) -> None:
        """Let go of what is in hand."""
        self._stopping = True
        for task in [*self._in_hand, *([self._task] if self._task else [])]:
            task.cancel()

    async def _run(self) -> None:
        try:
            if not await self._can_prepare():
                return
            while not self._stopping and time.monotonic() >= self._wait_until:
                self._called.clear()
                await self._sweep()
                if await self._fill():
                    continue
                linger = self._next_live - time.monotonic()
                if not self._in_hand and linger <= 0:
                    break
                await self._something(linger if linger > 0 else None)
        except Exception as exc:  # whatever it is, not again and again without a rest
            if is_passing(exc):
                log.debug("dispatching %s: %s", self.work.name, exc)
                return
            # the table itself is in the way (a changed type, a lost right): not the worker's to mend
            self._pause(self._settings.repair_wait)
            if isinstance(exc, psycopg.Error):
                await self._blame(exc)
            event(
                log,
                logging.ERROR,
                "batch_lost",
                f"{self.work.name}: {type(exc).__name__}: {exc}",
                vectorizer=self.work.name,
                lane="",
                rows=0,
                error=str(exc),
            )
        finally:
            self._idle()

    async def _can_prepare(self) -> bool:
        """Whether this worker has the hook that the rows need; where not, it takes none of them."""
        if self.work.prepare is None:
            return True
        problem = await asyncio.to_thread(self._hooks.problem, self.work.prepare)
        if problem is None:
            return True
        self._pause(self._settings.repair_wait)
        await self._tell(problem)
        event(
            log,
            logging.ERROR,
            "batch_lost",
            f"{self.work.name}: {problem}",
            vectorizer=self.work.name,
            lane="",
            rows=0,
            error=problem,
        )
        return False

    async def _something(self, seconds: float | None) -> None:
        waiter = asyncio.create_task(self._called.wait())
        try:
            waited = [*self._in_hand, waiter]
            await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()

    async def _fill(self) -> bool:
        """Take a batch for each lane that has a slot free; whether any was found."""
        found = False
        if self._stopping:
            return found
        if self._lanes[Lane.LIVE] < self._settings.live_slots and time.monotonic() >= self._next_live:
            found |= await self._take(Lane.LIVE)
        if self._lanes[Lane.BACKFILL] < self._backfill_slots and not self._stopping:
            found |= await self._take(Lane.BACKFILL) or await self._page()
        return found

    async def _take(self, lane: Lane) -> bool:
        most = MULTI_CHARACTERS if "multi" in self.work.sizes else ROW_BYTES
        batch = await self._store.take(self.work, lane, self._rows, most)
        if batch is None:
            return False
        if batch.later:  # claimed in vain: fewer the next time
            self._rows = max(len(batch.keys), 1)
        self._lanes[lane] += 1
        if lane is Lane.LIVE and batch.rows < self._rows:
            self._next_live = time.monotonic() + LINGER
        task = asyncio.create_task(self._process(batch), name=f"batch {self.work.name}")
        self._in_hand[task] = batch
        task.add_done_callback(self._release)
        return True

    async def _page(self) -> bool:
        if not self.work.has_backfill:
            return False
        found = await self._store.page(self.work, self._settings.page_rows)
        await self._blame(None)
        return found

    async def _sweep(self) -> None:
        if self.work.must_sweep:
            self.work = replace(self.work, must_sweep=False)  # the next look tells whether that was all
            await self._store.sweep(self.work)

    async def _blame(self, error: psycopg.Error | None) -> None:
        """Tell in the catalog what is wrong with the table, and when it is well again."""
        if error is None and self.work.reason is None:
            return
        if error is not None and isinstance(translate(error), NotInstalled):
            return  # nobody's table: the worker is about to learn that it is too old, or that all is gone
        await self._tell(None if error is None else (error.diag.message_primary or str(error)))

    async def _tell(self, reason: str | None) -> None:
        self.work = replace(self.work, reason=reason)
        with suppress(psycopg.Error, PoolTimeout):
            await self._store.blame(self.work, reason)

    def _timeout(self, spec: ModelSpec) -> float:
        return LIMITED_TIMEOUT if self._is_limited(spec) else self._settings.model_timeout

    def _release(self, task: asyncio.Task[None]) -> None:
        batch = self._in_hand.pop(task)
        self._lanes[batch.lane] -= 1

    async def _process(self, batch: Batch) -> None:
        started = time.monotonic()
        work = self.work  # what is embedded for one type of a column is not written for another
        try:
            done = await (
                self._rows_done(work, batch) if work.chunking is None else self._split_done(work, batch)
            )
            if done is None:
                return
            await self._blame(None)
        except Exception as exc:
            if is_passing(exc):
                log.debug("batch of %s: %s", self.work.name, exc)
                # charged: where it happens again and again the wait grows, and a paid model is called less
                wait = self._settings.wait_after(batch.tries) * COLLISION_SHARE
                with suppress(psycopg.Error, PoolTimeout):  # then it comes back when its lease is over
                    await self._store.postpone(batch, wait, str(exc), charge=True)
                return
            at_table = isinstance(exc, psycopg.Error)
            self._pause(self._settings.repair_wait if at_table else self._settings.backoff)
            if isinstance(exc, psycopg.Error):
                await self._blame(exc)
            event(
                log,
                logging.ERROR,
                "batch_lost",
                f"{self.work.name}: {type(exc).__name__}: {exc}",
                vectorizer=self.work.name,
                lane=batch.lane.name,
                rows=batch.rows,
                error=str(exc),
            )
            text = f"{type(exc).__name__}: {exc}"
            wait = self._settings.wait_after(batch.tries)
            await self._put_off(batch, wait, text, reason_of(exc), charge=not at_table)
        else:
            self._report(batch, *done, time.monotonic() - started)

    async def _rows_done(self, work: Work, batch: Batch) -> Done | None:
        """Embed and write rows; None when the batch went back to the queue."""
        started = time.monotonic()
        outcome = await self._outcome(work, batch)
        if outcome is None:
            return None
        if batch.texts:
            self._adapt(len(batch.texts), time.monotonic() - started)
        if _is_gentle(work, batch):
            written, refused = await write_gently(self._store, work, batch, outcome, self._rest)
        else:
            written, refused = await write_batch(self._store, work, batch, outcome)
        dead = [(batch.keys[dead.place], dead.code, dead.error) for dead in outcome.dead]
        return written, [*dead, *((row.key, row.code, row.error) for row in refused)]

    async def _split_done(self, work: Work, batch: Batch) -> Done | None:
        """Split, embed and write rows, some at a time; the batch is acknowledged with the last of them."""
        started, written, failed = time.monotonic(), 0, list[Failed]()
        left = batch.keys
        while True:
            reading = await self._store.read(work, left, self._characters, batch.tries)
            left = left[reading.keys :] if reading.keys else ()
            found = await self._chunked(work, batch, reading)
            if found is None:
                return None
            entries, writing = () if left else batch.entries, time.monotonic()
            rows, refused = await write_documents(self._store, work, batch, reading, found, entries)
            if _is_gentle(work, batch):
                await self._rest(time.monotonic() - writing)
            written += rows
            failed += [(reading.documents[dead.place].key, dead.code, dead.error) for dead in found.dead]
            failed += [(row.key, row.code, row.error) for row in refused]
            if not left:
                self._adapt(len(batch.keys), time.monotonic() - started)
                return written, failed

    async def _outcome(self, work: Work, batch: Batch) -> Outcome | None:
        """The outcome, or None when the batch went back to the queue."""
        try:
            prepared = await self._prepared(work, batch.texts)
            living = [place for place, text in enumerate(prepared) if isinstance(text, str)]
            texts = [text for text in prepared if isinstance(text, str)]
            outcome = await embed_batch(self._models(work), work, replace(batch, texts=texts), self._timeout)
        except PgEmbedError as exc:
            return _give_up(batch, exc) if await self._is_hopeless(batch, exc) else None
        self._failures = 0
        return outcome if len(living) == len(batch.texts) else _with_others(outcome, living, prepared)

    async def _chunked(self, work: Work, batch: Batch, reading: Reading) -> Chunked | None:
        """The outcome of some rows, or None when the batch went back to the queue."""
        try:
            prepared = await self._prepared(work, [document.text for document in reading.documents])
            found = await embed_documents(
                self._models(work), work, batch.lane, reading.documents, prepared, self._timeout
            )
        except PgEmbedError as exc:
            if not await self._is_hopeless(batch, exc):
                return None
            dead = [Dead(place, exc.sqlstate, str(exc)) for place in range(len(reading.documents))]
            return Chunked([], [], no_embeddings(), dead)
        self._failures = 0
        return found

    async def _prepared(self, work: Work, sources: Sequence[str]) -> Sequence[Prepared]:
        return sources if work.prepare is None else await self._hooks.prepare(work.prepare, sources)

    @property
    def _backfill_slots(self) -> int:
        # two would keep a core with the model and another with Postgres
        return GENTLE_SLOTS if self.work.is_gentle else self._settings.backfill_slots

    @property
    def _characters(self) -> int:
        most = self._settings.batch_characters
        return min(most, MULTI_CHARACTERS) if "multi" in self.work.sizes else most

    async def _rest(self, seconds: float) -> None:
        """Leave the processor and the disk to searches, after a write that took so long."""
        if not self._stopping:
            await asyncio.sleep(min(self._settings.switch_rest * seconds, LONGEST_REST))

    async def _is_hopeless(self, batch: Batch, error: PgEmbedError) -> bool:
        """Whether rows have no attempt left; else the batch goes back to the queue."""
        charge = not isinstance(error, (*REPAIR, Overloaded)) and not _is_limited(error)
        if charge and batch.tries >= self.work.max_attempts:
            return True
        self._failures += 1
        if isinstance(error, REPAIR):
            delay = self._settings.repair_wait
        else:
            asked = error.retry_after if isinstance(error, ModelUnavailable) else None
            delay = max(asked or 0.0, self._settings.wait_after(max(batch.tries, self._failures)))
        delay *= random.uniform(1.0, 1.25)
        self._pause(min(delay, self._settings.repair_wait))
        await self._put_off(batch, delay, str(error), reason_of(error), charge=charge)
        return False

    async def _put_off(self, batch: Batch, delay: float, error: str, reason: Reason, *, charge: bool) -> None:
        self._observer.batch_postponed(self.work.name, batch.lane, reason)
        event(
            log,
            logging.WARNING,
            "batch_postponed",
            f"{self.work.name}: {error}; again in {delay:.1f} s",
            vectorizer=self.work.name,
            lane=batch.lane.name,
            rows=batch.rows,
            error=error,
            reason=reason,
            retry_in=delay,
        )
        try:
            await self._store.postpone(batch, delay, error, charge=charge)
        except (psycopg.Error, PoolTimeout) as exc:
            log.debug("postponing a batch of %s: %s", self.work.name, exc)  # its lease runs out instead

    def _pause(self, seconds: float) -> None:
        self._wait_until = time.monotonic() + seconds

    def _adapt(self, rows: int, seconds: float) -> None:
        """Move the size of a batch half-way to what the model does in the time that a batch should take."""
        is_limited = any(self._is_limited(share.spec) for share in self.work.shares)
        aim = LIMITED_SECONDS if is_limited else self._settings.batch_seconds
        wanted = rows / max(seconds, 1e-3) * aim
        size = (self._rows + wanted) / 2 if rows >= self._rows / 2 or wanted < self._rows else self._rows
        self._rows = int(min(max(size, self._fewest_rows), self._most_rows))

    def _report(self, batch: Batch, written: int, failed: Sequence[Failed], seconds: float) -> None:
        self._observer.batch_done(self.work.name, batch.lane, batch.rows, len(failed), seconds)
        event(
            log,
            logging.DEBUG,
            "batch_done",
            f"{self.work.name}: {written} rows in {seconds:.2f} s",
            vectorizer=self.work.name,
            lane=batch.lane.name,
            rows=batch.rows,
            written=written,
            seconds=seconds,
        )
        for key, code, error in failed:
            event(
                log,
                logging.WARNING,
                "row_failed",
                f"{self.work.name}: row {key} was given up: {error}",
                vectorizer=self.work.name,
                key=key,
                code=code,
                error=error,
            )


def _most_rows(work: Work, settings: WorkerSettings) -> int:
    # the token vectors of a text may take megabytes, and so may what a hook makes it of
    if "multi" in work.sizes or work.prepare is not None:
        return FEWEST_ROWS
    row = 4 * work.sizes.get("dense", 1)  # bytes
    return max(min(settings.batch_rows, VECTOR_BYTES // row), FEWEST_ROWS)


def _is_gentle(work: Work, batch: Batch) -> bool:
    return work.is_gentle and batch.lane is Lane.BACKFILL


def _is_limited(error: PgEmbedError) -> bool:
    return isinstance(error, ModelUnavailable) and error.limited


def _with_others(outcome: Outcome, living: Sequence[int], prepared: Sequence[Prepared]) -> Outcome:
    """The outcome of the texts that a hook made, at the places of their rows, and of the rows without one."""
    rejected = [replace(dead, place=living[dead.place]) for dead in outcome.dead]
    return Outcome(
        places=[living[place] for place in outcome.places],
        vectors=outcome.vectors,
        dead=[*rejected, *(row for row in prepared if isinstance(row, Dead))],
        bare=[place for place, row in enumerate(prepared) if row is None],
    )


def _give_up(batch: Batch, error: PgEmbedError) -> Outcome:
    """Every row is dead: a batch is charged as one, so all of them have spent their attempts."""
    dead = [Dead(place, error.sqlstate, str(error)) for place in range(len(batch.keys))]
    return Outcome(places=[], vectors=no_embeddings(), dead=dead)
