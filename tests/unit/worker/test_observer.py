"""Reasons of what is put off, and metrics of what no test of a whole worker reaches."""

from __future__ import annotations

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pg_embed.errors import InvalidArgument, MissingExtra, Overloaded, SidecarTimeout, SpaceMismatch
from pg_embed.jobs import Figures
from pg_embed.serve.work_metrics import WorkMetrics
from pg_embed.worker.observer import reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (psycopg.errors.InsufficientPrivilege("no"), "table"),
        (ZeroDivisionError(), "unexpected"),
        (Overloaded(), "overloaded"),
        (SidecarTimeout(), "timeout"),
        (SpaceMismatch(), "misconfigured"),
        (MissingExtra(), "misconfigured"),
        (InvalidArgument(), "misconfigured"),
    ],
)
def test_each_error_has_a_reason(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_builds_rescues_and_connections_are_shown() -> None:
    registry = CollectorRegistry()
    metrics = WorkMetrics(registry)
    metrics.index_built("docs", 2.5, is_built=True)
    metrics.index_built("docs", 0.5, is_built=False)
    metrics.rescued(3)
    metrics.reused("m", 4, 0)
    metrics.reused("m", 0, 6)
    metrics.connections(2, 6)
    metrics.figures(Figures(workers=2, vectorizers=[], costs={"m": 1.25}))
    text = generate_latest(registry).decode()
    for line in (
        'pg_embed_index_builds_total{outcome="built",vectorizer="docs"} 1.0',
        'pg_embed_index_builds_total{outcome="failed",vectorizer="docs"} 1.0',
        'pg_embed_index_build_seconds{vectorizer="docs"} 0.5',
        "pg_embed_rescued_entries_total 3.0",
        'pg_embed_reuse_texts_total{model="m",outcome="hit"} 4.0',
        'pg_embed_reuse_texts_total{model="m",outcome="stored"} 6.0',
        'pg_embed_worker_connections{state="idle"} 6.0',
        "pg_embed_workers 2.0",
        'pg_embed_cost_usd_total{model="m"} 1.25',
    ):
        assert line in text
