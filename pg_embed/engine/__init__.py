"""Loaded models behind queues: batches across callers, queries before bulk."""

from __future__ import annotations

from pg_embed.engine.engine import Engine
from pg_embed.engine.observer import Observer
from pg_embed.engine.settings import EngineSettings

__all__ = ["Engine", "EngineSettings", "Observer"]
