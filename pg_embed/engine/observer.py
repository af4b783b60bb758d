"""What the engine tells to whom watches it."""

from __future__ import annotations

from typing import Protocol

from pg_embed.errors import PgEmbedError
from pg_embed.records import Priority


class Observer(Protocol):
    """Called on the event loop, after the callers have been answered; must be quick and not raise."""

    def loaded(self, model: str, seconds: float, error: PgEmbedError | None) -> None:
        """A model was loaded, or could not be."""

    def queued(self, model: str, priority: Priority, texts: int) -> None:
        """So many texts now wait."""

    def computed(
        self,
        model: str,
        priority: Priority,
        texts: int,
        tokens: int,
        seconds: float,
        error: PgEmbedError | None,
    ) -> None:
        """One call of the model ended."""

    def answered(
        self, model: str, priority: Priority, texts: int, seconds: float, error: PgEmbedError | None
    ) -> None:
        """One caller got its answer."""

    def remembered(self, model: str, hits: int, misses: int) -> None:
        """So many texts of a query were known, and so many were not."""

    def throttled(self, model: str, priority: Priority, seconds: float) -> None:
        """A call waited so long for the model's limits."""


class Silence:
    """Watches nothing."""

    def loaded(self, model: str, seconds: float, error: PgEmbedError | None) -> None:
        """Nothing."""

    def queued(self, model: str, priority: Priority, texts: int) -> None:
        """Nothing."""

    def computed(
        self,
        model: str,
        priority: Priority,
        texts: int,
        tokens: int,
        seconds: float,
        error: PgEmbedError | None,
    ) -> None:
        """Nothing."""

    def answered(
        self, model: str, priority: Priority, texts: int, seconds: float, error: PgEmbedError | None
    ) -> None:
        """Nothing."""

    def remembered(self, model: str, hits: int, misses: int) -> None:
        """Nothing."""

    def throttled(self, model: str, priority: Priority, seconds: float) -> None:
        """Nothing."""
