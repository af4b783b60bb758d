"""Jobs: rows to embed, as they come out of the queue and as their vectors go back."""

from __future__ import annotations

from pg_embed.jobs.batch import Batch, Dead, Lane, Outcome, Refused, Share, Work
from pg_embed.jobs.documents import Chunked, Document, Kept, Made, Reading
from pg_embed.jobs.figures import STATES, Figures, LaneFigures, VectorizerFigures
from pg_embed.jobs.indexes import IndexBuild, IndexJob
from pg_embed.jobs.store import Store

__all__ = [
    "STATES",
    "Batch",
    "Chunked",
    "Dead",
    "Document",
    "Figures",
    "IndexBuild",
    "IndexJob",
    "Kept",
    "Lane",
    "LaneFigures",
    "Made",
    "Outcome",
    "Reading",
    "Refused",
    "Share",
    "Store",
    "VectorizerFigures",
    "Work",
]
