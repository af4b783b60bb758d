"""`pg-embed worker`: worker loops alone; any number, on any number of machines."""

from __future__ import annotations

from pg_embed.cli.app import app
from pg_embed.cli.options import Dsn


@app.command()
def worker(dsn: Dsn) -> None:
    """Embed the rows of a database until stopped.

    PG_EMBED_WORKER_… and PG_EMBED_ENGINE_… tune it. With PG_EMBED_WORKER_METRICS_PORT it shows its metrics
    to Prometheus.
    """
    from pg_embed import config
    from pg_embed.cli import logs
    from pg_embed.cli.running import run_until_stopped
    from pg_embed.cli.service import Plan

    settings = config.read()
    logs.set_up(settings.log, "info")
    run_until_stopped(Plan(settings, worker_dsn=dsn), lambda service: None)
