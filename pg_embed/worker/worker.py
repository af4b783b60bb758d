"""A worker: watches the queue of a database, calls dispatchers, keeps leases, outlives lost connections."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pg_embed import statements
from pg_embed.db import (
    APPLICATION_NAME,
    CONNECT_TIMEOUT,
    GENERATION,
    KEEPALIVE,
    checked,
    tls_advice,
    translate,
)
from pg_embed.errors import NotInstalled, VersionMismatch
from pg_embed.jobs import Store, Work, sessions
from pg_embed.jobs.limits import Limits
from pg_embed.jobs.packing import register
from pg_embed.jobs.reuse import Reuse
from pg_embed.jobs.usage import Ledger
from pg_embed.log import event, logger
from pg_embed.records import ModelSpec
from pg_embed.worker.dispatcher import Dispatcher, is_passing
from pg_embed.worker.embedding import Models
from pg_embed.worker.indexing import Indexing
from pg_embed.worker.metering import MeteredModels
from pg_embed.worker.observer import Observer, Silence
from pg_embed.worker.preparing import Hooks
from pg_embed.worker.reusing import ReusingModels
from pg_embed.worker.settings import WorkerSettings
from pg_embed.worker.switching import Switching
from pg_embed.worker.watching import Watch

SQL = statements.load("jobs")
ALIVE_EVERY = 2.0  # seconds between two looks whether the sessions that watch are still those of this worker
FIRST_LOOK = 0.005  # seconds after going idle: a commit may have been on its way
TELL_EVERY = 2.0  # seconds between two tellings of what was used
STANDBY_LOOKS = 15  # at one standby; then the address is asked anew, for it may lead to another server by now
LOST_GRACE = 1.0  # seconds for what is in hand when the database was lost
CATALOG = "catalog"  # the payload of a notification that tells of other things than rows
WORKER_NUMBERS = 2**31 - 1
# Whatever the database or the role sets by default: the guards of _finish_v1 hold in READ COMMITTED.
SESSION = {
    "statement_timeout": "300s",
    "transaction_timeout": "0",  # since PostgreSQL 17
    "idle_session_timeout": "0",  # who listens is idle, and a worker whose session ends counts as lost
    "jit": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",  # a filter is kept as it is spelled with this
}
# A table that is locked for long holds a connection no longer than this: others have rows, too.
POOL_SESSION = {**SESSION, "lock_timeout": "10s"}
log = logger("worker")


class Worker:
    """Works on one database until it is stopped; `stop` lets it finish what is in hand, `abort` does not."""

    def __init__(
        self,
        dsn: str,
        models: Models,
        settings: WorkerSettings | None = None,
        limits: Limits | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._dsn = checked(dsn)
        self._observer = observer or Silence()
        self._limits = limits
        self._models = models
        self._settings = settings or WorkerSettings()
        self._ledger = Ledger(self._settings.refused_wait)
        self._reuse = Reuse()
        self._hooks = Hooks(self._settings.prepare, self._settings.prepare_timeout)
        self._watch = Watch(self._observer, self._settings.figures_every)
        self._stop = asyncio.Event()
        self._abort = False
        self._well = False  # the present connection did what it is there for
        self._missed = False  # something of ours was not there since: removed, or by an upgrade
        self._told = False  # that the server is a standby
        self._ready = asyncio.Event()
        self._running: set[Dispatcher] = set()
        self.number = 0

    async def ready(self) -> None:
        """Return when the worker is connected and watches the queue, or waits for its standby's promotion."""
        await self._ready.wait()

    def stop(self) -> None:
        """Take no more rows, finish those in hand, and end."""
        self._stop.set()
        for dispatcher in self._running:
            dispatcher.take_no_more()

    def abort(self) -> None:
        """End at once; the rows in hand go to the next worker."""
        self._abort = True
        self._stop.set()
        for dispatcher in self._running:
            dispatcher.abort()

    async def run(self) -> None:
        """Work until stopped. A database that goes away is waited for; one without pg_embed is an error, and
        so is one that was upgraded and serves this version no more, or whose TLS does not fit the DSN.

        On a standby it waits, too: there `pg-embed serve` answers queries, and after a failover the same
        process must go on with the rows, without anybody who starts it anew.
        """
        failures = 0
        while not self._stop.is_set():
            self._well = False
            try:
                await self._session()
            except (psycopg.Error, PoolTimeout) as exc:
                if self._is_misled(exc) or (not is_passing(exc) and not self._may_pass(exc)):
                    raise translate(exc) from exc
                failures = 1 if self._well else failures + 1
                delay = min(0.2 * 2.0 ** min(failures, 8), 15.0) * random.uniform(0.8, 1.2)
                event(
                    log,
                    logging.WARNING,
                    "worker_disconnected",
                    f"the database was lost: {exc}; again in {delay:.1f} s",
                    worker=self.number,
                    error=str(exc),
                    retry_in=delay,
                )
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), delay)
        event(log, logging.INFO, "worker_stopped", "stopped", worker=self.number)

    def _is_misled(self, error: Exception) -> bool:
        """Whether TLS prevents the first connection; a later one waits for a certificate that is renewed."""
        return not self._ready.is_set() and tls_advice(error) is not None

    def _may_pass(self, error: psycopg.Error) -> bool:
        """Whether to try again: it was cancelled, or all was well before and nobody has removed pg_embed.

        What is missing may be so by an upgrade: a new connection tells the one from the other.
        """
        if isinstance(error, psycopg.errors.QueryCanceled):
            return True
        known = translate(error)
        if isinstance(known, NotInstalled):
            again, self._missed = self._ready.is_set() and not self._missed, True
            return again
        return self._ready.is_set() and not isinstance(known, VersionMismatch)

    async def _session(self) -> None:
        async with self._connect() as control, self._connect() as listener:
            # before anything is set, or locked, that would stay there
            await sessions.check(control, listener)
            for connection in (control, listener):
                await sessions.set_up(connection, SESSION)
            register(control)
            await self._work(control, listener)

    async def _work(
        self, control: psycopg.AsyncConnection[Any], listener: psycopg.AsyncConnection[Any]
    ) -> None:
        async with self._pool() as pool:
            await _check_generation(control)
            if not await self._be_primary(control):
                return
            await control.execute(SQL["arrive"])
            await sessions.set_up(control, POOL_SESSION)
            self.number = await self._be_alive(listener)
            store = Store(pool, control, self.number, self._settings.lease)
            self._ledger.pool = pool
            self._ledger.is_stale = True
            self._reuse.pool = pool
            self._reuse.refresh()
            indexing = Indexing(self._dsn, store, self._settings, self._observer)
            session = _Session(
                control,
                store,
                self._models,
                self._ledger,
                self._reuse,
                self._is_limited,
                self._settings,
                self._stop,
                self._running,
                indexing,
                self._watch,
                self._observer,
                self._hooks,
            )
            await listener.execute(SQL["listen"])
            self._observer.connected(True)
            event(log, logging.INFO, "worker_started", "watching the queue", worker=self.number)
            watching = [
                asyncio.create_task(self._listen(listener, session)),
                asyncio.create_task(self._stay_alive(control)),
            ]
            lost = True
            try:
                await session.run(self._be_well, watching)
                lost = False
            finally:
                for task in watching:
                    task.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
                await self._watch.stop()
                self._observer.connected(False)
                if not lost:
                    self._tell_stopping()
                await session.end(at_once=self._abort, lost=lost)
                if not lost:
                    await self._ledger.tell()
                self._ledger.pool = self._reuse.pool = None

    def _be_well(self) -> None:
        """The queue was looked at: the connection holds, and nothing is missing."""
        self._well, self._missed = True, False
        self._ready.set()

    def _tell_stopping(self) -> None:
        in_flight = sum(len(dispatcher.entries) for dispatcher in self._running)
        event(log, logging.INFO, "worker_stopping", "stopping", worker=self.number, in_flight=in_flight)

    def _is_limited(self, spec: ModelSpec) -> bool:
        return self._limits is not None and self._limits.limit(spec) is not None

    async def _listen(self, connection: psycopg.AsyncConnection[Any], session: _Session) -> None:
        async for notice in connection.notifies():
            if notice.payload == CATALOG:
                session.is_unchecked = True
                self._ledger.is_stale = True
                self._reuse.refresh()
                self._watch.catalog_changed()
                if self._limits is not None:
                    self._limits.refresh()
            session.called.set()

    async def _stay_alive(self, control: psycopg.AsyncConnection[Any]) -> None:
        """Ask now and then, for an idle worker would learn with its next row only that a session has ended.

        So would one behind a proxy that has put another session in the place of one that ended.
        """
        parameters = {"worker": self.number, "backend": await sessions.backend(control)}
        while True:
            await asyncio.sleep(ALIVE_EVERY)
            row = await (await control.execute(SQL["is_alive"], parameters)).fetchone()
            if row is None or not row[0]:
                raise psycopg.OperationalError("a session that holds locks of this worker has ended")

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, **_parameters())
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def _pool(self) -> AsyncIterator[AsyncConnectionPool[Any]]:
        async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
            register(connection)
            await connection.set_autocommit(True)
            await sessions.set_up(connection, POOL_SESSION)

        pool = AsyncConnectionPool[Any](
            self._dsn,
            kwargs=_parameters(),
            min_size=1,
            max_size=self._settings.connections,
            timeout=30.0,
            configure=configure,
            open=False,
        )
        await pool.open(wait=True, timeout=30.0)
        try:
            yield pool
        finally:
            await pool.close(timeout=5.0)

    async def _be_primary(self, control: psycopg.AsyncConnection[Any]) -> bool:
        """Whether the server takes writes. A standby is looked at for a while, for it may be promoted.

        Or another is, and the name of the first leads there as soon as it is asked for again.
        """
        for _ in range(STANDBY_LOOKS):
            row = await (await control.execute(SQL["is_standby"])).fetchone()
            if row is None or not row[0]:
                self._told = False
                return not self._stop.is_set()
            if not self._told:
                text = "the server is a standby, where nothing can be written: waiting until it is promoted"
                event(log, logging.WARNING, "worker_waiting", text, worker=self.number)
                self._told = True
            self._be_well()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._settings.standby_poll)
            if self._stop.is_set():
                break
        return False

    async def _be_alive(self, connection: psycopg.AsyncConnection[Any]) -> int:
        while True:
            number = secrets.randbelow(WORKER_NUMBERS) + 1
            cursor = await connection.execute(SQL["be_alive"], {"worker": number})
            row = await cursor.fetchone()
            if row and row[0]:
                return number


