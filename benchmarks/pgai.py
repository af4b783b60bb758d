"""pgai 0.12.1 as the other side: its environment, its vectorizer, its rows a second.

Alone, it sweeps pgai's settings over the local endpoint and prints each:
`python -m benchmarks.pgai [--environment FOLDER] [--torch-index URL]`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.common import Report, arguments, cache_dir, log
from benchmarks.openai_server import endpoint
from benchmarks.postgres import Connection, Server, create_table, one, postgres

REQUIREMENTS = ("pgai[vectorizer-worker,sqlalchemy]==0.12.1",)
TORCH = "torch==2.13.0"  # docling, which pgai requires, pulls torch: a CPU build is enough
SPACE = 8 * 1024**3  # bytes that the environment may take
DRIVER = Path(__file__).with_name("pgai_driver.py")
LOCKS = {"max_locks_per_transaction": "1024"}  # pgai holds an advisory lock for every row of its open batches
WARM_UP_ROWS = 200


@dataclass(frozen=True)
class Setting:
    """One way to run pgai; None means its default."""

    name: str
    batch_size: int | None = None
    concurrency: int | None = None
    plain: bool = False  # no parsing and no chunking: pgai's leanest way
    model: str = "text-embedding-3-small"


DEFAULT = Setting("default")
BEST = Setting("best", batch_size=2048, concurrency=10, plain=True, model="bench")
SWEEP = (
    DEFAULT,
    Setting("default, concurrency 10", concurrency=10),
    Setting("batch 500, concurrency 4", batch_size=500, concurrency=4),
    Setting("batch 2048, concurrency 10", batch_size=2048, concurrency=10),
    Setting("batch 2048, concurrency 10, plain", batch_size=2048, concurrency=10, plain=True),
    BEST,
)


def environment(folder: Path | None = None, torch_index: str | None = None) -> Path:
    """The Python of pgai's environment; made (7 GB, 3 minutes) where it is missing."""
    folder = folder or cache_dir() / "pgai-0.12.1"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists():
        return python
    free = shutil.disk_usage(folder.parent).free
    if free < SPACE:
        raise SystemExit(
            f"pgai's environment needs {SPACE / 1e9:.0f} GB in {folder.parent}; {free / 1e9:.0f} are free"
        )
    log(f"making pgai's environment in {folder} (about 7 GB, some minutes)")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, TORCH, *(["--index-url", torch_index] if torch_index else [])], check=True)
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    ready.touch()
    return python


@dataclass(frozen=True)
class Pgai:
    """pgai over one server and one endpoint."""

    python: Path
    server: Server
    base_url: str

    def run(self, count: int, dimensions: int, delay: int, setting: Setting = DEFAULT) -> float:
        """Rows a second to work off `count` existing rows with a worker that is warm."""
        dsn = self.server.create_database("pgai_side")
        self._driver("install", dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            create_table(connection, "warm_up", WARM_UP_ROWS)
            create_table(connection, "docs", count)
            ids = [
                self._vectorizer(connection, table, dimensions, delay, setting)
                for table in ("warm_up", "docs")
            ]
            seconds = json.loads(self._driver("work", dsn, *map(str, ids)))["seconds"]
            done = one(connection, "SELECT count(embedding) FROM docs_embedding_store")
        if done != count:
            raise RuntimeError(f"pgai embedded {done} of {count} rows")
        return float(count / seconds)

    def _vectorizer(
        self, connection: Connection, table: str, dimensions: int, delay: int, setting: Setting
    ) -> int:
        extra = "chunking => ai.chunking_none(), parsing => ai.parsing_none()," if setting.plain else ""
        statement = f"""
            SELECT ai.create_vectorizer(
                %(table)s::regclass,
                loading => ai.loading_column('body'),
                embedding => ai.embedding_openai(%(model)s, %(dimensions)s, base_url => %(base_url)s),
                destination => ai.destination_table(),
                {extra}
                processing => ai.processing_default(%(batch_size)s, %(concurrency)s)
            )"""
        parameters = {
            "table": table,
            "model": setting.model,
            "dimensions": dimensions,
            "base_url": f"{self.base_url}/{delay}/v1",
            "batch_size": setting.batch_size,
            "concurrency": setting.concurrency,
        }
        return int(one(connection, statement, parameters))

    def _driver(self, *words: str) -> str:
        done = subprocess.run(
            [str(self.python), "-P", str(DRIVER), *words],  # -P: this folder has a `pgai` too
            env={**os.environ, "OPENAI_API_KEY": "local", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=900,
            check=True,
        )
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def main() -> None:
    parser = arguments("pgai's settings, swept over the local endpoint", rows=10_000)
    parser.add_argument(
        "--environment", type=Path, help="folder of pgai's environment (default: in the cache)"
    )
    parser.add_argument("--torch-index", help="package index with CPU builds of torch")
    options = parser.parse_args()
    python = environment(options.environment, options.torch_index)
    with postgres(**LOCKS) as server, endpoint() as base_url:
        report = Report("pgai 0.12.1, one worker process", server.conditions())
        side = Pgai(python, server, base_url)
        for dimensions, delay in ((384, 0), (384, 50), (1536, 0), (1536, 50)):
            for setting in SWEEP:
                rate = side.run(options.rows, dimensions, delay, setting)
                report.figure(f"{dimensions} d, {delay} ms: {setting.name}", [rate], "rows/s")
    report.finish(options.json)


if __name__ == "__main__":
    main()
