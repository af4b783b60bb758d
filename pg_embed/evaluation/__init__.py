"""How well a database finds on collections with judged queries."""

from pg_embed.evaluation.collection import Collection, Document, read_collection
from pg_embed.evaluation.measures import check_measures, latency, quality
from pg_embed.evaluation.plot import check_plot, plot
from pg_embed.evaluation.trial import Mode, Run, Trial, chosen_modes

__all__ = [
    "Collection",
    "Document",
    "Mode",
    "Run",
    "Trial",
    "check_measures",
    "check_plot",
    "chosen_modes",
    "latency",
    "plot",
    "quality",
    "read_collection",
]
