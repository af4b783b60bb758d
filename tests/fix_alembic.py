"""A user's Alembic environment in a folder, with models that a test writes as text."""

from __future__ import annotations

import io
import re
from pathlib import Path
from textwrap import indent

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

ENV = """
from pathlib import Path

from alembic import context
from sqlalchemy import create_engine, pool

import pg_embed.alembic

space = {{}}
exec(Path({models!r}).read_text(), space)
options = {{
    "target_metadata": space["metadata"],
    "include_schemas": True,
    **space.get("options", {{}}),
}}
url = context.config.get_main_option("sqlalchemy.url")
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
"""
HEAD = """
from sqlalchemy import *
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column
from pgvector.sqlalchemy import HALFVEC, SPARSEVEC, VECTOR
from pg_embed.sqlalchemy import Chunk, chunked, embedded, embedded_column
THREE = {"model": "three", "dimensions": 8, "column_type": "vector"}
SPARSE = {"model": "three", "dimensions": 1000, "output": "sparse"}
MULTI = {"model": "three", "dimensions": 8, "output": "multi"}
"""


class Project:
    """A user's project: models, an environment, and what `alembic` does in it."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.config = Config(str(folder / "alembic.ini"), stdout=io.StringIO(), output_buffer=io.StringIO())
        command.init(self.config, str(folder / "migrations"))
        words = conninfo_to_dict(dsn)
        query = {name: str(value) for name, value in words.items() if name in ("host", "port")}
        url = URL.create(
            "postgresql+psycopg",
            username=str(words["user"]),
            password=None if words.get("password") is None else str(words["password"]),
            database=str(words["dbname"]),
            query=query,
        )
        text = url.render_as_string(hide_password=False).replace("%", "%%")
        self.config.set_main_option("sqlalchemy.url", text)
        env = ENV.format(models=str(folder / "models.py"))
        (folder / "migrations" / "env.py").write_text(env, encoding="utf-8")

    def models(self, text: str) -> None:
        """Write the models, which end with a `metadata`."""
        (self.folder / "models.py").write_text(HEAD + text, encoding="utf-8")

    def revise(self, message: str = "next", **options: str | bool) -> str:
        """A new revision by autogenerate, and the lines of its two functions."""
        made = command.revision(self.config, message, autogenerate=True, **options)  # type: ignore[arg-type]
        assert not isinstance(made, list)
        assert made is not None
        return Path(made.path).read_text(encoding="utf-8")

    def upgrade(self, revision: str = "heads") -> None:
        """`alembic upgrade`."""
        command.upgrade(self.config, revision)

    def downgrade(self, revision: str = "-1") -> None:
        """`alembic downgrade`."""
        command.downgrade(self.config, revision)

    def sql(self, revision: str = "heads", down: bool = False) -> str:
        """What `alembic upgrade --sql` prints."""
        self.config.output_buffer = io.StringIO()
        (command.downgrade if down else command.upgrade)(self.config, revision, sql=True)
        return self.config.output_buffer.getvalue()

    def write(self, upgrade: str, downgrade: str = "pass", **options: str | bool) -> None:
        """A revision by hand."""
        made = command.revision(self.config, "by hand", **options)  # type: ignore[arg-type]
        assert made is not None
        assert not isinstance(made, list)
        text = Path(made.path).read_text(encoding="utf-8")
        head, first, second = text.split("    pass\n")
        steps = [indent(lines.strip(), "    ") + "\n" for lines in (upgrade, downgrade)]
        Path(made.path).write_text(head + steps[0] + first + steps[1] + second, encoding="utf-8")

    def merge(self) -> None:
        """`alembic merge heads`, and the upgrade to it."""
        command.merge(self.config, "heads")
        self.upgrade()

    def heads(self) -> list[str]:
        """The newest revisions."""
        return ScriptDirectory.from_config(self.config).get_heads()


def body(revision: str, name: str = "upgrade") -> str:
    """The statements of one function of a revision, without comments."""
    found = re.search(rf"^def {name}\(\).*?:\n(.*?)(?=^def |\Z)", revision, re.MULTILINE | re.DOTALL)
    assert found is not None
    lines = [line.strip() for line in found[1].splitlines()]
    kept = [line for line in lines if line and not line.startswith(("#", '"""'))]
    return "\n".join(kept)


@pytest.fixture
def project(tmp_path: Path, dsn: str) -> Project:
    """A project whose database has our schema, and nothing else."""
    return Project(tmp_path, dsn)


@pytest.fixture
def bare_project(tmp_path: Path, bare_dsn: str) -> Project:
    """A project whose database has nothing of ours."""
    return Project(tmp_path, bare_dsn)
