"""The examples of the README find rows that a worker has embedded, by a sidecar."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pg_embed import config
from pg_embed.cli.catalog import first_model
from pg_embed.cli.running import in_background
from pg_embed.cli.service import Plan
from pg_embed.install import install
from pg_embed.migrating import create_model
from pg_embed.serve.settings import ServeSettings
from tests.fix_pg import Server, fresh_database, temporary_folder
from tests.fix_serve import spool_place

ROOT = Path(__file__).parents[3]
TABLE = """
CREATE TABLE articles (id bigserial PRIMARY KEY, title text, body text);
INSERT INTO articles (title, body) VALUES ('Returns', 'You may send anything back within thirty days.'),
    ('Tea', 'Pour the water while it boils.');
SELECT embed.create_vectorizer('articles', template => E'{title}\\n{body}', model => 'all-MiniLM-L6-v2');
SELECT embed.create_vectorizer('articles', template => E'{title}\\n{body}', model => 'bm25',
    column_name => NULL, sparse_column => 'words');
"""
CHUNKS = """
CREATE TABLE guides (id bigserial PRIMARY KEY, body text);
INSERT INTO guides (body)
VALUES (repeat('Pour the water while it boils. ', 4) || 'You may send anything back in a month.');
SELECT embed.create_vectorizer('guides', 'body', model => 'all-MiniLM-L6-v2', storage => 'table',
    chunking => '{"size": 16}');
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_find_what_was_written(server: Server) -> None:
    with fresh_database(server) as name, temporary_folder() as folder:
        spool = spool_place(server.dsn(name), folder)
        install(spool.dsn, transport="spool", settings=spool.settings, models=[first_model()])
        plan = Plan(config.Settings(), ServeSettings(spool=folder / "spool"), worker_dsn=spool.dsn)
        with in_background(plan), psycopg.connect(spool.dsn, autocommit=True) as connection:
            connection.execute(create_model("bm25"))
            connection.execute(f"{TABLE}{CHUNKS}".encode())
            connection.execute(
                "SELECT embed.wait('articles', '120 seconds'), embed.wait('guides', '120 seconds')"
            )
            rows, chunks = said("example.py", spool.dsn), said("example_chunks.py", spool.dsn)
    assert rows[0].split()[0] == "Returns"
    assert len(rows) == 1
    best, numbers, tea = chunks
    assert "send anything back" in best
    assert numbers == str(list(range(1, numbers.count(",") + 2)))
    assert "," in numbers
    assert "boils" in tea


def said(example: str, dsn: str) -> list[str]:
    """The lines that an example prints."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / example)],
        env={**os.environ, "PG_EMBED_DSN": dsn, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
