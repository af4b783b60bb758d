"""Text in PostgreSQL, searchable by meaning: rows are embedded automatically and queried with pgvector."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pg_embed.client import AsyncClient, Client

try:
    __version__ = version("pg-embed")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from pg_embed import client  # not before somebody asks: it brings numpy and the drivers

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
