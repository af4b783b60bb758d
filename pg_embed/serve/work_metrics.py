"""What a worker tells, as Prometheus reads it. Names and labels are API.

The figures of the queue are those of the whole database, the same from each of its workers: take the `max`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pg_embed.jobs import STATES, Figures, Lane

SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
ROWS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096)


class QueueCollector(Collector):
    """The last figures of the database, whole at each scrape; no samples while they are not known."""

    def __init__(self) -> None:
        self.figures: Figures | None = None

    def collect(self) -> Iterator[Metric]:
        """Each metric, with the samples of one moment."""
        figures = self.figures
        workers = GaugeMetricFamily("pg_embed_workers", "Workers that are connected to the database.")
        cost = CounterMetricFamily("pg_embed_cost_usd", "What models cost, in US dollars.", labels=["model"])
        if figures is not None:
            workers.add_metric([], figures.workers)
            for model, dollars in figures.costs.items():
                cost.add_metric([model], float(dollars))
        yield workers
        yield cost
        yield from _lanes(figures)
        yield from _vectorizers(figures)


class WorkMetrics:
    """An observer of a worker, which counts in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        vectorizer, lane = ["vectorizer"], ["lane"]
        self._rows = Counter(
            "pg_embed_rows_total",
            "Rows that were embedded, or given up.",
            [*vectorizer, *lane, "outcome"],
            registry=registry,
        )
        self._batch_rows = Histogram(
            "pg_embed_batch_rows", "Rows of a batch that is done.", lane, buckets=ROWS, registry=registry
        )
        self._batch_seconds = Histogram(
            "pg_embed_batch_seconds",
            "Time of a batch, from claimed to written.",
            lane,
            buckets=SECONDS,
            registry=registry,
        )
        self._postponed = Counter(
            "pg_embed_batches_postponed_total",
            "Batches that went back to the queue.",
            [*vectorizer, *lane, "reason"],
            registry=registry,
        )
        self._reused = Counter(
            "pg_embed_reuse_texts_total",
            "Texts whose vectors were known, or are kept now for when they come again.",
            ["model", "outcome"],
            registry=registry,
        )
        self._rescued = Counter(
            "pg_embed_rescued_entries_total", "Entries of lost workers that are due again.", registry=registry
        )
        self._builds = Counter(
            "pg_embed_index_builds_total", "Builds of an index.", [*vectorizer, "outcome"], registry=registry
        )
        self._build_seconds = Gauge(
            "pg_embed_index_build_seconds", "Time of the last build.", vectorizer, registry=registry
        )
        self._connected = Gauge(
            "pg_embed_worker_connected", "Whether this worker watches the queue.", registry=registry
        )
        self._connections = Gauge(
            "pg_embed_worker_connections",
            "Connections of this worker beside the two that watch.",
            ["state"],
            registry=registry,
        )
        self._queue = QueueCollector()
        registry.register(self._queue)

    def batch_done(self, vectorizer: str, lane: Lane, rows: int, failed: int, seconds: float) -> None:
        """A batch is written: so many rows, of which some were given up."""
        name = _name(lane)
        self._rows.labels(vectorizer, name, "done").inc(rows - failed)
        self._rows.labels(vectorizer, name, "failed").inc(failed)
        self._batch_rows.labels(name).observe(rows)
        self._batch_seconds.labels(name).observe(seconds)

    def batch_postponed(self, vectorizer: str, lane: Lane, reason: str) -> None:
        """A batch went back to the queue."""
        self._postponed.labels(vectorizer, _name(lane), reason).inc()

    def reused(self, model: str, texts: int, kept: int) -> None:
        """So many texts had their vectors without a call, and so many new ones are kept for such."""
        self._reused.labels(model, "hit").inc(texts)
        self._reused.labels(model, "stored").inc(kept)

    def rescued(self, entries: int) -> None:
        """Entries of lost workers are due again."""
        self._rescued.inc(entries)

    def index_built(self, vectorizer: str, seconds: float, *, is_built: bool) -> None:
        """An index was built, or could not be."""
        self._builds.labels(vectorizer, "built" if is_built else "failed").inc()
        self._build_seconds.labels(vectorizer).set(seconds)

    def connected(self, is_connected: bool) -> None:
        """The worker watches the queue, or does not any more."""
        self._connected.set(is_connected)
        if not is_connected:
            self.connections(0, 0)

    def connections(self, used: int, idle: int) -> None:
        """So many connections of the pool are in use, and so many wait."""
        self._connections.labels("used").set(used)
        self._connections.labels("idle").set(idle)

    def figures(self, figures: Figures | None) -> None:
        """How far the vectorizers are; None when that is not known any more."""
        self._queue.figures = figures


def _lanes(figures: Figures | None) -> Iterator[Metric]:
    labels = ["vectorizer", "lane"]
    rows = GaugeMetricFamily("pg_embed_queue_rows", "Rows that wait in the queue.", labels=labels)
    held = GaugeMetricFamily("pg_embed_queue_in_flight_rows", "Rows that workers hold.", labels=labels)
    oldest = GaugeMetricFamily(
        "pg_embed_queue_oldest_seconds", "Since the oldest row was queued; 0 if none waits.", labels=labels
    )
    for vectorizer, lane in product([] if figures is None else figures.vectorizers, Lane):
        values, found = [vectorizer.name, _name(lane)], vectorizer.lanes[lane]
        rows.add_metric(values, found.rows)
        held.add_metric(values, found.in_flight)
        oldest.add_metric(values, found.oldest)
    yield from (rows, held, oldest)


def _vectorizers(figures: Figures | None) -> Iterator[Metric]:
    labels = ["vectorizer"]
    failed = GaugeMetricFamily("pg_embed_failed_rows", "Rows in embed.failures.", labels=labels)
    backfill = GaugeMetricFamily(
        "pg_embed_backfill_rows", "Rows that the backfill has not reached.", labels=labels
    )
    state = GaugeMetricFamily(
        "pg_embed_vectorizer_state", "1 for the state that it is in.", labels=[*labels, "state"]
    )
    for vectorizer in [] if figures is None else figures.vectorizers:
        failed.add_metric([vectorizer.name], vectorizer.failed)
        backfill.add_metric([vectorizer.name], vectorizer.backfill)
        for name in STATES:
            state.add_metric([vectorizer.name, name], name == vectorizer.state)
    yield from (failed, backfill, state)


def _name(lane: Lane) -> str:
    return lane.name.lower()
