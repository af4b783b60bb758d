"""A worker's look at the whole queue, for metrics, and the changes of state that it finds, for the log."""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg
from psycopg_pool import PoolTimeout

from pg_embed.jobs import Figures, Store, VectorizerFigures
from pg_embed.log import event, logger
from pg_embed.worker.observer import Observer

MOST_OF_TIME = 0.01  # that looking may take: a long queue is looked at less often
QUIET = ("active", "paused")  # states that somebody chose

log = logger("worker")


class Watch:
    """Looks now and then, and soon after the catalog has changed; one for all sessions of a worker."""

    def __init__(self, observer: Observer, every: float) -> None:
        self._observer = observer
        self._every = every  # seconds
        self._next = 0.0  # monotonic
        self._states: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def catalog_changed(self) -> None:
        """Look at the next call, for a state may have changed."""
        self._next = 0.0

    def call(self, store: Store) -> None:
        """Look, if it is time to."""
        if time.monotonic() >= self._next and (self._task is None or self._task.done()):
            self._next = time.monotonic() + self._every
            self._task = asyncio.create_task(self._look(store), name="figures")

    async def stop(self) -> None:
        """The connections go; what was known grows old."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._next = 0.0
        self._observer.figures(None)

    async def _look(self, store: Store) -> None:
        started = time.monotonic()
        try:
            found = await store.figures()
        except (psycopg.Error, PoolTimeout) as exc:
            log.debug("figures: %s", exc)
            return
        took = time.monotonic() - started
        if self._next:  # the catalog has not changed meanwhile
            self._next = started + max(self._every, took / MOST_OF_TIME)
        self._observer.connections(*store.connections())
        self._observer.figures(found)
        self._tell(found)

    def _tell(self, found: Figures) -> None:
        for vectorizer in found.vectorizers:
            was = self._states.get(vectorizer.name, "active")  # one that is new here is told of if it stands
            if vectorizer.state != was:
                _tell(vectorizer, was)
        self._states = {vectorizer.name: vectorizer.state for vectorizer in found.vectorizers}


def _tell(vectorizer: VectorizerFigures, was: str) -> None:
    because = f": {vectorizer.reason}" if vectorizer.reason else ""
    event(
        log,
        logging.INFO if vectorizer.state in QUIET else logging.WARNING,
        "vectorizer_state",
        f"{vectorizer.name} is {vectorizer.state}, and was {was}{because}",
        vectorizer=vectorizer.name,
        state=vectorizer.state,
        was=was,
        reason=vectorizer.reason,
    )
