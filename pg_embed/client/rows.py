"""Documents as rows of a table: a text, an id, and what else is known, in columns and in one of jsonb."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from pg_embed import statements
from pg_embed.client.asynchronous import AsyncClient
from pg_embed.client.client import Client
from pg_embed.client.requests import table_text
from pg_embed.errors import InvalidArgument
from pg_embed.search import ChunkHit, Hit, Table, identifier

SQL = statements.load("rows")
GROUPS = ("and", "or")
Filter = Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """A row. Without an id it is a new one.

    Of a chunk in a row's place `of` tells the row's id, by the name of its column, chunk_no and context.
    """

    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    of: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """Where the parts of a document stand in a table, which a vectorizer reads.

    `columns` are those that hold values of the metadata by their own names; all others go to the column
    `metadata`, of jsonb, or there are none if it is None.
    """

    table: Table
    id: str = "id"
    content: str = "content"
    metadata: str | None = "metadata"
    columns: tuple[str, ...] = ()

    @property
    def read(self) -> list[str]:
        """The columns that a document is made of."""
        return [self.id, self.content, *([self.metadata] if self.metadata else []), *self.columns]

    def document(self, row: Mapping[str, Any]) -> Document:
        """The document of a row; a column that is NULL is not told."""
        told = {name: row[name] for name in self.columns if row[name] is not None}
        return Document(
            row.get(self.content) or "",
            {**((row[self.metadata] if self.metadata else None) or {}), **told},
            str(row[self.id]),
        )

    def piece(self, hit: ChunkHit) -> Document:
        """The document of a chunk, whose id is told by its row's and its number."""
        row = self.document(hit.row)
        of = {self.id: hit.row[self.id], "chunk_no": hit.chunk_no, "context": hit.context}
        return replace(row, content=hit.chunk, id=f"{row.id}/{hit.chunk_no}", of=of)

    def values(self, document: Document) -> dict[str, Any]:
        """The values of a document by column, but for its id."""
        others = {key: value for key, value in document.metadata.items() if key not in self.columns}
        if others and self.metadata is None:
            raise self._no_place(min(others))
        told = {
            self.content: document.content,
            **{name: document.metadata.get(name) for name in self.columns},
        }
        return told if self.metadata is None else {**told, self.metadata: Jsonb(others)}

    def filter(self, told: Filter | None) -> dict[str, Any] | None:
        """A filter of metadata as one of embed.search: what has no column of its own is looked for in jsonb.

        There a value is compared for equality alone ("=", "<>", "in", "not_in", "contains"); "<>" also holds
        where the key is missing.
        """
        if told is None:
            return None
        parts = [self._part(key, value) for key, value in told.items()]
        return parts[0] if len(parts) == 1 else {"and": parts} if parts else {}

    def _part(self, key: str, value: Any) -> dict[str, Any]:
        if key in GROUPS:
            return {key: [self.filter(part) for part in value]}
        if key == "not":
            return {"not": self.filter(value)}
        if key in (self.id, self.content, self.metadata, *self.columns):
            return {key: value}
        terms = value if isinstance(value, Mapping) else {"in" if isinstance(value, list) else "=": value}
        parts = [self._term(key, operator, given) for operator, given in terms.items()]
        return parts[0] if len(parts) == 1 else {"and": parts}

    def _term(self, key: str, operator: str, value: Any) -> dict[str, Any]:
        if self.metadata is None:
            raise self._no_place(key)
        if operator in ("in", "not_in"):
            found: dict[str, Any] = (
                {"or": [self._has(key, one) for one in value]} if value else {self.id: {"in": []}}
            )
        elif operator in ("=", "<>", "!="):
            found = self._has(key, value)
        elif operator == "contains":
            found = self._has(key, value if isinstance(value, list) else [value])
        else:
            hint = f"give {key!r} a column of its own and name it in the columns of the metadata"
            raise InvalidArgument(f"{operator!r} does not work within the metadata in jsonb", hint=hint)
        return {"not": found} if operator in ("not_in", "<>", "!=") else found

    def _has(self, key: str, value: Any) -> dict[str, Any]:
        return {str(self.metadata): {"contains": {key: value}}}

    def _no_place(self, key: str) -> InvalidArgument:
        names = ", ".join(self.columns) or "none"
        return InvalidArgument(
            f"there is no column for {key!r} of the metadata",
            hint=f"name a column of jsonb, or one for it; there are: {names}",
        )


