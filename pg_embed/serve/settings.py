"""What the doors of a sidecar are told; those whose address is missing stay shut."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pg_embed.errors import InvalidArgument


@dataclass(frozen=True)
class ServeSettings:
    """Addresses, tokens and bounds of all doors."""

    socket: Path | None = None
    socket_mode: int = 0o600  # who may connect: 0600 the same user, 0660 its group
    tcp_host: str = "127.0.0.1"
    tcp_port: int | None = None
    tcp_token: str | None = field(
        default=None, repr=False
    )  # without it the file; the TCP door does not open without a token
    tcp_token_file: Path | None = None
    spool: Path | None = None
    mailbox_dsn: str | None = field(default=None, repr=False)  # it may have a password
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    http_token: str | None = field(
        default=None, repr=False
    )  # no token: anybody who reaches the port may embed
    http_token_file: Path | None = None
    http_timeout: float = 60.0  # seconds that an HTTP request may take
    max_connections: int = 1024  # of a door; more are told that the sidecar is overloaded
    max_requests: int = 512  # that a door works on at the same time
    grace: float = 30.0  # seconds that requests in hand may take after a stop was asked for


def read_token(token: str | None, file: Path | None) -> str | None:
    """The token itself, or what its file says."""
    if token is None and file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise InvalidArgument(f"the token file {file} cannot be read: {exc.strerror}") from exc
    if token == "":
        raise InvalidArgument("the token is empty", hint="make one with: openssl rand -hex 32")
    return token
