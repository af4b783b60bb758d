"""The client of programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import httpx
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from pg_embed import db
from pg_embed.client.local import Local
from pg_embed.client.processes import PerProcess
from pg_embed.client.requests import (
    SQL,
    Found,
    Question,
    Status,
    Vectors,
    answered,
    find,
    question,
    read,
    table_text,
    vectorizing,
    weightless,
)
from pg_embed.client.settings import no_database, way
from pg_embed.client.sidecar import PATH, Sidecar, joined
from pg_embed.errors import InvalidArgument, TransportMissing
from pg_embed.records import Float32, Kind, ModelSpec, Output, SparseVectors, TokenVectors
from pg_embed.search import Asked, ChunkHit, Hit, Options, Search, Table, give_async

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]
Database = str | Connection | AsyncConnectionPool[Any]


@dataclass
class Opened:
    """What a client has opened."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: Connection | None = None
    http: httpx.AsyncClient | None = None
    local: Local = field(default_factory=Local)


class AsyncClient:
    """`Client` for one event loop, over asynchronous connections and pools; its calls may run at once.

    async with AsyncClient("postgresql://localhost/shop") as client:
        hits = await client.search("docs", "how do I get my money back?", k=5)
    """

    def __init__(
        self,
        database: Database | None = None,
        *,
        sidecar: str | None = None,
        token: str | None = None,
        in_process: bool = False,
        models: Sequence[ModelSpec] = (),
        timeout: float | None = None,
    ) -> None:
        self._database = _checked(database)
        self._way = way(database is not None, sidecar, token, in_process, models, timeout)
        self._opened = PerProcess(Opened)

    @overload
    async def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Literal["dense"] = "dense",
    ) -> Float32: ...

    @overload
    async def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Literal["sparse"],
    ) -> SparseVectors: ...

    @overload
    async def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Literal["multi"],
    ) -> TokenVectors: ...

    async def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Output = "dense",
    ) -> Vectors:
        """See `Client.embed`."""
        asked = question(texts, model, kind, output)
        if self._way.sidecar is not None:
            return await self._by_sidecar(self._way.sidecar, asked)
        if self._way.in_process:
            return await self._opened().local.embed(await self._found(asked), asked, self._way.seconds)
        vectors: list[str] = []
        async with self.connection() as connection, _limited(connection, self._way.timeout):
            for parameters in asked.batches():
                vectors += [row[0] for row in await _rows(connection, "vectors", parameters)]
        return read(vectors, output)

    async def search(self, table: Table, query: str, **options: Unpack[Options]) -> list[Hit]:
        """See `Client.search`."""
        search = Search(table, query, **options)
        return await self._searched(search, query, search.run_async)

    async def search_chunks(
        self, table: Table, query: str, *, per_row: int = 1, **options: Unpack[Options]
    ) -> list[ChunkHit]:
        """See `Client.search_chunks`."""
        search = Search(table, query, **options)
        return await self._searched(search, query, partial(search.run_chunks_async, per_row=per_row))

    async def similar(self, table: Table, key: Any, **options: Unpack[Options]) -> list[Hit]:
        """See `Client.similar`."""
        search = Search(table, key=key, **options)
        async with self.connection() as connection:
            return await search.run_async(connection)

    async def status(self, table: Table | None = None) -> list[Status]:
        """See `Client.status`."""
        parameters = {"table": None if table is None else table_text(table)}
        async with self.connection() as connection:
            return [Status(*row) for row in await _rows(connection, "status", parameters)]

    async def wait(self, table: Table, timeout: float = 60.0) -> None:
        """See `Client.wait`."""
        async with self._aside() as connection:
            await _rows(connection, "wait", {"table": table_text(table), "timeout": timeout})

    async def vectorize(
        self,
        table: Table,
        *columns: str,
        template: str | None = None,
        model: str | None = None,
        filter: str | None = None,
        column: str | None = "embedding",
        column_type: str | None = None,
        sparse: str | None = None,
        sparse_column: str | None = None,
        multi_column: str | None = None,
        name: str | None = None,
        backfill: bool = True,
        if_not_exists: bool = False,
        index: str = "none",
        storage: str = "column",
        chunking: Mapping[str, Any] | None = None,
        chunk_table: str | None = None,
        chunk_view: str | None = None,
    ) -> str:
        """See `Client.vectorize`."""
        told = {name: value for name, value in locals().items() if name not in ("self", "table", "columns")}
        parameters = vectorizing(table, columns, told)
        async with self.connection() as connection:
            return str((await _rows(connection, "create_vectorizer", parameters))[0][0])

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """See `Client.connection`."""
        if self._database is None:
            raise no_database()
        with db.translated():
            if isinstance(self._database, AsyncConnectionPool):
                async with self._database.connection() as connection:
                    yield connection
                return
            async with self._opened().lock:
                given = self._database
                yield await self._connected(given) if isinstance(given, str) else given

    async def close(self) -> None:
        """Let go of what the client has opened, not of what it was given."""
        opened = self._opened()
        async with opened.lock:
            if opened.connection is not None:
                await opened.connection.close()
                opened.connection = None
            if opened.http is not None:
                await opened.http.aclose()
                opened.http = None
            await opened.local.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[Connection]:
        """A connection for what takes long: where there is but one of the client's own, another."""
        if isinstance(self._database, str):
            with db.translated():
                async with await _connect(self._database) as connection:
                    yield connection
            return
        async with self.connection() as connection:
            yield connection

    async def _searched(self, search: Search, query: str, run: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a search that has its query's vectors, or that asks the database for them."""
        if not self._way.is_own:
            async with self.connection() as connection, _limited(connection, self._way.timeout):
                return await run(connection)
        asks = await self._asks(search)
        while True:
            # no transaction of ours waits for a model
            given = [answered(asked, query, await self._answer(asked, query)) for asked in asks]
            try:
                async with (
                    self.connection() as connection,
                    _limited(connection, self._way.timeout),
                    connection.transaction(),
                ):
                    await give_async(connection, given)
                    return await run(connection)
            except TransportMissing:
                before, asks = asks, await self._asks(search)
                if asks == before:
                    raise  # and else the models were switched meanwhile

    async def _asks(self, search: Search) -> list[Asked]:
        async with self.connection() as connection:
            return await search.asks_async(connection)

    async def _answer(self, asked: Asked, query: str) -> Vectors:
        wanted = Question([query], asked.spec.name, "query", asked.output)
        if self._way.sidecar is not None and not weightless(asked.spec):
            return await self._by_sidecar(self._way.sidecar, wanted)
        found = Found(asked.spec, asked.space_id)
        return await self._opened().local.embed(found, wanted, self._way.seconds)

    async def _by_sidecar(self, sidecar: Sidecar, asked: Question) -> Float32:
        opened = self._opened()
        http = opened.http = opened.http or httpx.AsyncClient(**sidecar.settings)
        parts = []
        with sidecar.translated():
            for body in sidecar.bodies(asked):
                response = await http.post(PATH, json=body)
                parts.append(sidecar.vectors(response, len(body["input"])))
        return joined(parts)

    async def _found(self, asked: Question) -> Found:
        if self._database is None:
            return Found(find(asked.model, self._way.models))
        async with self.connection() as connection:
            parameters = {"model": asked.model, "output": asked.output}
            ((*spec, space_id),) = await _rows(connection, "model", parameters)
        return Found(ModelSpec(*spec), space_id)

    async def _connected(self, dsn: str) -> Connection:
        opened = self._opened()
        if opened.connection is None or db.is_lost(opened.connection):
            opened.connection = await _connect(dsn)
        return opened.connection


async def _connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(
        dsn,
        autocommit=True,
        connect_timeout=db.CONNECT_TIMEOUT,
        application_name=db.APPLICATION_NAME,
        prepare_threshold=None,
    )


def _checked(database: Any) -> Database | None:
    if isinstance(database, str):
        return db.checked(database)
    if database is None or isinstance(database, psycopg.AsyncConnection | AsyncConnectionPool):
        return cast("Database | None", database)
    raise InvalidArgument(
        f"an AsyncClient takes no {type(database).__name__}",
        hint="give a DSN, a psycopg.AsyncConnection or a psycopg_pool.AsyncConnectionPool",
    )


async def _rows(connection: Connection, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(SQL[name], parameters)
        return await cursor.fetchall()


@asynccontextmanager
async def _limited(connection: Connection, timeout: float | None) -> AsyncIterator[None]:
    if timeout is None:
        yield
        return
    inside = connection.info.transaction_status != TransactionStatus.IDLE
    async with connection.transaction():
        ((before, _),) = await _rows(connection, "limit_time", {"timeout": f"{timeout:g}"})
        yield
        if inside:
            await _rows(connection, "limit_time", {"timeout": before})
