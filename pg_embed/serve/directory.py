"""Which model a name means, for the HTTP door: those of a database's catalog, or a fixed list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Protocol

import psycopg

from pg_embed import db, statements
from pg_embed.errors import AmbiguousModel, DatabaseError, PgEmbedError, UnknownModel
from pg_embed.records import ModelSpec

CATALOG_LIFETIME = 5.0  # seconds that a read catalog is believed, or that it cannot be read
CONNECT_TIMEOUT = 10  # seconds
READ_TIMEOUT = 15.0  # seconds, connecting included


class ModelDirectory(Protocol):
    """Finds models by name."""

    async def find(self, name: str) -> ModelSpec:
        """The model of that name, or `UnknownModel`."""

    async def default(self) -> ModelSpec:
        """The model that is meant where none is named, or `AmbiguousModel`."""

    async def reranker(self) -> ModelSpec:
        """The only model that scores texts for a query, or `AmbiguousModel`."""


class StaticDirectory:
    """A fixed list of models, of which `rerankers` score texts; the only one of a kind is its default."""

    def __init__(
        self, models: Sequence[ModelSpec], default: str | None = None, rerankers: Collection[str] = ()
    ) -> None:
        self._models = {model.name: model for model in models}
        self._rerankers = [name for name in self._models if name in rerankers]
        self._embedders = [name for name in self._models if name not in rerankers]
        self._default = default or _only(self._embedders)

    async def find(self, name: str) -> ModelSpec:
        """The model of that name."""
        if name not in self._models:
            raise UnknownModel(f"there is no model {name!r}", hint=f"there are: {_listed(self._models)}")
        return self._models[name]

    async def default(self) -> ModelSpec:
        """The model that is meant where none is named."""
        if self._default is None:
            raise AmbiguousModel(
                'the request must name a "model"', hint=f"there are: {_listed(self._embedders)}"
            )
        return await self.find(self._default)

    async def reranker(self) -> ModelSpec:
        """The only reranker."""
        only = _only(self._rerankers)
        if only is None:
            raise AmbiguousModel(
                'the request must name a "model" that reranks', hint=f"there are: {_listed(self._rerankers)}"
            )
        return await self.find(only)


class CatalogDirectory:
    """The models of a database, read again after a few seconds and whenever a name is new.

    While the database does not answer, what was read before is believed.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._query = statements.load("serve")["models"]
        self._known: StaticDirectory | None = None
        self._failure: PgEmbedError | None = None  # of the last reading
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def find(self, name: str) -> ModelSpec:
        """The model of that name."""
        with suppress(UnknownModel):
            return await (await self._fresh(CATALOG_LIFETIME)).find(name)
        found = await self._fresh(0.0)
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        return await found.find(name)

    async def default(self) -> ModelSpec:
        """The database's default model, or its only one."""
        return await (await self._fresh(CATALOG_LIFETIME)).default()

    async def reranker(self) -> ModelSpec:
        """The database's only reranker."""
        return await (await self._fresh(CATALOG_LIFETIME)).reranker()

    async def _fresh(self, lifetime: float) -> StaticDirectory:
        wanted = time.monotonic() - lifetime
        async with self._reading:
            if self._read_at < wanted:
                started, self._failure = time.monotonic(), None
                try:
                    async with asyncio.timeout(READ_TIMEOUT):
                        self._known = await self._read()
                except PgEmbedError as exc:
                    self._failure = exc
                except TimeoutError:
                    self._failure = DatabaseError("the models of the database could not be read in time")
                self._read_at = started
            if self._known is None:
                raise (self._failure or DatabaseError()).with_traceback(None)
            return self._known

    async def _read(self) -> StaticDirectory:
        with db.translated():
            connection = await psycopg.AsyncConnection.connect(
                db.checked(self._dsn),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT,
                **db.KEEPALIVE,  # type: ignore[arg-type]
                application_name="pg_embed http",
            )
            async with connection:
                rows = await (await connection.execute(self._query)).fetchall()
        models = [ModelSpec(name, family, options) for name, family, options, _, _ in rows]
        default = next((name for name, _, _, is_default, _ in rows if is_default), None)
        return StaticDirectory(models, default, [name for name, *_, reranks in rows if reranks])


def _only(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
