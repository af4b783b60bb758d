"""Limits that all workers and sidecars of a database share: each call is reserved there before it is sent.

A model without limits costs nothing: which models have some is read every few seconds, and when told to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pg_embed import statements
from pg_embed.db import APPLICATION_NAME, CONNECT_TIMEOUT, KEEPALIVE, checked
from pg_embed.errors import ModelUnavailable, PgEmbedError
from pg_embed.jobs import sessions
from pg_embed.jobs.usage import Ledger
from pg_embed.log import event, logger
from pg_embed.records import Allowance, CallLimit, ModelSpec, Priority, Remaining, Reservation

SQL = statements.load("limits")
POOL_TIMEOUT = 3.0  # seconds that a call waits for a connection at most; then it goes without asking
POLL = 5.0  # seconds for which what was read is believed, unless somebody tells of a change
PATIENCE = 10.0  # seconds that a query waits for its turn; beyond, it is told at once
BULK_PATIENCE = 600.0  # seconds; beyond, the rows wait in the queue
CALLS_PER_MINUTE = 50  # a call should take no more than such a share of a minute's texts and tokens
LITTLE = 0.02  # the share of a limit below which little is left of it
HOLD = 1.2  # seconds in which about so much comes back
UNTOLD_WAIT = 2.0  # seconds to hold off when a provider says "too many calls" and not for how long
SMOOTHING = 0.2  # how fast the ratio of used to estimated tokens follows
FEWEST_SHARE, MOST_SHARE = 0.1, 3.0  # between which that ratio is believed
SESSION = {"statement_timeout": "10s", "synchronous_commit": "off", "jit": "off"}

log = logger("limits")


@dataclass(frozen=True)
class Limit:
    """A model's row."""

    model: int
    name: str
    requests: int | None
    inputs: int | None
    tokens: int | None

    @property
    def call(self) -> CallLimit:
        """Calls small enough that the clocks run evenly, and large enough for the calls that are allowed."""
        return CallLimit(self._share(self.inputs), self._share(self.tokens))

    def _share(self, per_minute: int | None) -> int | None:
        if per_minute is None:
            return None
        return max(1, per_minute // min(self.requests or CALLS_PER_MINUTE, CALLS_PER_MINUTE))


class Limits:
    """A throttle for an engine; open while the engine works."""

    def __init__(self, dsn: str) -> None:
        self._dsn = checked(dsn)
        self._limits: dict[str, Limit] = {}  # by the key of the spec
        self._shares: dict[int, float] = {}  # of the estimated tokens that a model really uses
        self._pool: AsyncConnectionPool[Any] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._stale = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._is_well = True
        self.ledger = Ledger()  # of what is used without a worker

    async def open(self) -> None:
        """Read the limits, and go on reading them; a database that is away is asked again."""
        self._pool = AsyncConnectionPool[Any](
            self._dsn,
            kwargs={
                **KEEPALIVE,
                "autocommit": True,
                "connect_timeout": CONNECT_TIMEOUT,
                "application_name": f"{APPLICATION_NAME} limits",
            },
            configure=partial(sessions.set_up, settings=SESSION),
            check=AsyncConnectionPool.check_connection,  # a call that cannot ask goes without
            min_size=0,
            max_size=2,
            timeout=POOL_TIMEOUT,
            open=False,
        )
        await self._pool.open()
        self.ledger.pool = self._pool
        await self._read()
        self._reading = asyncio.create_task(self._keep_reading(), name="limits")

    async def close(self) -> None:
        """Tell what is still to be told, and disconnect."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.gather(*self._telling, return_exceptions=True)
        if self._pool is not None:
            await self.ledger.tell()
            await self._pool.close(timeout=5.0)
            self._pool = self.ledger.pool = None

    def refresh(self) -> None:
        """The catalog has changed."""
        self._stale.set()

    def limit(self, spec: ModelSpec) -> CallLimit | None:
        """What a call should have at most; None where nothing needs to be reserved."""
        if not self._limits:
            return None
        found = self._limits.get(spec.key)
        return None if found is None else found.call

    async def reserve(self, spec: ModelSpec, items: int, tokens: int, priority: Priority) -> Reservation:
        """A call's turn; at once while the database cannot be asked."""
        found = self._limits.get(spec.key)
        if found is None:
            return Reservation(0.0, tokens, tokens)
        expected = ceil(tokens * self._shares.get(found.model, 1.0))
        is_query = priority is Priority.QUERY
        patience = PATIENCE if is_query else BULK_PATIENCE
        parameters = {
            "model": found.model,
            "inputs": items,
            "tokens": expected,
            "query": is_query,
            "patience": patience,
        }
        rows = await self._ask("reserve", parameters)
        seconds = float(rows[0][0]) if rows else 0.0
        if seconds > patience:
            raise ModelUnavailable(
                f"the limits of model {found.name!r} are used up for {seconds:.0f} seconds",
                hint="see embed.limits",
                retry_after=seconds,
            )
        return Reservation(seconds, tokens, expected)

    def settle(
        self,
        spec: ModelSpec,
        reservation: Reservation | None,
        used: int | None,
        allowance: Allowance | None,
        error: PgEmbedError | None,
    ) -> None:
        """Correct the clocks after a call, and hold everybody off where the provider wants that."""
        found = self._limits.get(spec.key)
        if isinstance(error, ModelUnavailable) and error.limited:
            self._tell(self._hold(spec.name if found is None else found.name, error.retry_after))
        if found is None or reservation is None:
            return
        reserved = reservation.reserved
        if used is None:
            used = reserved
        elif reservation.estimated:
            self._learn(found, used / reservation.estimated)
        hold = None if allowance is None else _hold(found, allowance)
        if hold or (found.tokens is not None and used != reserved):
            told = {"model": found.model, "reserved": reserved, "used": used, "hold": hold}
            self._tell(self._settle(told))

    def _learn(self, limit: Limit, share: float) -> None:
        known = self._shares.get(limit.model, 1.0)
        share = min(max(share, FEWEST_SHARE), MOST_SHARE)
        self._shares[limit.model] = known + SMOOTHING * (share - known)

    def _tell(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(telling)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _hold(self, name: str, retry_after: float | None) -> None:
        wait = UNTOLD_WAIT if retry_after is None else retry_after
        text = f"{name} had too many calls; the next one in {wait:.1f} s"
        event(log, logging.WARNING, "limit_exceeded", text, model=name, retry_in=wait)
        await self._ask("hold", {"name": name, "wait": wait})
        self.refresh()

    async def _settle(self, told: dict[str, Any]) -> None:
        await self._ask("settle", told)

    async def _keep_reading(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stale.wait(), POLL)
            self._stale.clear()
            await self._read()
            await self.ledger.tell()

    async def _read(self) -> None:
        rows = await self._ask("limits", {})
        if rows is None:
            return
        found: dict[str, Limit] = {}
        for model, name, family, options, requests, inputs, tokens in rows:
            key = ModelSpec(name, family, options).key
            found.setdefault(key, Limit(model, name, requests, inputs, tokens))
        self._limits = found

    async def _ask(self, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]] | None:
        """The rows; None, and one line in the log, while the database does not answer."""
        if self._pool is None:
            return None
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(SQL[statement], parameters)
                rows: list[tuple[Any, ...]] = await cursor.fetchall()
        except (psycopg.Error, PoolTimeout) as exc:
            if self._is_well:
                text = f"limits are not kept: {exc}"
                event(log, logging.WARNING, "limits_unavailable", text, error=str(exc))
            self._is_well = False
            return None
        self._is_well = True
        return rows


def _hold(limit: Limit, allowance: Allowance) -> float | None:
    """Seconds to hold off, when the provider says that little is left: others use the account, too."""
    holds = [
        _wait(allowance.requests, limit.requests),
        _wait(allowance.tokens, limit.tokens),
    ]
    return max((hold for hold in holds if hold is not None), default=None)


def _wait(remaining: Remaining | None, per_minute: int | None) -> float | None:
    if remaining is None:
        return None
    whole = remaining.limit or per_minute
    if not whole or remaining.left >= max(1.0, LITTLE * whole):
        return None
    return HOLD if remaining.reset is None else min(HOLD, remaining.reset)
