"""The plugins of the tests, one subject each."""

from __future__ import annotations

pytest_plugins = [
    "tests.fix_alembic",
    "tests.fix_bcembedding",
    "tests.fix_bm25s",
    "tests.fix_checkpoints",
    "tests.fix_chunks",
    "tests.fix_django",
    "tests.fix_flag",
    "tests.fix_gritlm",
    "tests.fix_models",
    "tests.fix_next",
    "tests.fix_pg",
    "tests.fix_sdks",
    "tests.fix_second_server",
    "tests.fix_tls",
    "tests.fix_pgbouncer",
    "tests.fix_serve",
    "tests.fix_sqlalchemy",
    "tests.fix_trixie",
    "tests.fix_worker",
]