class _Session:
    """What a worker does while its connections hold."""

    def __init__(
        self,
        control: psycopg.AsyncConnection[Any],
        store: Store,
        models: Models,
        ledger: Ledger,
        reuse: Reuse,
        is_limited: Callable[[ModelSpec], bool],
        settings: WorkerSettings,
        stop: asyncio.Event,
        running: set[Dispatcher],
        indexing: Indexing,
        watch: Watch,
        observer: Observer,
        hooks: Hooks,
    ) -> None:
        self.called = asyncio.Event()
        self.is_unchecked = False  # the database may have been upgraded
        self._control = control
        self._store = store
        self._models = models
        self._ledger = ledger
        self._reuse = reuse
        self._is_limited = is_limited
        self._settings = settings
        self._stop = stop
        self._running = running
        self._indexing = indexing
        self._switching = Switching(store, settings)
        self._watch = watch
        self._observer = observer
        self._hooks = hooks
        self._dispatchers: dict[int, Dispatcher] = {}
        self._works: list[Work] = []
        self._next_tend = 0.0
        self._tending: asyncio.Task[None] | None = None
        self._next_telling = 0.0
        self._telling: asyncio.Task[None] | None = None
        self._next_renewal = time.monotonic() + settings.lease / 3
        self._idle = False

    async def run(self, be_well: Callable[[], None], watching: Sequence[asyncio.Task[None]]) -> None:
        """Look, call dispatchers, wait to be called; until stopped, or one of those who watch has ended."""
        quiet = FIRST_LOOK
        while not self._stop.is_set():
            self.called.clear()
            if self.is_unchecked:
                self.is_unchecked = False
                await _check_generation(self._control)
            await self._maintain()
            due = await self._look()
            if due or self._busy:
                await self._be_idle(False)
                quiet = FIRST_LOOK
                wait = self._settings.busy_poll
            elif not self._idle and await self._be_idle(True):
                continue  # once more, with the lock held: a change made just before was not told of
            else:
                wait = quiet
                quiet = min(quiet * 2, self._settings.poll)
            be_well()
            await self._pause(wait, watching)

    async def end(self, *, at_once: bool, lost: bool = False) -> None:
        """Finish what is in hand, with its leases kept; or leave it, soon if the database was lost."""
        await self._switching.stop()
        await self._indexing.stop()
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)
        stopping = asyncio.gather(*(d.stop(at_once=at_once) for d in self._dispatchers.values()))
        while not stopping.done():
            await asyncio.wait([stopping], timeout=LOST_GRACE if lost else self._settings.lease / 3)
            if stopping.done():
                break
            if lost:  # its entries are due again as soon as we are back
                for dispatcher in self._dispatchers.values():
                    dispatcher.abort()
            else:
                with suppress(psycopg.Error, PoolTimeout):
                    await self._renew()
        self._running.clear()

    @property
    def _busy(self) -> bool:
        return any(dispatcher.busy for dispatcher in self._dispatchers.values())

    async def _look(self) -> bool:
        """Call a dispatcher for each vectorizer that has rows due; whether one could be called."""
        self._works = await self._store.work()
        due = False
        for work in self._works:
            if not (work.live_due or work.backfill_due or work.has_backfill or work.must_sweep):
                continue
            dispatcher = self._dispatchers.get(work.vectorizer)
            if dispatcher is None:
                dispatcher = Dispatcher(
                    work,
                    self._store,
                    self._models_of,
                    self._settings,
                    self.called.set,
                    self._is_limited,
                    self._observer,
                    self._hooks,
                )
                self._dispatchers[work.vectorizer] = dispatcher
                self._running.add(dispatcher)
            dispatcher.call(work)
            due |= dispatcher.busy
        return due

    def _models_of(self, work: Work) -> Models:
        metered = MeteredModels(self._models, self._ledger, work.vectorizer)
        exact = work.column_type == "vector"
        return ReusingModels(metered, self._reuse, self._ledger, work.vectorizer, self._observer, exact=exact)

    async def _pause(self, seconds: float, watching: Sequence[asyncio.Task[None]]) -> None:
        waiters = [asyncio.create_task(self.called.wait()), asyncio.create_task(self._stop.wait())]
        try:
            await asyncio.wait([*waiters, *watching], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        for task in watching:
            if task.done():
                task.result()  # raises what ended it
                raise psycopg.OperationalError("the listening connection was closed")

    async def _be_idle(self, idle: bool) -> bool:
        if idle == self._idle:
            return False
        cursor = await self._control.execute(SQL["go_idle" if idle else "go_busy"])
        row = await cursor.fetchone()
        self._idle = idle and bool(row and row[0])
        return self._idle

    async def _maintain(self) -> None:
        self._indexing.call()
        self._switching.call()
        self._watch.call(self._store)
        now = time.monotonic()
        if now >= self._next_renewal:
            self._next_renewal = now + self._settings.lease / 3
            await self._renew()
        if now >= self._next_tend and (self._tending is None or self._tending.done()):
            self._next_tend = now + self._settings.tend_every
            self._tending = asyncio.create_task(self._tend(), name="tend")  # may take long on a long queue
        if (now >= self._next_telling or self._ledger.is_stale) and (
            self._telling is None or self._telling.done()
        ):
            self._next_telling = now + TELL_EVERY
            self._telling = asyncio.create_task(self._ledger.tell(), name="tell what was used")

    async def _tend(self) -> None:
        await self._duty(self._rescue())
        await self._duty(self._store.tend())
        await self._duty(self._reuse.evict())
        for work in self._works:
            await self._duty(self._store.tidy(work))

    async def _rescue(self) -> None:
        if rescued := await self._store.rescue():
            self.called.set()
            self._observer.rescued(rescued)
            event(
                log,
                logging.WARNING,
                "rows_rescued",
                f"{rescued} entries of lost workers are due again",
                entries=rescued,
            )

    async def _duty(self, duty: Coroutine[Any, Any, None]) -> None:
        try:
            await duty
        except psycopg.Error as exc:  # one table's trouble is no reason to leave the others
            if is_passing(exc):
                log.debug("maintenance: %s", exc)
                return
            event(log, logging.ERROR, "maintenance_failed", f"maintenance failed: {exc}", error=str(exc))

    async def _renew(self) -> None:
        entries = [entry for dispatcher in self._dispatchers.values() for entry in dispatcher.entries]
        if entries:
            await self._store.renew(entries)


async def _check_generation(connection: psycopg.AsyncConnection[Any]) -> None:
    """An error where the database does not serve workers of this version."""
    await connection.execute(SQL["check_generation"], {"generation": GENERATION})


def _parameters() -> dict[str, Any]:
    return {
        **KEEPALIVE,
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": f"{APPLICATION_NAME} worker",
        "client_encoding": "UTF8",
    }
