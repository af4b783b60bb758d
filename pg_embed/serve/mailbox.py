"""The mailbox door: requests are rows of `embed._mailbox`, in a database that cannot reach out by itself."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pg_embed import db, log, statements
from pg_embed.serve import doors
from pg_embed.serve.frames import Answer

POLL_INTERVAL = 5.0  # seconds of silence after which one looks for requests whose notification was missed
HEAR_TIME = 30.0  # seconds of steady notifications after which one looks nevertheless
SWEEP_INTERVAL = 30.0  # seconds between deletions of old requests
LIFETIME = 3600.0  # seconds after which nobody waits for an answer: the longest timeout of a request
CONNECT_TIMEOUT = 10  # seconds
FIRST_BACKOFF = 0.2  # seconds, doubled up to
LAST_BACKOFF = 10.0  # seconds
MAX_WANTED = 10_000  # ids that wait to be taken; what is beyond is found by looking
BATCH = 64  # requests taken, and answers written, in one statement

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")  # anybody may notify, of anything

Connection = psycopg.AsyncConnection[Any]
logger = log.logger("serve")


class MailboxDoor:
    """Connects to the database as an ordinary client; several sidecars may serve one mailbox.

    One connection listens, and holds the lock that tells of our presence; the other takes requests and writes
    answers, as many as there are at a time.
    """

    def __init__(self, answer: Answer, dsn: str, *, max_requests: int) -> None:
        self.address = f"mailbox of {_spell(db.checked(dsn))}"
        self._answer = answer
        self._dsn = dsn
        self._sql = statements.load("serve")
        self._in_hand = doors.InHand(max_requests)
        self._closing = asyncio.Event()
        self._taken: set[UUID] = set()
        self._wanted: list[UUID] = []
        self._answers: list[tuple[UUID, str]] = []
        self._something_to_do = asyncio.Event()
        self._all_written = asyncio.Event()
        self._backoff = FIRST_BACKOFF  # of the clerk
        self._listener: asyncio.Task[None] | None = None
        self._clerk: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Attend the mailbox; a database lost later is waited for, one that is absent now is an error."""
        attending = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(attending))
        waiter = asyncio.create_task(attending.wait())
        await asyncio.wait({self._listener, waiter}, return_when=asyncio.FIRST_COMPLETED)
        await doors.stop(waiter)
        if self._listener.done():
            with db.translated():
                self._listener.result()
        self._clerk = asyncio.create_task(self._serve())

    async def close(self, grace: float) -> None:
        """Take no new requests; finish and write the answers in hand, and only then leave the mailbox."""
        self._closing.set()
        self._wanted.clear()
        self._something_to_do.set()
        await self._in_hand.drain(grace)
        if self._clerk is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_written.wait(), timeout=max(grace, FIRST_BACKOFF))
        await doors.stop(self._clerk)
        await self._in_hand.drain(0.0)
        await doors.stop(self._listener)

    async def _listen(self, attending: asyncio.Event) -> None:
        backoff = FIRST_BACKOFF
        while True:
            try:
                async with self._connect() as connection:
                    await connection.execute(self._sql["check_generation"], {"generation": db.GENERATION})
                    await connection.execute(self._sql["mailbox_listen"])
                    await connection.execute(self._sql["mailbox_attend"])
                    attending.set()
                    backoff = FIRST_BACKOFF
                    await self._attend(connection)
            except psycopg.Error as exc:
                if not attending.is_set():
                    raise
                await self._rest("the mailbox was lost", exc, backoff)
            backoff = min(backoff * 2, LAST_BACKOFF)

    async def _attend(self, connection: Connection) -> None:
        clock = asyncio.get_running_loop().time
        swept = float("-inf")
        while True:
            if clock() - swept >= SWEEP_INTERVAL:
                await connection.execute(self._sql["mailbox_sweep"], {"older_than": LIFETIME})
                swept = clock()
            rows = await connection.execute(self._sql["mailbox_waiting"], {"most": BATCH})
            self._want([row[0] async for row in rows])
            until = clock() + HEAR_TIME
            while clock() < until:
                notices = [n.payload async for n in connection.notifies(timeout=POLL_INTERVAL, stop_after=1)]
                if not notices:
                    break
                self._want([UUID(payload) for payload in notices if _ID.match(payload)])

    def _want(self, ids: list[UUID]) -> None:
        if ids and not self._closing.is_set() and len(self._wanted) < MAX_WANTED:
            self._wanted.extend(ids)
            self._something_to_do.set()

    async def _serve(self) -> None:
        """The clerk's work: until the door closes and all answers are written."""
        while not self._all_written.is_set():
            try:
                async with self._connect() as connection:
                    await self._serve_with(connection)
            except psycopg.Error as exc:
                await self._rest("answers cannot be written", exc, self._backoff)
                self._backoff = min(self._backoff * 2, LAST_BACKOFF)

    async def _rest(self, what: str, error: psycopg.Error, seconds: float) -> None:
        """Tell of a lost connection, and wait before the next: not all at the same time."""
        delay = seconds * random.uniform(0.8, 1.2)
        log.event(
            logger,
            logging.WARNING,
            "door_failed",
            f"{what}: {error}; again in {delay:.1f} s",
            door="mailbox",
            error=str(error),
            retry_in=delay,
        )
        await asyncio.sleep(delay)

    async def _serve_with(self, connection: Connection) -> None:
        while True:
            answers, wanted = self._answers[:BATCH], self._wanted[:BATCH]
            if answers or wanted:
                await self._exchange(connection, answers, wanted)
            elif self._closing.is_set() and not self._taken:
                self._all_written.set()
                return
            else:
                self._something_to_do.clear()
                await self._something_to_do.wait()

    async def _exchange(
        self, connection: Connection, answers: list[tuple[UUID, str]], wanted: list[UUID]
    ) -> None:
        some = {
            "answered": [request_id for request_id, _ in answers],
            "answers": [answer for _, answer in answers],
            "wanted": [request_id for request_id in wanted if request_id not in self._taken],
        }
        rows = await (await connection.execute(self._sql["mailbox_serve"], some)).fetchall()
        self._backoff = FIRST_BACKOFF
        del self._answers[: len(answers)], self._wanted[: len(wanted)]
        for request_id, request in rows:
            self._taken.add(request_id)
            await self._in_hand.start(self._work(request_id, request))

    async def _work(self, request_id: UUID, request: str) -> None:
        try:
            answer = await self._answer(request.encode())
            self._answers.append((request_id, answer.decode()))
        finally:
            self._taken.discard(request_id)
            self._something_to_do.set()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="pg_embed mailbox",
            **db.KEEPALIVE,  # type: ignore[arg-type]
        )
        async with connection:
            await connection.execute(self._sql["mailbox_settings"])
            yield connection


def _spell(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    return f"{parts.get('dbname', '')} on {parts.get('host', 'localhost')}"
