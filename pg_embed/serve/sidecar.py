"""The sidecar: all doors, opened together and closed together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from pg_embed import log
from pg_embed.errors import InvalidArgument
from pg_embed.jobs.usage import Ledger
from pg_embed.serve.directory import CatalogDirectory, ModelDirectory, StaticDirectory
from pg_embed.serve.doors import Door
from pg_embed.serve.frames import tcp_door, unix_door
from pg_embed.serve.http import Application, HttpDoor
from pg_embed.serve.mailbox import MailboxDoor
from pg_embed.serve.metering import MeteredEngine
from pg_embed.serve.metrics import Metrics
from pg_embed.serve.requests import Engine, answer
from pg_embed.serve.settings import ServeSettings, read_token
from pg_embed.serve.spool import SpoolDoor

logger = log.logger("serve")


def make_doors(
    engine: Engine,
    settings: ServeSettings,
    metrics: Metrics,
    directory: ModelDirectory,
    is_ready: Callable[[], bool],
) -> list[Door]:
    """The doors that the settings give an address to."""
    handler = partial(answer, engine)
    doors: list[Door] = []
    if settings.socket is not None:
        doors.append(
            unix_door(
                metrics.watch("unix", handler),
                settings.socket,
                mode=settings.socket_mode,
                max_connections=settings.max_connections,
            )
        )
    if settings.tcp_port is not None:
        doors.append(
            tcp_door(
                metrics.watch("tcp", handler),
                settings.tcp_host,
                settings.tcp_port,
                token=read_token(settings.tcp_token, settings.tcp_token_file),
                max_connections=settings.max_connections,
            )
        )
    if settings.spool is not None:
        watched = metrics.watch("spool", handler)
        doors.append(SpoolDoor(watched, settings.spool, max_requests=settings.max_requests))
    if settings.mailbox_dsn is not None:
        watched = metrics.watch("mailbox", handler)
        doors.append(MailboxDoor(watched, settings.mailbox_dsn, max_requests=settings.max_requests))
    if settings.http_port is not None:
        application = Application(
            engine,
            directory,
            metrics,
            token=read_token(settings.http_token, settings.http_token_file),
            timeout=settings.http_timeout,
            is_ready=is_ready,
        )
        doors.append(
            HttpDoor(
                application, settings.http_host, settings.http_port, max_connections=settings.max_connections
            )
        )
    return doors


class Sidecar:
    """Doors to one engine. The engine belongs to the caller, who closes it after the sidecar."""

    def __init__(
        self,
        engine: Engine,
        settings: ServeSettings,
        *,
        metrics: Metrics | None = None,
        directory: ModelDirectory | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.is_open = False
        self.is_warm = True  # not while models are loaded that are sure to be asked for
        self.metrics = metrics or Metrics()
        self._grace = settings.grace
        self._doors = make_doors(
            engine if ledger is None else MeteredEngine(engine, ledger),
            settings,
            self.metrics,
            directory or _directory(settings),
            lambda: self.is_ready,
        )

    @property
    def is_ready(self) -> bool:
        """Whether its doors are open, and nobody would wait for the models that are loaded at the start."""
        return self.is_open and self.is_warm

    @property
    def addresses(self) -> Sequence[str]:
        """Where the doors are."""
        return [door.address for door in self._doors]

    async def start(self) -> None:
        """Open all doors; if one cannot be opened, none stays open."""
        if not self._doors:
            raise InvalidArgument("the sidecar has no door", hint="give it a socket, spool, port or mailbox")
        try:
            for door in self._doors:
                await door.open()
                kind = type(door).__name__.removesuffix("Door").lower()
                log.event(
                    logger,
                    logging.INFO,
                    "door_opened",
                    f"open: {door.address}",
                    door=kind,
                    address=door.address,
                )
        except BaseException:
            await self._close(0.0)
            raise
        self.is_open = True

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Close all doors; requests in hand are finished within the grace time, or until `hurry` is set."""
        self.is_open = False
        closing = asyncio.create_task(self._close(self._grace))
        hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
        await asyncio.wait({closing, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not closing.done():
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            await self._close(0.0)

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set; `hurry` ends the grace time."""
        await self.start()
        try:
            await stop.wait()
        finally:
            await self.stop(hurry)

    async def _close(self, grace: float) -> None:
        results = await asyncio.gather(*(door.close(grace) for door in self._doors), return_exceptions=True)
        for door, result in zip(self._doors, results, strict=True):
            if isinstance(result, Exception):
                logger.error("closing %s failed: %s", door.address, result, extra={"event": "door_failed"})


def _directory(settings: ServeSettings) -> ModelDirectory:
    return CatalogDirectory(settings.mailbox_dsn) if settings.mailbox_dsn else StaticDirectory([])
