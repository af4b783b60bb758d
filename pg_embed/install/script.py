"""Sending SQL files: through Alembic online and offline, and as plain text for a DBA."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from pg_embed.resources import sql_dir


def read(*parts: str) -> str:
    """The text of one file under `sql/`."""
    return sql_dir().joinpath(*parts).read_text(encoding="utf-8")


def run_schema(name: str) -> None:
    """Run a file of `sql/schema` inside a migration; percent signs and colons reach Postgres as written."""
    op.execute(sa.DDL(read("schema", name).replace("%", "%%")))  # type: ignore[no-untyped-call]


def function_files() -> list[Path]:
    """The files that every installation and upgrade runs, in order."""
    return sorted((sql_dir() / "functions").glob("*.sql"))


def functions() -> str:
    """All of them as one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in function_files())
