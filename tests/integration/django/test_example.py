"""The example of the README finds rows that a worker has embedded, by a sidecar."""

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
EXAMPLE = Path(__file__).parent / "example.py"
TABLE = """
CREATE TABLE articles (id bigserial PRIMARY KEY, title text, body text);
INSERT INTO articles (title, body) VALUES ('Returns', 'You may send anything back within thirty days.'),
    ('Tea', 'Pour the water while it boils.');
SELECT embed.create_vectorizer('articles', template => E'{title}\\n{body}', model => 'all-MiniLM-L6-v2');
SELECT embed.create_vectorizer('articles', template => E'{title}\\n{body}', model => 'bm25',
    column_name => NULL, sparse_column => 'words');
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_finds_what_was_written(server: Server) -> None:
    with fresh_database(server) as name, temporary_folder() as folder:
        spool = spool_place(server.dsn(name), folder)
        install(spool.dsn, transport="spool", settings=spool.settings, models=[first_model()])
        plan = Plan(config.Settings(), ServeSettings(spool=folder / "spool"), worker_dsn=spool.dsn)
        with in_background(plan), psycopg.connect(spool.dsn, autocommit=True) as connection:
            connection.execute(create_model("bm25"))
            connection.execute(TABLE.encode())
            connection.execute("SELECT embed.wait('articles', '120 seconds')")
            done = subprocess.run(
                [sys.executable, str(EXAMPLE)],
                env={**os.environ, "PG_EMBED_DSN": spool.dsn, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "Returns"
    assert len(done.stdout.splitlines()) == 1
