"""Engines of SQLAlchemy for a test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool


def engine_for(dsn: str) -> Engine:
    """An engine over psycopg that keeps no connection open."""
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)


@pytest.fixture
def engine(dsn: str) -> Iterator[Engine]:
    """The superuser's engine for the test's database."""
    engine = engine_for(dsn)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    """The same, asynchronous."""

    async def connect() -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(dsn)

    engine = create_async_engine("postgresql+psycopg://", async_creator=connect, poolclass=NullPool)
    yield engine
    await engine.dispose()
