"""A search as a statement, and its answers: what `embed.search` gives in SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, cast

import psycopg
from psycopg import sql
from psycopg.errors import UndefinedObject
from psycopg.rows import scalar_row, tuple_row
from psycopg.types.json import Jsonb

from pg_embed import db, statements
from pg_embed.errors import DatabaseError, InvalidArgument
from pg_embed.search.giving import Asked, read_asked
from pg_embed.search.tables import Table, identifier

Mode = Literal["hybrid", "dense", "sparse"]
Fusion = Literal["convex", "rrf", "dbsf"]
Parameters = dict[str, Any]
SCORES = 6  # columns of the statement that come after those of the row
CHUNK = 5  # the same where it gives chunks
DUMPS = partial(json.dumps, default=str)


@dataclass(frozen=True)
class Hit:
    """A row by its columns' names, and how it came here; a rank is None outside of that leg's candidates."""

    row: dict[str, Any]
    score: float
    dense_rank: int | None = None
    dense_score: float | None = None
    sparse_rank: int | None = None
    sparse_score: float | None = None
    rerank_score: float | None = None


@dataclass(frozen=True)
class ChunkHit:
    """A row, one of the chunks of its text that answer a query best, and how well both do.

    `context` is what stands above the chunk, such as the path of its headings.
    """

    row: dict[str, Any]
    chunk_no: int
    chunk: str
    context: str
    score: float
    chunk_score: float | None


@dataclass(frozen=True)
class Search:
    """A search, ready to run on any connection.

    `query` is a text; with `key` in its place the rows like that one are found, a tuple for a key of several
    columns. `filter` is embed.search's JSON, for values from anybody: dates and the like are written as
    texts. `where` is a condition in SQL over the table's columns, put together with psycopg.sql; it runs
    with the rights of the connection. `boost`, JSON or likewise a number in SQL, is added to the score of
    each candidate. `diversity`, from 0 to 1, keeps rows apart that are alike, and `skip` leaves so many of
    the first rows out. `columns` are those to read, by default all.
    """

    table: Table
    query: str | None = None
    k: int = 10
    mode: Mode | None = None
    filter: Mapping[str, Any] | None = None
    where: sql.Composable | None = None
    fusion: Fusion = "convex"
    weights: tuple[float, float] | None = None
    candidates: int = 100
    rerank: str | None = None
    min_score: float | None = None
    vectorizer: str | None = None
    columns: Sequence[str] | None = None
    key: Any = None
    diversity: float | None = None
    boost: Mapping[str, Any] | sql.Composable | None = None
    skip: int = 0

    def statement(self) -> sql.Composed:
        """The statement, for those who run it themselves with `parameters`."""
        table = identifier(self.table)
        return sql.SQL(statements.load("search")["search"]).format(table=table, columns=self._columns())

    def parameters(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Parameters:
        """The statement's parameters; a condition and a boost are quoted as the connection quotes."""
        self._check()
        in_json = not isinstance(self.boost, sql.Composable | None)
        return {
            "query": self.query,
            "k": self.k,
            "mode": self.mode,
            "filter": None if self.filter is None else Jsonb(self.filter, dumps=DUMPS),
            "fusion": self.fusion,
            "weights": None if self.weights is None else [float(weight) for weight in self.weights],
            "candidates": self.candidates,
            "rerank": self.rerank,
            "min_score": self.min_score,
            "vectorizer": self.vectorizer,
            "condition": None if self.where is None else _condition(self.where, connection),
            "key": None if self.key is None else _key(self.key),
            "diversity": self.diversity,
            "boost": Jsonb(self.boost, dumps=DUMPS) if in_json else None,
            "boosting": self.boost.as_string(connection) if isinstance(self.boost, sql.Composable) else None,
            "skip": self.skip,
        }

    def run(self, connection: psycopg.Connection[Any]) -> list[Hit]:
        """The best rows first."""
        statement, parameters = self.statement(), self.parameters(connection)
        with self._translated(), connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(statement, parameters)
            return _hits(cursor.description or [], cursor.fetchall())

    async def run_async(self, connection: psycopg.AsyncConnection[Any]) -> list[Hit]:
        """The same over an asynchronous connection."""
        statement, parameters = self.statement(), self.parameters(connection)
        with self._translated():
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(statement, parameters)
                return _hits(cursor.description or [], await cursor.fetchall())

    def run_chunks(self, connection: psycopg.Connection[Any], *, per_row: int = 1) -> list[ChunkHit]:
        """The best rows first, each with its best chunk, or `per_row` of them; `k` counts rows."""
        statement, parameters = self._chunks(connection, per_row)
        with self._translated(), connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(statement, parameters)
            return _chunk_hits(cursor.description or [], cursor.fetchall())

    async def run_chunks_async(
        self, connection: psycopg.AsyncConnection[Any], *, per_row: int = 1
    ) -> list[ChunkHit]:
        """The same over an asynchronous connection."""
        statement, parameters = self._chunks(connection, per_row)
        with self._translated():
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(statement, parameters)
                return _chunk_hits(cursor.description or [], await cursor.fetchall())

    def asks(self, connection: psycopg.Connection[Any]) -> list[Asked]:
        """What this asks of models for its query, for those who `give` the vectors."""
        statement, parameters = self._asking()
        with self._translated(), connection.cursor(row_factory=tuple_row) as cursor:
            return read_asked(cursor.execute(statement, parameters).fetchall())

    async def asks_async(self, connection: psycopg.AsyncConnection[Any]) -> list[Asked]:
        """The same over an asynchronous connection."""
        statement, parameters = self._asking()
        with self._translated():
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(statement, parameters)
                return read_asked(await cursor.fetchall())

    def explain(self, connection: psycopg.Connection[Any], *, run: bool = False) -> dict[str, Any]:
        """What `embed.explain_search` tells: which legs, by index or not and why, and Postgres' plan.

        No model is asked, unless `run`: then the search is run, and the plan tells what it took.
        """
        statement, parameters = self._explanation(connection, run)
        with self._translated(), connection.cursor(row_factory=scalar_row) as cursor:
            return cast(dict[str, Any], cursor.execute(statement, parameters).fetchone())

    async def explain_async(
        self, connection: psycopg.AsyncConnection[Any], *, run: bool = False
    ) -> dict[str, Any]:
        """The same over an asynchronous connection."""
        statement, parameters = self._explanation(connection, run)
        with self._translated():
            async with connection.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(statement, parameters)
                return cast(dict[str, Any], await cursor.fetchone())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """As `db.translated`; a table that is not there is told by more than a type that is not."""
        try:
            with db.translated():
                yield
        except DatabaseError as exc:
            name, cause = identifier(self.table).as_string(), exc.__cause__
            if isinstance(cause, UndefinedObject) and name.replace('"."', ".") in str(cause):
                hint = 'is its schema on the search_path? write shop.docs, or shop."My Docs"'
                raise InvalidArgument(f"there is no table {name}", hint=hint) from cause
            raise

    def _chunks(
        self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], per_row: int
    ) -> tuple[sql.Composed, Parameters]:
        if self.key is not None:
            hint = 'search_chunks(connection, "docs", "money back"); for rows like a row use similar'
            raise InvalidArgument("chunks are found by a query, not by a key", hint=hint)
        statement = sql.SQL(statements.load("search")["search_chunks"])
        told = {name: value for name, value in self.parameters(connection).items() if name != "key"}
        return (
            statement.format(table=identifier(self.table), columns=self._columns()),
            {**told, "per_row": per_row},
        )

    def _asking(self) -> tuple[sql.Composed, Parameters]:
        self._check()
        statement = sql.SQL(statements.load("search")["asks"]).format(table=identifier(self.table))
        return statement, {"mode": self.mode, "rerank": self.rerank, "vectorizer": self.vectorizer}

    def _explanation(
        self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], run: bool
    ) -> tuple[sql.Composed, Parameters]:
        statement = sql.SQL(statements.load("search")["explain"]).format(table=identifier(self.table))
        return statement, {**self.parameters(connection), "run": run}

    def _check(self) -> None:
        if (self.query is None) == (self.key is None):
            hint = 'Search("docs", "money back"), or Search("docs", key=42) for rows like that one'
            raise InvalidArgument("a search is for a query or by a key", hint=hint)
        if self.key is not None and self.rerank is not None:
            hint = "leave rerank out"
            raise InvalidArgument("rows like a row are not reranked: there is no query", hint=hint)

    def _columns(self) -> sql.Composable:
        if self.columns is None:
            return sql.SQL("(s.hit).*")
        if isinstance(self.columns, str) or not self.columns:
            raise InvalidArgument("no columns are named", hint='give a list: columns=["id", "title"]')
        return sql.SQL(", ").join(sql.SQL("(s.hit).{}").format(sql.Identifier(name)) for name in self.columns)


