"""What a worker tells to whom watches it."""

from __future__ import annotations

from typing import Literal, Protocol

import psycopg

from pg_embed.errors import (
    ModelMisconfigured,
    ModelUnavailable,
    Overloaded,
    PgEmbedError,
    SidecarTimeout,
)
from pg_embed.jobs import Figures, Lane

# Why a batch went back to the queue: a provider has too many calls, an account is refused, a model is not as
# it should be, has too much to do, gives no answer in time or none for now; the table is in the way; else.
Reason = Literal[
    "limited", "refused", "misconfigured", "overloaded", "timeout", "unavailable", "table", "unexpected"
]


class Observer(Protocol):
    """Called on the event loop; must be quick and not raise."""

    def batch_done(self, vectorizer: str, lane: Lane, rows: int, failed: int, seconds: float) -> None:
        """A batch is written: so many rows, of which some were given up."""

    def batch_postponed(self, vectorizer: str, lane: Lane, reason: Reason) -> None:
        """A batch went back to the queue."""

    def reused(self, model: str, texts: int, kept: int) -> None:
        """So many texts had their vectors without a call, and so many new ones are kept for such."""

    def rescued(self, entries: int) -> None:
        """Entries of lost workers are due again."""

    def index_built(self, vectorizer: str, seconds: float, *, is_built: bool) -> None:
        """An index was built, or could not be."""

    def connected(self, is_connected: bool) -> None:
        """The worker watches the queue, or does not any more."""

    def connections(self, used: int, idle: int) -> None:
        """So many connections of the pool are in use, and so many wait."""

    def figures(self, figures: Figures | None) -> None:
        """How far the vectorizers are; None when that is not known any more."""


class Silence:
    """Watches nothing."""

    def batch_done(self, vectorizer: str, lane: Lane, rows: int, failed: int, seconds: float) -> None:
        """Nothing."""

    def batch_postponed(self, vectorizer: str, lane: Lane, reason: Reason) -> None:
        """Nothing."""

    def reused(self, model: str, texts: int, kept: int) -> None:
        """Nothing."""

    def rescued(self, entries: int) -> None:
        """Nothing."""

    def index_built(self, vectorizer: str, seconds: float, *, is_built: bool) -> None:
        """Nothing."""

    def connected(self, is_connected: bool) -> None:
        """Nothing."""

    def connections(self, used: int, idle: int) -> None:
        """Nothing."""

    def figures(self, figures: Figures | None) -> None:
        """Nothing."""


def reason_of(error: Exception) -> Reason:
    """The reason that an error gives."""
    if isinstance(error, psycopg.Error):
        return "table"
    if isinstance(error, ModelUnavailable) and error.limited:
        return "limited"
    if isinstance(error, ModelMisconfigured) and error.refused:
        return "refused"
    if isinstance(error, Overloaded):
        return "overloaded"
    if isinstance(error, SidecarTimeout):
        return "timeout"
    if isinstance(error, ModelUnavailable):
        return "unavailable"
    return "misconfigured" if isinstance(error, PgEmbedError) else "unexpected"
