"""What `eval` does in the database, step by step, and how it tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pg_embed import config
from pg_embed.cli import home, logs
from pg_embed.cli.catalog import entered
from pg_embed.cli.database import ask
from pg_embed.cli.doors import chosen
from pg_embed.cli.indexing import build_now
from pg_embed.cli.output import print_rows, say
from pg_embed.cli.running import in_background
from pg_embed.cli.service import Plan
from pg_embed.cli.showing import progress
from pg_embed.errors import SidecarUnreachable
from pg_embed.evaluation import Collection, Mode, Run, Trial, latency, quality
from pg_embed.serve.directory import CatalogDirectory
from pg_embed.serve.settings import ServeSettings


@dataclass(frozen=True)
class Wish:
    """Models, and how to search."""

    dense: str
    sparse: str
    modes: Sequence[Mode]
    fusion: str
    index: str
    keep: bool


@dataclass(frozen=True)
class Database:
    """Where to measure; `check` raises when whoever serves it for us has failed."""

    dsn: str
    check: Callable[[], None]


@contextmanager
def served(dsn: str | None, data_dir: Path | None) -> Iterator[Database]:
    """A database with a sidecar and a worker: those that are there, or else this process for a block."""
    settings = config.read()
    logs.set_up(settings.log, "error")
    # a mode would find the vectors of its queries in the memory of the mode before
    settings = settings.model_copy(update={"engine": replace(settings.engine, memo_size=0)})
    if dsn is None:
        say("starting PostgreSQL …")
        with home.opened(data_dir or home.default_folder("eval")) as server:
            plan = Plan(settings, ServeSettings(spool=server.spool_dir), worker_dsn=server.dsn())
            with in_background(plan) as service:
                yield Database(server.dsn(), service.check)
        return
    doors = None if _answers(dsn) else chosen(settings.serve, dsn)
    worker = None if ask(dsn, "workers")[0]["workers"] else dsn
    if doors is None and worker is None:
        yield Database(dsn, lambda: None)
        return
    with in_background(Plan(settings, doors, worker, CatalogDirectory(dsn), limits_dsn=dsn)) as service:
        yield Database(dsn, service.check)


def measured(database: Database, collection: Collection, wish: Wish) -> dict[str, Any]:
    """The figures of one collection in every mode."""
    dsn = database.dsn
    modes = [
        mode if mode.rerank is None else replace(mode, rerank=entered(dsn, mode.rerank, "score"))
        for mode in wish.modes
    ]
    trial = Trial(dsn, collection, entered(dsn, wish.dense, "dense"), entered(dsn, wish.sparse, "sparse"))
    try:
        progress(trial.load(), f"{collection.name}: loading", "documents")
        progress(trial.embed(database.check), f"{collection.name}: embedding", "vectors")
        if wish.index == "auto":
            _index(dsn, trial.vectorizer)
        return {
            "dataset": collection.name,
            "documents": len(collection.documents),
            "queries": len(collection.queries),
            "modes": {mode.name: _figures(trial, collection, mode, wish.fusion) for mode in modes},
        }
    finally:
        if not wish.keep:
            trial.drop()


def show(results: Sequence[Mapping[str, Any]]) -> None:
    """All collections as one table."""
    rows = [
        {
            "dataset": result["dataset"],
            "mode": name,
            **{measure: f"{figures[measure]:.4f}" for measure in ("ndcg@10", "recall@100", "mrr@10")},
            "p50 ms": f"{figures['p50_ms']:.1f}",
            "p95 ms": f"{figures['p95_ms']:.1f}",
        }
        for result in results
        for name, figures in result["modes"].items()
    ]
    print_rows(rows, as_json=False, nothing="")


def _answers(dsn: str) -> bool:
    try:
        ask(dsn, "ping")
    except SidecarUnreachable:
        return False
    return True


def _figures(trial: Trial, collection: Collection, mode: Mode, fusion: str) -> dict[str, float]:
    run = Run()
    progress(trial.search(mode, fusion, run), f"{collection.name}: {mode.name}", "queries")
    told = quality(run.first, run.deep, collection.judged) | latency(run.milliseconds)
    return {name: round(value, 5) for name, value in told.items()}


def _index(dsn: str, vectorizer: str) -> None:
    """Ask for an index, and build it, or wait for the worker that does."""
    shape = dict.fromkeys(("m", "ef_construction", "min_rows", "memory", "parallel_workers"))
    ask(dsn, "create_index", vectorizer=vectorizer, kind="auto", **shape)
    build_now(dsn, vectorizer)
