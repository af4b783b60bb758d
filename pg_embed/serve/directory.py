"""Which model a name means, for the HTTP door: those of a database's catalog, or a fixed list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

import psycopg

from pg_embed import db, statements
from pg_embed.errors import AmbiguousModel, UnknownModel
from pg_embed.records import ModelSpec

CATALOG_LIFETIME = 5.0  # seconds that a read catalog is believed
CONNECT_TIMEOUT = 10  # seconds


class ModelDirectory(Protocol):
    """Finds models by name."""

    async def find(self, name: str) -> ModelSpec:
        """The model of that name, or `UnknownModel`."""

    async def default(self) -> ModelSpec:
        """The model that is meant where none is named, or `AmbiguousModel`."""


class StaticDirectory:
    """A fixed list of models; the only one, or the one named, is the default."""

    def __init__(self, models: Sequence[ModelSpec], default: str | None = None) -> None:
        self._models = {model.name: model for model in models}
        self._default = default if default or len(models) != 1 else models[0].name

    async def find(self, name: str) -> ModelSpec:
        """The model of that name."""
        if name not in self._models:
            raise UnknownModel(f"there is no model {name!r}", hint=f"there are: {self._names()}")
        return self._models[name]

    async def default(self) -> ModelSpec:
        """The model that is meant where none is named."""
        if self._default is None:
            raise AmbiguousModel('the request must name a "model"', hint=f"there are: {self._names()}")
        return await self.find(self._default)

    def _names(self) -> str:
        return ", ".join(sorted(self._models)) or "none"


class CatalogDirectory:
    """The models of a database, read again after a few seconds and whenever a name is new."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._query = statements.load("serve")["models"]
        self._known = StaticDirectory([])
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def find(self, name: str) -> ModelSpec:
        """The model of that name."""
        try:
            return await (await self._fresh(CATALOG_LIFETIME)).find(name)
        except UnknownModel:
            return await (await self._fresh(0.0)).find(name)

    async def default(self) -> ModelSpec:
        """The database's default model, or its only one."""
        return await (await self._fresh(CATALOG_LIFETIME)).default()

    async def _fresh(self, lifetime: float) -> StaticDirectory:
        wanted = time.monotonic() - lifetime
        async with self._reading:
            if self._read_at < wanted:
                started = time.monotonic()
                self._known = await self._read()
                self._read_at = started
            return self._known

    async def _read(self) -> StaticDirectory:
        with db.translated():
            connection = await psycopg.AsyncConnection.connect(
                db.checked(self._dsn),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT,
                application_name="pg_embed http",
            )
            async with connection:
                rows = await (await connection.execute(self._query)).fetchall()
        models = [ModelSpec(name, family, options) for name, family, options, _ in rows]
        default = next((name for name, _, _, is_default in rows if is_default), None)
        return StaticDirectory(models, default)
