"""Where the SQL files and the migrations lie, in a wheel and in a checkout alike."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _find(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def sql_dir() -> Path:
    """The folder with `schema`, `functions`, `transports` and `queries`."""
    return _find("sql")


def migrations_dir() -> Path:
    """The folder of the Alembic environment."""
    return _find("migrations")
