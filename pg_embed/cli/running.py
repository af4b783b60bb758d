"""Running a service: in the foreground until a signal comes, or in a thread behind a command."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial

import uvloop

from pg_embed.cli.output import say
from pg_embed.cli.service import Plan, Service
from pg_embed.errors import SidecarTimeout
from pg_embed.records import Card, ModelSpec

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_TIMEOUT = 60.0  # seconds, for doors and a worker
STOP_TIMEOUT = 60.0  # seconds


def run_until_stopped(
    plan: Plan, ready: Callable[[Service], None], at_once: Callable[[], None] = lambda: None
) -> None:
    """Run a plan until a signal comes. A second one calls `at_once` and ends the process."""

    async def main() -> None:
        service = Service(plan)

        def stop() -> None:
            if service.stopping:
                at_once()
                os._exit(1)
            say("stopping; a second signal ends it at once")
            service.stop()

        for number in SIGNALS:
            # nohup lets it be ignored, so that the process outlives the terminal
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, stop)
        await service.run(ready)

    uvloop.run(main())


class Background:
    """A service in a thread of its own, for a command that has more to do than serve."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._up: Future[tuple[asyncio.AbstractEventLoop, Service]] = Future()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pg_embed-service", daemon=True)

    def start(self) -> None:
        """Come back when all is up."""
        self._thread.start()
        try:
            self._up.result(START_TIMEOUT)
        except TimeoutError as exc:
            raise SidecarTimeout(f"the sidecar did not start within {START_TIMEOUT:g} s") from exc

    def card(self, spec: ModelSpec, timeout: float) -> Card:
        """Load a model."""
        loop, service = self._up.result(0)
        return asyncio.run_coroutine_threadsafe(service.engine.card(spec, timeout), loop).result()

    def check(self) -> None:
        """Raise what ended the service, if it has ended."""
        if self._error is not None:
            raise self._error

    def stop(self, *, at_once: bool) -> None:
        """Stop, gracefully or at once."""
        if not self._thread.is_alive():
            return
        loop, service = self._up.result(START_TIMEOUT)
        with suppress(RuntimeError):  # it has just ended
            loop.call_soon_threadsafe(partial(service.stop, at_once=at_once))
        self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        async def main() -> None:
            pair = asyncio.get_running_loop(), Service(self._plan)
            await pair[1].run(lambda _: self._up.set_result(pair))

        try:
            uvloop.run(main())
        except BaseException as exc:
            self._error = exc
            if not self._up.done():
                self._up.set_exception(exc)


@contextmanager
def in_background(plan: Plan) -> Iterator[Background]:
    """A running service for a block; whoever leaves by an error or Ctrl-C does not wait for rows in hand."""
    background = Background(plan)
    try:
        background.start()
        yield background
    except BaseException:
        background.stop(at_once=True)
        raise
    background.stop(at_once=False)
