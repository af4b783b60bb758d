"""Workers: loops that claim changed rows, embed them, and write the vectors back."""

from __future__ import annotations

from pg_embed.worker.settings import WorkerSettings
from pg_embed.worker.worker import Worker

__all__ = ["Worker", "WorkerSettings"]
