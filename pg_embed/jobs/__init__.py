"""Jobs: rows to embed, as they come out of the queue and as their vectors go back."""

from __future__ import annotations

from pg_embed.jobs.batch import Batch, Dead, Lane, Outcome, Refused, Share, Work
from pg_embed.jobs.documents import Chunked, Document, Kept, Made, Reading
from pg_embed.jobs.indexes import IndexBuild, IndexJob
from pg_embed.jobs.store import Store

__all__ = [
    "Batch",
    "Chunked",
    "Dead",
    "Document",
    "IndexBuild",
    "IndexJob",
    "Kept",
    "Lane",
    "Made",
    "Outcome",
    "Reading",
    "Refused",
    "Share",
    "Store",
    "Work",
]
