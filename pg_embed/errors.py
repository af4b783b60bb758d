"""Every error that pg_embed raises, with the SQLSTATE that the same failure has in SQL.

PgEmbedError
├── UnknownModel         PE001
├── AmbiguousModel       PE002
├── InvalidArgument      PE003
├── SidecarUnreachable   PE010
├── SidecarTimeout       PE011
├── Overloaded           PE012
├── TransportMissing     PE013
├── ModelError
│   ├── ModelUnavailable     PE020
│   ├── InputRejected        PE021
│   └── ModelMisconfigured   PE022
├── BadRequest           PE023
├── SpaceMismatch        PE030
├── WaitTimeout          PE040
├── NotInstalled         PE050
├── DatabaseError        PE051
├── MissingExtra         PE052
└── VersionMismatch      PE053
"""

from __future__ import annotations

import inspect

LONGEST_STORED = 4_000  # characters of an error that the catalog keeps


class PgEmbedError(Exception):
    """something went wrong in pg_embed"""

    sqlstate = "PE000"

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))
        self.hint = hint


class UnknownModel(PgEmbedError):
    """there is no such model"""

    sqlstate = "PE001"


class AmbiguousModel(PgEmbedError):
    """several models could be meant"""

    sqlstate = "PE002"


class InvalidArgument(PgEmbedError):
    """an argument has a value that cannot be used"""

    sqlstate = "PE003"


class SidecarUnreachable(PgEmbedError):
    """the sidecar cannot be reached"""

    sqlstate = "PE010"


class SidecarTimeout(PgEmbedError):
    """no answer came in time"""

    sqlstate = "PE011"


class Overloaded(PgEmbedError):
    """the model's queue is full"""

    sqlstate = "PE012"


class TransportMissing(PgEmbedError):
    """this database has no transport to a sidecar"""

    sqlstate = "PE013"


class ModelError(PgEmbedError):
    """the model failed"""


class ModelUnavailable(ModelError):
    """the model cannot answer now; `retry_after` is the wait in seconds that a provider asked for

    `limited` says that it had too many calls, and so nothing about what was sent.
    """

    sqlstate = "PE020"

    def __init__(
        self,
        message: str | None = None,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        limited: bool = False,
    ) -> None:
        super().__init__(message or "the model cannot answer now", hint=hint)
        self.retry_after = retry_after
        self.limited = limited


class InputRejected(ModelError):
    """the model refuses an input and would refuse it again"""

    sqlstate = "PE021"


class ModelMisconfigured(ModelError):
    """the model cannot work until its configuration is mended

    `refused` says that a provider refuses the account: its key, its rights, its balance.
    """

    sqlstate = "PE022"

    def __init__(self, message: str | None = None, *, hint: str | None = None, refused: bool = False) -> None:
        super().__init__(message or "the model cannot work until its configuration is mended", hint=hint)
        self.refused = refused


class BadRequest(PgEmbedError):
    """the request is not understood"""

    sqlstate = "PE023"


class SpaceMismatch(PgEmbedError):
    """the vectors belong to different spaces and must not be mixed"""

    sqlstate = "PE030"


class WaitTimeout(PgEmbedError):
    """rows were still waiting when the time was over"""

    sqlstate = "PE040"


class NotInstalled(PgEmbedError):
    """pg_embed is not installed in this database"""

    sqlstate = "PE050"


class DatabaseError(PgEmbedError):
    """the database refused or was lost"""

    sqlstate = "PE051"


class MissingExtra(PgEmbedError):
    """an optional package is not installed"""

    sqlstate = "PE052"


class VersionMismatch(PgEmbedError):
    """the database and this package are of versions that do not go together"""

    sqlstate = "PE053"


def storable(text: str) -> str:
    """The words of an error as Postgres keeps them: no NUL, no half of a surrogate pair, and an end."""
    return text.replace("\0", "")[:LONGEST_STORED].encode(errors="replace").decode()
