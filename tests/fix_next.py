"""An imagined next version: a copy of the SQL and migrations that a test changes and installs from."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pg_embed import resources

REVISION = '''"""An imagined revision."""

from pg_embed.install.script import run_schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_schema("0002_next.up.sql")


def downgrade() -> None:
    run_schema("0002_next.down.sql")
'''


@dataclass(frozen=True)
class NextVersion:
    """The files of a version that nobody has released."""

    folder: Path

    def add_revision(self, up: str, down: str = "SELECT 1;") -> None:
        """Give it a schema of its own."""
        (self.folder / "sql" / "schema" / "0002_next.up.sql").write_text(up, encoding="utf-8")
        (self.folder / "sql" / "schema" / "0002_next.down.sql").write_text(down, encoding="utf-8")
        (self.folder / "migrations" / "versions" / "0002_next.py").write_text(REVISION, encoding="utf-8")

    def replace(self, file: str, *pairs: tuple[str, str]) -> None:
        """Change a file of functions; each text must be there."""
        path = self.folder / "sql" / "functions" / file
        text = path.read_text(encoding="utf-8")
        for old, new in pairs:
            assert old in text, f"{file} has no {old}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def rename(self, old: str, new: str) -> None:
        """Give a function another name, wherever it stands."""
        for path in (self.folder / "sql" / "functions").glob("*.sql"):
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(rf"\b{old}\b", new, text), encoding="utf-8")

    def raise_generation(self) -> str:
        """Let functions serve a second generation; the statement by which a revision asks for it."""
        self.replace("15_generations.sql", ("newest constant integer := 1", "newest constant integer := 2"))
        return "UPDATE embed._generation SET oldest = 2;"


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NextVersion:
    """From here on the installer takes its files from a copy; workers have loaded theirs before."""
    for name, source in (("sql", resources.sql_dir()), ("migrations", resources.migrations_dir())):
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "pg_embed")
    return NextVersion(tmp_path)
