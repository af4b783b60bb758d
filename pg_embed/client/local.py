"""Models in this process, for clients that ask no sidecar."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from pg_embed.client.requests import Found, Question, Vectors, picked, read
from pg_embed.engine import Engine
from pg_embed.models.registry import default_registry
from pg_embed.records import Priority

T = TypeVar("T")


class Local:
    """An engine, made at the first question; it lives on the event loop of its callers."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    async def embed(self, found: Found, asked: Question, timeout: float) -> Vectors:
        """Vectors of the texts; the first question loads the model, for which it may take its time."""
        if not asked.texts:
            return read([], asked.output)
        if self._engine is None:
            self._engine = Engine(default_registry())
        found.check(await self._engine.card(found.spec))
        priority = Priority.QUERY if asked.kind == "query" else Priority.LIVE
        outputs = frozenset([asked.output])
        made = await self._engine.embed(found.spec, asked.texts, asked.kind, priority, timeout, outputs)
        return picked(made, asked.output)

    async def close(self) -> None:
        """Let go of the models."""
        if self._engine is not None:
            await self._engine.close()
            self._engine = None


class Loop:
    """An event loop in a thread of its own, for callers that have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pg_embed-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns; it is cancelled when the caller is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
