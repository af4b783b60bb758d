"""How a client was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pg_embed.client.sidecar import Sidecar
from pg_embed.errors import InvalidArgument
from pg_embed.records import ModelSpec

TIMEOUT = 30.0  # seconds for a question to a sidecar or to a model, unless told otherwise


@dataclass(frozen=True)
class Way:
    """By which way texts become vectors: a sidecar's door, models in this process, or the database's own."""

    sidecar: Sidecar | None
    in_process: bool
    models: tuple[ModelSpec, ...]
    timeout: float | None

    @property
    def is_own(self) -> bool:
        """Whether the database is not asked for vectors."""
        return self.sidecar is not None or self.in_process

    @property
    def seconds(self) -> float:
        """The timeout of a question that no database answers."""
        return self.timeout or TIMEOUT


def way(
    has_database: bool,
    sidecar: str | None,
    token: str | None,
    in_process: bool,
    models: Sequence[ModelSpec],
    timeout: float | None,
) -> Way:
    """The way, or `InvalidArgument` where what was given does not fit together."""
    if timeout is not None and not 0 < timeout <= 3600:
        raise InvalidArgument(f"the timeout is {timeout} seconds", hint="give one above 0 and up to 3600")
    if sidecar is not None and in_process:
        raise InvalidArgument("both a sidecar and in_process were given", hint="choose one of them")
    if token is not None and sidecar is None:
        raise InvalidArgument("a token was given, but no sidecar", hint='give sidecar="http://…"')
    if not has_database and sidecar is None and not (in_process and models):
        raise InvalidArgument(
            "a client needs a database, a sidecar, or models to load",
            hint='Client("postgresql://…"), Client(sidecar="http://…"), or'
            " Client(in_process=True, models=[ModelSpec(…)])",
        )
    door = None if sidecar is None else Sidecar(sidecar, token, timeout or TIMEOUT)
    return Way(door, in_process, tuple(models), timeout)


def no_database() -> InvalidArgument:
    """The error of what only a database can tell."""
    return InvalidArgument("this client has no database", hint='make it with one: Client("postgresql://…")')