class Options(TypedDict, total=False):
    """What a `Search` is told besides what it looks for."""

    k: int
    mode: Mode | None
    filter: Mapping[str, Any] | None
    where: sql.Composable | None
    fusion: Fusion
    weights: tuple[float, float] | None
    candidates: int
    rerank: str | None
    min_score: float | None
    vectorizer: str | None
    columns: Sequence[str] | None
    diversity: float | None
    boost: Mapping[str, Any] | sql.Composable | None
    skip: int


def _condition(where: Any, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> str:
    if not isinstance(where, sql.Composable):
        hint = 'write psycopg.sql.SQL("year > {}").format(2020), or use filter={"year": {">": 2020}}'
        raise InvalidArgument("a condition is put together with psycopg.sql, not a text", hint=hint)
    return where.as_string(connection)


def search(
    connection: psycopg.Connection[Any], table: Table, query: str, **options: Unpack[Options]
) -> list[Hit]:
    """The rows of a table that answer a query best; the options are those of `Search`."""
    return Search(table, query, **options).run(connection)


async def search_async(
    connection: psycopg.AsyncConnection[Any], table: Table, query: str, **options: Unpack[Options]
) -> list[Hit]:
    """The same over an asynchronous connection."""
    return await Search(table, query, **options).run_async(connection)


def search_chunks(
    connection: psycopg.Connection[Any],
    table: Table,
    query: str,
    *,
    per_row: int = 1,
    **options: Unpack[Options],
) -> list[ChunkHit]:
    """What `search` finds by chunks, each row with the chunk that answers best, or `per_row` of them."""
    return Search(table, query, **options).run_chunks(connection, per_row=per_row)


async def search_chunks_async(
    connection: psycopg.AsyncConnection[Any],
    table: Table,
    query: str,
    *,
    per_row: int = 1,
    **options: Unpack[Options],
) -> list[ChunkHit]:
    """The same over an asynchronous connection."""
    return await Search(table, query, **options).run_chunks_async(connection, per_row=per_row)


def similar(
    connection: psycopg.Connection[Any], table: Table, key: Any, **options: Unpack[Options]
) -> list[Hit]:
    """The rows of a table that are most like one of it, by the vectors that it has; no model is asked.

    The options are those of `Search`, but a reranker.
    """
    return Search(table, key=key, **options).run(connection)


async def similar_async(
    connection: psycopg.AsyncConnection[Any], table: Table, key: Any, **options: Unpack[Options]
) -> list[Hit]:
    """The same over an asynchronous connection."""
    return await Search(table, key=key, **options).run_async(connection)


def _key(key: Any) -> str:
    """As embed.failures shows a key: of several columns a JSON array of texts."""
    return json.dumps([str(part) for part in key]) if isinstance(key, tuple | list) else str(key)


def _hits(description: Sequence[Any], rows: Sequence[tuple[Any, ...]]) -> list[Hit]:
    names = [column.name for column in description[:-SCORES]]
    return [Hit(dict(zip(names, row, strict=False)), *row[-SCORES:]) for row in rows]


def _chunk_hits(description: Sequence[Any], rows: Sequence[tuple[Any, ...]]) -> list[ChunkHit]:
    names = [column.name for column in description[:-CHUNK]]
    return [ChunkHit(dict(zip(names, row, strict=False)), *row[-CHUNK:]) for row in rows]
