"""Text in PostgreSQL, searchable by meaning: rows are embedded automatically and queried with pgvector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pg_embed.client import AsyncClient, Client

    __version__: str

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from pg_embed import client  # not before somebody asks: it brings numpy and the drivers

        return getattr(client, name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pg-embed")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
