"""The client of programs that wait for each answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import httpx
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from pg_embed import db
from pg_embed.client.local import Local, Loop
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
from pg_embed.search import Asked, ChunkHit, Hit, Options, Search, Table, give

T = TypeVar("T")
Connection = psycopg.Connection[Any]
Database = str | Connection | ConnectionPool[Any]


@dataclass
class Opened:
    """What a client has opened."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    connection: Connection | None = None
    http: httpx.Client | None = None
    loop: Loop | None = None
    local: Local = field(default_factory=Local)


class Client:
    """Embeds texts and searches tables; may be used by several threads, and by processes that fork later.

        with Client("postgresql://localhost/shop") as client:
            hits = client.search("docs", "how do I get my money back?", k=5)

    `database` is a DSN (one connection, opened when it is needed and again when it was lost), a connection of
    psycopg, whose transactions stay the caller's, or a pool. Texts are embedded by way of the database's
    transport; with `sidecar` by that address's HTTP door, which a `token` opens; with `in_process` by models
    that this process loads, those of the database's catalog or, without a database, `models`. `timeout` is in
    seconds for each question to a model, by default the database's (elsewhere 30). Searches go by the same
    way: with `sidecar` or `in_process` the database needs no transport, and one that it has is not used; only
    a model that reranks is asked by the database all the same.
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
    def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Literal["dense"] = "dense",
    ) -> Float32: ...

    @overload
    def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Literal["sparse"],
    ) -> SparseVectors: ...

    @overload
    def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Literal["multi"],
    ) -> TokenVectors: ...

    def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        kind: Kind = "query",
        *,
        output: Output = "dense",
    ) -> Vectors:
        """The vectors of texts, in their order: float32 of shape (texts, dimensions), or `SparseVectors`.

        Without a model, by the one that the database's vectorizers use. `kind` is "document" for texts as a
        vectorizer would store them.
        """
        asked = question(texts, model, kind, output)
        if self._way.sidecar is not None:
            return self._by_sidecar(self._way.sidecar, asked)
        if self._way.in_process:
            return self._in_process(asked, self._found(asked))
        vectors: list[str] = []
        with self.connection() as connection, _limited(connection, self._way.timeout):
            for parameters in asked.batches():
                vectors += [row[0] for row in _rows(connection, "vectors", parameters)]
        return read(vectors, output)

    def search(self, table: Table, query: str, **options: Unpack[Options]) -> list[Hit]:
        """The rows of a table that answer a query best; the options are those of `pg_embed.search.Search`.

        The query is embedded by the client's way: in this process, by its sidecar, or else by the database.
        """
        search = Search(table, query, **options)
        return self._searched(search, query, search.run)

    def search_chunks(
        self, table: Table, query: str, *, per_row: int = 1, **options: Unpack[Options]
    ) -> list[ChunkHit]:
        """What `search` finds by chunks, each row with the chunk that answers best, or `per_row` of them."""
        search = Search(table, query, **options)
        return self._searched(search, query, partial(search.run_chunks, per_row=per_row))

    def similar(self, table: Table, key: Any, **options: Unpack[Options]) -> list[Hit]:
        """The rows of a table that are most like one of it; no model is asked."""
        search = Search(table, key=key, **options)
        with self.connection() as connection:
            return search.run(connection)

    def status(self, table: Table | None = None) -> list[Status]:
        """How far the vectorizers are, of one table or of all."""
        parameters = {"table": None if table is None else table_text(table)}
        with self.connection() as connection:
            return [Status(*row) for row in _rows(connection, "status", parameters)]

    def wait(self, table: Table, timeout: float = 60.0) -> None:
        """Until every committed row of a table is embedded, or listed in embed.failures.

        Raises `WaitTimeout` after so many seconds, with what holds the rows up. Other threads may use the
        client meanwhile.
        """
        with self._aside() as connection:
            _rows(connection, "wait", {"table": table_text(table), "timeout": timeout})

    def vectorize(
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
        """Embed the rows of a table from now on, first those that exist; returns the vectorizer's name.

        The arguments are those of embed.create_vectorizer; `column` is its column_name. On a connection of
        the caller's it holds once they commit.
        """
        told = {name: value for name, value in locals().items() if name not in ("self", "table", "columns")}
        parameters = vectorizing(table, columns, told)
        with self.connection() as connection:
            return str(_rows(connection, "create_vectorizer", parameters)[0][0])

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection to the database, for statements of one's own; what it raises is ours."""
        if self._database is None:
            raise no_database()
        with db.translated():
            if isinstance(self._database, ConnectionPool):
                with self._database.connection() as connection:
                    yield connection
                return
            with self._opened().lock:
                yield self._connected(self._database) if isinstance(self._database, str) else self._database

    def close(self) -> None:
        """Let go of what the client has opened, not of what it was given."""
        opened = self._opened()
        with opened.lock:
            if opened.connection is not None:
                opened.connection.close()
                opened.connection = None
            if opened.http is not None:
                opened.http.close()
                opened.http = None
            if opened.loop is not None:
                opened.loop.run(opened.local.close())
                opened.loop.close()
                opened.loop = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _aside(self) -> Iterator[Connection]:
        """A connection for what takes long: where there is but one of the client's own, another."""
        if isinstance(self._database, str):
            with db.connect(self._database) as connection, db.translated():
                yield connection
            return
        with self.connection() as connection:
            yield connection

    def _searched(self, search: Search, query: str, run: Callable[[Connection], T]) -> T:
        """Run a search that has its query's vectors, or that asks the database for them."""
        if not self._way.is_own:
            with self.connection() as connection, _limited(connection, self._way.timeout):
                return run(connection)
        asks = self._asks(search)
        while True:
            # no transaction of ours waits for a model
            given = [answered(asked, query, self._answer(asked, query)) for asked in asks]
            try:
                with (
                    self.connection() as connection,
                    _limited(connection, self._way.timeout),
                    connection.transaction(),
                ):
                    give(connection, given)
                    return run(connection)
            except TransportMissing:
                before, asks = asks, self._asks(search)
                if asks == before:
                    raise  # and else the models were switched meanwhile

    def _asks(self, search: Search) -> list[Asked]:
        with self.connection() as connection:
            return search.asks(connection)

    def _answer(self, asked: Asked, query: str) -> Vectors:
        wanted = Question([query], asked.spec.name, "query", asked.output)
        if self._way.sidecar is not None and not weightless(asked.spec):
            return self._by_sidecar(self._way.sidecar, wanted)
        return self._in_process(wanted, Found(asked.spec, asked.space_id))

    def _by_sidecar(self, sidecar: Sidecar, asked: Question) -> Float32:
        opened = self._opened()
        with opened.lock:
            http = opened.http = opened.http or httpx.Client(**sidecar.settings)
        with sidecar.translated():
            bodies = sidecar.bodies(asked)
            return joined(
                [sidecar.vectors(http.post(PATH, json=body), len(body["input"])) for body in bodies]
            )

    def _in_process(self, asked: Question, found: Found) -> Vectors:
        opened = self._opened()
        with opened.lock:
            loop = opened.loop = opened.loop or Loop()
        return loop.run(opened.local.embed(found, asked, self._way.seconds))

    def _found(self, asked: Question) -> Found:
        if self._database is None:
            return Found(find(asked.model, self._way.models))
        with self.connection() as connection:
            parameters = {"model": asked.model, "output": asked.output}
            ((*spec, space_id),) = _rows(connection, "model", parameters)
        return Found(ModelSpec(*spec), space_id)

    def _connected(self, dsn: str) -> Connection:
        opened = self._opened()
        if opened.connection is None or db.is_lost(opened.connection):
            opened.connection = db.connect(dsn)
        return opened.connection


def _checked(database: Any) -> Database | None:
    if isinstance(database, str):
        return db.checked(database)
    if database is None or isinstance(database, psycopg.Connection | ConnectionPool):
        return cast("Database | None", database)
    raise InvalidArgument(
        f"a Client takes no {type(database).__name__}",
        hint="give a DSN, a psycopg.Connection or a ConnectionPool; AsyncClient takes asynchronous ones",
    )


def _rows(connection: Connection, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(SQL[name], parameters).fetchall()


@contextmanager
def _limited(connection: Connection, timeout: float | None) -> Iterator[None]:
    """Let models take so long in a block, and leave a transaction of the caller's as it was."""
    if timeout is None:
        yield
        return
    inside = connection.info.transaction_status != TransactionStatus.IDLE
    with connection.transaction():
        ((before, _),) = _rows(connection, "limit_time", {"timeout": f"{timeout:g}"})
        yield
        if inside:
            _rows(connection, "limit_time", {"timeout": before})
