"""The files of a PostgreSQL cluster: made once, configured at every start."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from pg_embed.embedded.binaries import MAJOR
from pg_embed.errors import PgEmbedError

SETTINGS_FILE = "pg_embed.conf"
SMALL_SHARED_MEMORY = 1 << 30  # bytes; containers often have 64 MiB, too little for a parallel index build

LAPTOP: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "256MB",
    "work_mem": "32MB",  # the rows of one statement, kept for its triggers, go to disk beyond this
    "maintenance_work_mem": "256MB",  # HNSW builds are several times faster while the graph fits
    "max_wal_size": "2GB",
    "unix_socket_permissions": "0700",
    "log_line_prefix": "%m [%p] %d ",
    "default_text_search_config": "pg_catalog.english",
}
FAST: Mapping[str, str] = {
    "max_connections": "200",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "log_checkpoints": "off",
}

# Who reaches the socket is decided by its folder's mode; whoever comes by TCP needs the password.
HBA = """\
# type  database  user  address       method
local   all       all                 trust
host    all       all   127.0.0.1/32  scram-sha-256
"""


def initdb_arguments(cluster: Path, password_file: Path, *, fast: bool) -> list[str | Path]:
    """How a new cluster is made: the same collation on every machine."""
    options: list[str | Path] = ["--username=postgres", "--encoding=UTF8", "--locale=C"]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--auth=scram-sha-256"]
    options += ["--pwfile", password_file, "--pgdata", cluster]
    return [*options, "--no-sync", "--no-data-checksums"] if fast else options


def complete(cluster: Path) -> None:
    """Give a cluster fresh from initdb its access rules and our settings file."""
    (cluster / "pg_hba.conf").write_text(HBA, encoding="utf-8")
    with (cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(
            f"\ninclude_if_exists '{SETTINGS_FILE}'  # written anew at every start; ALTER SYSTEM wins\n"
        )


def check_version(cluster: Path) -> None:
    """Refuse a cluster that another major version made."""
    found = (cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    if found != str(MAJOR):
        raise PgEmbedError(
            f"{cluster} was made by PostgreSQL {found}, this is {MAJOR}",
            hint="dump it with the old version and load it into a new folder",
        )


def write_settings(cluster: Path, socket_dir: Path, port: int, *, tcp: bool, fast: bool) -> Path:
    """Write our settings file; PostgreSQL reads it when it starts."""
    settings = {
        **LAPTOP,
        **(FAST if fast else {}),
        "listen_addresses": "127.0.0.1" if tcp else "",
        "port": str(port),
        "unix_socket_directories": str(socket_dir),
    }
    if _shared_memory_is_small():
        settings["dynamic_shared_memory_type"] = "mmap"
    path = cluster / SETTINGS_FILE
    path.write_text(
        "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items()), encoding="utf-8"
    )
    return path


def new_password(path: Path) -> None:
    """Write a random password for TCP connections into a private file."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(24) + "\n")


def remove(cluster: Path) -> None:
    """Remove what an interrupted initdb left."""
    shutil.rmtree(cluster, ignore_errors=True)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _shared_memory_is_small() -> bool:
    try:
        free = os.statvfs("/dev/shm")  # noqa: S108 - asked for its size only
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < SMALL_SHARED_MEMORY
