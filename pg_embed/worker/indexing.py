"""A worker's care for indexes: one at a time, built beside its other work."""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg
from psycopg_pool import PoolTimeout

from pg_embed.errors import PgEmbedError
from pg_embed.jobs import IndexBuild, IndexJob, Store
from pg_embed.log import event, logger
from pg_embed.worker.observer import Observer
from pg_embed.worker.settings import WorkerSettings

log = logger("worker")


class Indexing:
    """Looks now and then for an index to build, and builds it in a thread."""

    def __init__(self, dsn: str, store: Store, settings: WorkerSettings, observer: Observer) -> None:
        self._dsn = dsn
        self._observer = observer
        self._store = store
        self._settings = settings
        self._next_look = 0.0  # monotonic
        self._task: asyncio.Task[None] | None = None
        self._build: IndexBuild | None = None
        self._stopping = False

    def call(self) -> None:
        """Look, if it is time to and nothing is being built."""
        if self._stopping or time.monotonic() < self._next_look:
            return
        if self._task is None or self._task.done():
            self._next_look = time.monotonic() + self._settings.index_every
            self._task = asyncio.create_task(self._look(), name="indexes")

    async def stop(self) -> None:
        """Cut off what is being built: the next worker begins it again."""
        self._stopping = True
        if self._build is not None:
            await asyncio.to_thread(self._build.cancel)
        elif self._task is not None:
            self._task.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        try:
            for job in await self._store.indexes():
                if not job.may_build:
                    await self._store.index_needs_owner(job)
                elif self._is_due(job) and not self._stopping:
                    await self._run(job)
        except (psycopg.Error, PoolTimeout) as exc:
            log.debug("looking for indexes: %s", exc)

    def _is_due(self, job: IndexJob) -> bool:
        return job.failures == 0 or job.idle is None or job.idle >= self._settings.wait_after(job.failures)

    async def _run(self, job: IndexJob) -> None:
        started = time.monotonic()
        self._build = IndexBuild(self._dsn, job.name)
        try:
            built = await asyncio.to_thread(self._build.run)
        except (psycopg.Error, PgEmbedError) as exc:
            if not self._stopping:
                self._observer.index_built(job.name, time.monotonic() - started, is_built=False)
                event(
                    log,
                    logging.WARNING,
                    "index_failed",
                    f"the index of {job.name}: {exc}",
                    vectorizer=job.name,
                    error=str(exc),
                )
        else:
            if built:
                seconds = time.monotonic() - started
                self._observer.index_built(job.name, seconds, is_built=True)
                event(
                    log,
                    logging.INFO,
                    "index_built",
                    f"the index of {job.name} was built in {seconds:.1f} s",
                    vectorizer=job.name,
                    seconds=seconds,
                )
        finally:
            self._build = None
