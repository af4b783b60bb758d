"""What can be set about a worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerSettings:
    """Times are in seconds. The defaults suit a laptop and a server alike."""

    lease: float = 60.0  # after this a silent worker's rows are given to another
    poll: float = 2.0  # how often an idle worker looks at the queue without being called
    standby_poll: float = 2.0  # how often one whose server is a standby looks whether it was promoted
    busy_poll: float = 0.05  # how often a busy one looks for other tables' rows
    batch_rows: int = 2_048  # rows a batch, at most
    batch_characters: int = 1_000_000  # of texts that are split into chunks, read and written together
    batch_seconds: float = 1.0  # how long a batch should take the model; slow models get smaller batches
    live_slots: int = 2  # batches of changed rows in hand at a time, for each vectorizer
    backfill_slots: int = 2  # batches of the backfill in hand at a time, for each vectorizer
    page_rows: int = 10_000  # rows that a backfill queues at a time
    model_timeout: float = 900.0  # for one batch
    tend_every: float = 10.0  # between rounds of maintenance
    index_every: float = 10.0  # between two looks for an index to build
    switch_rest: float = 2.0  # behind each write of a switch's backfill, in times of what the write took
    switch_every: float = 2.0  # between two looks at switches from one model to another
    figures_every: float = 10.0  # between two looks at the whole queue, for metrics and the log
    metrics_host: str = "127.0.0.1"  # address where `pg-embed worker` shows its metrics
    metrics_port: int | None = None  # its port; none without
    backoff: float = 1.0  # the first wait after an error; it doubles
    backoff_limit: float = 300.0  # the longest wait after an error
    repair_wait: float = 15.0  # before a misconfigured model is tried again
    refused_wait: float = 60.0  # before one call tries a model whose account was refused
    connections: int = 8  # to the database, at most, beside the two that watch it
    prepare: str = ""  # hooks that make texts of rows, beside those of packages: "html=module:function, …"
    prepare_timeout: float = 60.0  # for a hook, for one row

    def wait_after(self, tries: int) -> float:
        """The wait after so many tries, without jitter."""
        return min(self.backoff * 2.0 ** (max(tries, 1) - 1), self.backoff_limit)
