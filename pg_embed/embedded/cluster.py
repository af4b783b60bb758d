"""The files of a PostgreSQL cluster: made once, configured at every start."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from pg_embed.embedded import files
from pg_embed.embedded.account import Account
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


def complete(cluster: Path, account: Account) -> None:
    """Give a cluster fresh from initdb its access rules and our settings file."""
    files.write(cluster / "pg_hba.conf", HBA, account)
    include = f"\ninclude_if_exists '{SETTINGS_FILE}'  # written anew at every start; ALTER SYSTEM wins\n"
    files.append(cluster / "postgresql.conf", include)


def check_version(cluster: Path) -> None:
    """Refuse a cluster that another major version made."""
    try:
        found = (cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError as exc:
        raise PgEmbedError(
            f"{cluster} is no cluster of PostgreSQL", hint="move it away, or choose another data folder"
        ) from exc
    if found != str(MAJOR):
        raise PgEmbedError(
            f"{cluster} was made by PostgreSQL {found}, this is {MAJOR}",
            hint="dump it with the old version and load it into a new folder",
        )


def write_settings(
    cluster: Path, account: Account, socket_dir: Path, port: int, *, tcp: bool, fast: bool
) -> None:
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
    text = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
    files.write(cluster / SETTINGS_FILE, text, account)


def new_password(path: Path, account: Account) -> None:
    """Write a random password for TCP connections into a private file."""
    files.write(path, secrets.token_urlsafe(24) + "\n", account)


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