class Rows:
    """The documents of a table, by a client; asynchronous calls by an asynchronous one, or else in threads.

    With `chunks` a search gives so many of the best chunks of each row in its place.
    """

    def __init__(
        self,
        client: Client,
        layout: Layout,
        async_client: AsyncClient | None = None,
        chunks: int | None = None,
    ) -> None:
        self.client = client
        self.layout = layout
        self._async_client = async_client
        self._chunks = chunks
        self._gives_ids: bool | None = None

    def put(self, documents: Sequence[Document]) -> list[str]:
        """Write documents, in place of those that have their ids; returns the ids."""
        with self.client.connection() as connection, connection.transaction(), _cursor(connection) as cursor:
            if self._gives_ids is None:
                self._gives_ids = _gives(cursor.execute(*self._asked_ids()).fetchone(), self.layout)
            ids = []
            for statement, values in self._puts(documents, self._gives_ids):
                cursor.execute(statement, values)
                ids += [row[0] for row in cursor.fetchall()]
        return ids

    async def put_async(self, documents: Sequence[Document]) -> list[str]:
        """The same, asynchronously."""
        if self._async_client is None:
            return await asyncio.to_thread(self.put, documents)
        async with (
            self._async_client.connection() as connection,
            connection.transaction(),
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            if self._gives_ids is None:
                await cursor.execute(*self._asked_ids())
                self._gives_ids = _gives(await cursor.fetchone(), self.layout)
            ids = []
            for statement, values in self._puts(documents, self._gives_ids):
                await cursor.execute(statement, values)
                ids += [row[0] for row in await cursor.fetchall()]
        return ids

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Documents by their ids, in that order; those that are not there are left out."""
        with self.client.connection() as connection, _cursor(connection) as cursor:
            return self._found(ids, cursor.execute(*self._getting(ids)).fetchall())

    async def get_async(self, ids: Sequence[str]) -> list[Document]:
        """The same, asynchronously."""
        if self._async_client is None:
            return await asyncio.to_thread(self.get, ids)
        async with (
            self._async_client.connection() as connection,
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(*self._getting(ids))
            return self._found(ids, await cursor.fetchall())

    def delete(self, ids: Sequence[str] | None = None, *, like: tuple[str, Any] | None = None) -> None:
        """Delete rows by ids, by a key and its value in their metadata, or with neither all of them."""
        with self.client.connection() as connection, connection.transaction():
            connection.execute(*self._deleting(ids, like))

    async def delete_async(
        self, ids: Sequence[str] | None = None, *, like: tuple[str, Any] | None = None
    ) -> None:
        """The same, asynchronously."""
        if self._async_client is None:
            await asyncio.to_thread(self.delete, ids, like=like)
            return
        async with self._async_client.connection() as connection, connection.transaction():
            await connection.execute(*self._deleting(ids, like))

    def search(self, query: str, **options: Any) -> list[tuple[Document, float]]:
        """Documents that answer a query best, with their scores; the filter is one of the metadata."""
        table, told = self.layout.table, self._options(options)
        if self._chunks is None:
            return self._hits(self.client.search(table, query, **told))
        return self._pieces(self.client.search_chunks(table, query, per_row=self._chunks, **told))

    async def search_async(self, query: str, **options: Any) -> list[tuple[Document, float]]:
        """The same, asynchronously."""
        if self._async_client is None:
            return await asyncio.to_thread(self.search, query, **options)
        table, told = self.layout.table, self._options(options)
        if self._chunks is None:
            return self._hits(await self._async_client.search(table, query, **told))
        return self._pieces(
            await self._async_client.search_chunks(table, query, per_row=self._chunks, **told)
        )

    def wait(self, timeout: float | None) -> None:
        """Until the worker has embedded what is committed; None: do not."""
        if timeout is not None:
            self.client.wait(self.layout.table, timeout)

    async def wait_async(self, timeout: float | None) -> None:
        """The same, asynchronously."""
        if self._async_client is None:
            await asyncio.to_thread(self.wait, timeout)
        elif timeout is not None:
            await self._async_client.wait(self.layout.table, timeout)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        read = self.layout.read
        if self._chunks is not None:
            read.remove(self.layout.content)  # which is long
        return {**options, "filter": self.layout.filter(options.get("filter")), "columns": read}

    def _hits(self, hits: Iterable[Hit]) -> list[tuple[Document, float]]:
        return [(self.layout.document(hit.row), hit.score) for hit in hits]

    def _pieces(self, hits: Iterable[ChunkHit]) -> list[tuple[Document, float]]:
        return [(self.layout.piece(hit), hit.score) for hit in hits]

    def _asked_ids(self) -> tuple[Any, dict[str, str]]:
        return SQL["gives_ids"], {"table": table_text(self.layout.table), "id": self.layout.id}

    def _puts(
        self, documents: Iterable[Document], gives_ids: bool
    ) -> Iterable[tuple[sql.Composed, list[Any]]]:
        for document in documents:
            given = document
            if given.id is None and not gives_ids:
                given = replace(given, id=str(uuid.uuid4()))
            told = self.layout.values(given)
            others = list(told)
            if given.id is not None:
                told = {self.layout.id: given.id, **told}
            yield (
                self._statement(
                    "put_new" if given.id is None else "put",
                    columns=_names(told),
                    values=sql.SQL(", ").join([sql.Placeholder()] * len(told)),
                    others=_names(others),
                    excluded=_names(others, lambda name: sql.Identifier("excluded", name)),
                ),
                list(told.values()),
            )

    def _getting(self, ids: Sequence[str]) -> tuple[sql.Composed, dict[str, Any]]:
        return self._statement("get", columns=_names(self.layout.read)), {"ids": _array(ids)}

    def _deleting(
        self, ids: Sequence[str] | None, like: tuple[str, Any] | None
    ) -> tuple[sql.Composed, dict[str, Any]]:
        if ids is not None:
            return self._statement("delete"), {"ids": _array(ids)}
        if like is None:
            return self._statement("delete_all"), {}
        key, value = like
        if key in self.layout.columns:
            return self._statement("delete_by", column=sql.Identifier(key)), {"value": value}
        if self.layout.metadata is None:
            raise InvalidArgument("the table has no column of metadata", hint="delete rows by their ids")
        metadata = sql.Identifier(self.layout.metadata)
        return self._statement("delete_like", metadata=metadata), {"like": Jsonb({key: value})}

    def _statement(self, name: str, **parts: sql.Composable) -> sql.Composed:
        own = {"table": identifier(self.layout.table), "id": sql.Identifier(self.layout.id)}
        return sql.SQL(SQL[name]).format(**own, **parts)

    def _found(self, ids: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[Document]:
        documents = [self.layout.document(dict(zip(self.layout.read, row, strict=True))) for row in rows]
        by_id = {document.id: document for document in documents}
        return [by_id[wanted] for wanted in ids if wanted in by_id]


def _cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    return connection.cursor(row_factory=tuple_row)


def _gives(row: tuple[Any, ...] | None, layout: Layout) -> bool:
    if row is None:
        raise InvalidArgument(
            f"the table has no column {layout.id}", hint="name the column of its key as id_column"
        )
    return bool(row[0])


def _names(names: Iterable[str], spell: Callable[[str], sql.Composable] = sql.Identifier) -> sql.Composed:
    return sql.SQL(", ").join(spell(name) for name in names)


def _array(ids: Iterable[str]) -> str:
    """An array in text form, whose type is that of the column it is compared with."""
    quoted = (str(one).replace("\\", "\\\\").replace('"', '\\"') for one in ids)
    return "{" + ",".join(f'"{one}"' for one in quoted) + "}"
