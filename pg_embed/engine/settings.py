"""The engine's bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSettings:
    """Bounds of one engine; queues are bounded per model and priority."""

    max_models: int = 8  # in memory; beyond, the one idle for longest is let go
    max_queued_queries: int = 1_024  # texts; beyond, queries are refused
    max_queued_texts: int = 16_384  # texts; beyond, bulk callers wait
    max_queued_pairs: int = 8_192  # texts that wait for a reranker; beyond, callers are refused
    memo_size: int = 4_096  # query vectors remembered per model
    load_timeout: float = 300.0  # seconds; a load that takes longer goes on, but others no longer wait for it
    load_pause: float = 5.0  # seconds for which a failed load is not tried again
    close_timeout: float = 10.0  # seconds that running calls are given to end
