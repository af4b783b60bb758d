"""A worker's care for switches of models: both spaces are compared, then they are swapped."""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg
from psycopg_pool import PoolTimeout

from pg_embed.jobs import Store, SwitchJob
from pg_embed.log import event, logger
from pg_embed.worker.dispatcher import is_passing
from pg_embed.worker.settings import WorkerSettings

log = logger("worker")
SWAP_SECONDS = 2.0  # of short tries for the table; then other switches have their turn
LOCKED = "55P03"  # the SQLSTATE: the table was in use all the time


class Switching:
    """Looks now and then for a switch that waits for a step, and takes it."""

    def __init__(self, store: Store, settings: WorkerSettings) -> None:
        self._store = store
        self._settings = settings
        self._next_look = 0.0  # monotonic
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def call(self) -> None:
        """Look, if it is time to and no step is being taken."""
        if self._stopping or time.monotonic() < self._next_look:
            return
        if self._task is None or self._task.done():
            self._next_look = time.monotonic() + self._settings.switch_every
            self._task = asyncio.create_task(self._look(), name="switches")

    async def stop(self) -> None:
        """Leave a step that is being taken to the next worker."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        try:
            for job in await self._store.switches():
                if not job.may_do:
                    await self._store.switch_tried(job, None, needs_owner=True)
                elif self._is_due(job):
                    await self._step(job)
        except (psycopg.Error, PoolTimeout) as exc:
            log.debug("looking for switches: %s", exc)

    def _is_due(self, job: SwitchJob) -> bool:
        return job.failures == 0 or job.idle is None or job.idle >= self._settings.wait_after(job.failures)

    async def _step(self, job: SwitchJob) -> None:
        try:
            if job.step == "compare":
                await self._compare(job)
            else:
                await self._swap(job)
        except psycopg.Error as exc:
            if is_passing(exc):
                raise
            await self._failed(job, exc)

    async def _compare(self, job: SwitchJob) -> None:
        overlap = await self._store.compare_switch(job)
        await self._store.switch_tried(job, None)
        told = (
            "nothing to compare"
            if overlap is None
            else f"the models agree on {overlap:.0%} of the ten nearest"
        )
        event(
            log,
            logging.INFO,
            "switch_compared",
            f"the switch of {job.name}: {told}",
            vectorizer=job.name,
            overlap=overlap,
        )

    async def _swap(self, job: SwitchJob) -> None:
        started = time.monotonic()
        await self._store.swap_switch(job, SWAP_SECONDS)
        seconds = time.monotonic() - started
        event(
            log,
            logging.INFO,
            "switch_done",
            f"{job.name} has its new vectors",
            vectorizer=job.name,
            seconds=seconds,
        )

    async def _failed(self, job: SwitchJob, error: psycopg.Error) -> None:
        if error.sqlstate == LOCKED:  # somebody is at the table: not for ever, and nobody's fault
            log.debug("the switch of %s: %s", job.name, error)
            return
        told = error.diag.message_primary or str(error)
        event(
            log,
            logging.WARNING,
            "switch_failed",
            f"the switch of {job.name}: {told}",
            vectorizer=job.name,
            error=told,
        )
        await self._store.switch_tried(job, told)
