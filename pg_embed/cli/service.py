"""The engine, doors and worker loops of one process, from start to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import start_http_server

from pg_embed.config import Settings
from pg_embed.engine import Engine
from pg_embed.errors import InvalidArgument, PgEmbedError
from pg_embed.jobs import sessions
from pg_embed.jobs.limits import Limits
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from pg_embed.serve.directory import ModelDirectory
from pg_embed.serve.metrics import Metrics
from pg_embed.serve.settings import ServeSettings
from pg_embed.serve.work_metrics import WorkMetrics
from pg_embed.worker import Worker

if TYPE_CHECKING:
    from pg_embed.serve.sidecar import Sidecar


@dataclass(frozen=True)
class Plan:
    """What shall run; what is None does not."""

    settings: Settings
    doors: ServeSettings | None = None
    worker_dsn: str | None = field(default=None, repr=False)  # it may have a password
    directory: ModelDirectory | None = None
    warm: Sequence[ModelSpec] = ()  # models to load before they are asked for
    wait_for_models: bool = False  # before telling that all is ready
    limits_dsn: str | None = field(
        default=None, repr=False
    )  # the database whose limits are kept where there is no worker

    @property
    def session_dsns(self) -> set[str]:
        """Databases in which something listens, or holds a lock or a setting."""
        mailbox = None if self.doors is None else self.doors.mailbox_dsn
        return {dsn for dsn in (self.worker_dsn, self.limits_dsn, mailbox) if dsn is not None}


class Service:
    """Runs a plan on one event loop."""

    def __init__(self, plan: Plan) -> None:
        metrics = self._metrics = Metrics()
        dsn = plan.worker_dsn or plan.limits_dsn
        self._limits = None if dsn is None else Limits(dsn)
        self.engine = Engine(default_registry(), plan.settings.engine, metrics, self._limits)
        self._sidecar: Sidecar | None = None
        self._plan = plan
        self._worker: Worker | None = None
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        if plan.doors is not None:
            from pg_embed.serve.sidecar import Sidecar  # an HTTP server, which a worker alone does not need

            self._sidecar = Sidecar(
                self.engine,
                plan.doors,
                metrics=metrics,
                directory=plan.directory,
                ledger=None if self._limits is None else self._limits.ledger,
            )
        if plan.worker_dsn is not None:
            watched = WorkMetrics(metrics.registry)
            self._worker = Worker(plan.worker_dsn, self.engine, plan.settings.worker, self._limits, watched)

    @property
    def addresses(self) -> Sequence[str]:
        """Where the doors are."""
        return self._sidecar.addresses if self._sidecar is not None else []

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.is_set()

    def stop(self, *, at_once: bool = False) -> None:
        """Finish what is in hand within the grace time, and end; or leave its rows to the next worker."""
        self._stop.set()
        if at_once:
            self._hurry.set()
            if self._worker is not None:
                self._worker.abort()

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """The metrics on a port of their own, where there is one."""
        settings = self._plan.settings.worker
        if self._worker is None or settings.metrics_port is None:
            yield
            return
        try:
            server, thread = start_http_server(
                settings.metrics_port, settings.metrics_host, self._metrics.registry
            )
        except OSError as exc:
            raise InvalidArgument(
                f"metrics cannot be shown on port {settings.metrics_port}: {exc.strerror}",
                hint="choose another by PG_EMBED_WORKER_METRICS_PORT",
            ) from exc
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    async def run(self, ready: Callable[[Service], None]) -> None:
        """Run until stopped, or until the worker fails; `ready` is called once all is up."""
        with self._shown():
            await self._run(ready)

    async def _run(self, ready: Callable[[Service], None]) -> None:
        for dsn in self._plan.session_dsns:
            await sessions.require(dsn)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._stop.wait())]
        try:
            if self._limits is not None:
                await self._limits.open()
            if self._sidecar is not None:
                self._sidecar.is_warm = not self._plan.warm
                await self._sidecar.start()
            if self._worker is not None:
                tasks.append(asyncio.create_task(self._worker.run()))
            warming = asyncio.create_task(self._warm_all(), name="warm")
            starting = asyncio.create_task(self._started(warming))
            await asyncio.wait([*tasks, starting], return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and not self.stopping:
                ready(self)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for leftover in (starting, warming):
                leftover.cancel()
            await asyncio.gather(starting, warming, return_exceptions=True)
        finally:
            await self._end(tasks)

    async def _started(self, warming: asyncio.Future[None]) -> None:
        if self._worker is not None:
            await self._worker.ready()
        if self._plan.wait_for_models:
            await asyncio.shield(warming)

    async def _warm_all(self) -> None:
        await asyncio.gather(*(self._warm(spec) for spec in self._plan.warm))
        if self._sidecar is not None:
            self._sidecar.is_warm = True

    async def _warm(self, spec: ModelSpec) -> None:
        with suppress(PgEmbedError):  # whoever asks for it will be told
            await self.engine.card(spec)

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        self.stop()
        if self._worker is not None:
            self._worker.stop()
        if self._sidecar is not None:
            tasks.append(asyncio.create_task(self._sidecar.stop(self._hurry)))
        _, late = await asyncio.wait(tasks, timeout=self._plan.settings.serve.grace)
        if late:
            self.stop(at_once=True)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if not self._hurry.is_set():  # a model may be loading or computing for long
            await self.engine.close()
        if self._limits is not None:
            await self._limits.close()
        for result in results:
            if isinstance(result, BaseException):
                raise result
