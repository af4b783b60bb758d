"""A folder with an embedded PostgreSQL, our schema in it, and this process as its only sidecar."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pg_embed.cli.catalog import first_model
from pg_embed.embedded import EmbeddedServer, default_data_dir
from pg_embed.embedded.binaries import find_binaries
from pg_embed.embedded.locks import FileLock
from pg_embed.errors import PgEmbedError
from pg_embed.install import install


@contextmanager
def opened(data_dir: Path | None, *, port: int | None = None) -> Iterator[EmbeddedServer]:
    """The server with our schema, started or joined; at the end it is left, by the last one stopped."""
    server = EmbeddedServer(data_dir, tcp_port=port)
    with server:
        alone = FileLock(server.data_dir / "sidecar.lock")
        if not alone.try_acquire():
            raise PgEmbedError(
                f"another pg-embed serves {server.data_dir}",
                hint=f"use it: {psql_line(server.dsn())}; or stop it, or choose another --data-dir",
            )
        try:
            install(
                server.dsn(),
                transport="spool",
                settings={"directory": server.spool_dir},
                models=[first_model()],
            )
            yield server
        finally:
            alone.release()


def psql_line(dsn: str) -> str:
    """A shell line that opens the database: by the PATH's psql, or by that of the embedded server."""
    return shlex.join([shutil.which("psql") or str(find_binaries() / "bin" / "psql"), dsn])


def default_folder(name: str) -> Path:
    """A folder of the user's for one purpose."""
    return default_data_dir() / name
