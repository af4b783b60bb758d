"""A user's Django project in a folder, with models that a test writes as text; and Django in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).parents[1]
SETTINGS = """
SECRET_KEY = "a test"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "pg_embed.django", "shop"]
DATABASES = {databases!r}
"""
HEAD = """
from django.db import models
from pg_embed.django import ChunkedField, EmbeddedField, EmbeddedManager
THREE = {"model": "three", "dimensions": 8, "column_type": "vector"}
SPARSE = {"model": "three", "dimensions": 1000, "output": "sparse"}
"""


def database(dsn: str) -> dict[str, Any]:
    """A database as Django's settings have it."""
    words = conninfo_to_dict(dsn)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    given = {key: str(words[name]) for key, name in names.items() if words.get(name) is not None}
    return {"ENGINE": "django.db.backends.postgresql", **given}


class Project:
    """A user's project, and what `manage.py` does in it; a failure raises what it printed."""

    def __init__(self, folder: Path, dsn: str, nursery: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.nursery = nursery
        self.app = folder / "shop"
        (self.app / "migrations").mkdir(parents=True)
        (self.app / "__init__.py").touch()
        (self.app / "migrations" / "__init__.py").touch()
        self.settings(databases={"default": database(dsn)})

    def settings(self, text: str = "", *, databases: dict[str, Any]) -> None:
        """Write the settings, with more lines after them."""
        whole = SETTINGS.format(databases=databases) + text
        (self.folder / "settings.py").write_text(whole, encoding="utf-8")

    def models(self, text: str) -> None:
        """Write the models."""
        (self.app / "models.py").write_text(HEAD + text, encoding="utf-8")

    def manage(self, *arguments: str) -> str:
        """One command of `manage.py`, and what it prints."""
        return self._run(command=arguments)

    def run(self, code: str) -> str:
        """A script in the project, and what it prints."""
        return self._run(script=f"from shop.models import *\n{code}")

    def _run(self, **asked: Any) -> str:
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(json.dumps({"folder": str(self.folder), **asked}) + "\n")
        self.nursery.stdin.flush()
        answer = json.loads(self.nursery.stdout.readline())
        if answer["code"]:
            raise AssertionError(answer["printed"])
        return str(answer["printed"])

    def revise(self, *arguments: str) -> str:
        """A new migration by `makemigrations`, as text."""
        before = set(self._migrations())
        self.manage("makemigrations", "shop", "--no-input", *arguments)
        (made,) = set(self._migrations()) - before
        return made.read_text(encoding="utf-8")

    def is_settled(self) -> bool:
        """Whether `makemigrations` finds nothing more."""
        return "No changes detected" in self.manage("makemigrations", "--check", "--dry-run")

    def migrate(self, *arguments: str) -> str:
        """`manage.py migrate`."""
        return self.manage("migrate", "--no-input", *arguments)

    def write(self, name: str, after: str, operations: str) -> None:
        """A migration by hand."""
        lines = [
            "from django.db import migrations, models",
            "from pg_embed.django import ChunkedField, EmbeddedField",
            "from pg_embed.django.operations import *",
            "class Migration(migrations.Migration):",
            f"    dependencies = [('pg_embed', '0001_install'), ('shop', {after!r})]",
            f"    operations = [{operations}]",
        ]
        (self.app / "migrations" / f"{name}.py").write_text("\n".join(lines), encoding="utf-8")

    def _migrations(self) -> list[Path]:
        return list((self.app / "migrations").glob("[0-9]*.py"))


@pytest.fixture(scope="session")
def django_nursery() -> Iterator[subprocess.Popen[str]]:
    """A process whose children run commands: each would spend seconds on its imports."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.django_nursery"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def django_project(tmp_path: Path, bare_dsn: str, django_nursery: subprocess.Popen[str]) -> Project:
    """A project whose database has nothing of ours."""
    return Project(tmp_path, bare_dsn, django_nursery)


@pytest.fixture
def project_db(bare_dsn: str, django_project: Project) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection of the superuser to the project's database."""
    with psycopg.connect(bare_dsn, autocommit=True) as connection:
        yield connection


def configure() -> None:
    """Let models be defined in this process; a test says later which databases they are in."""
    from django.conf import settings

    if settings.configured:
        return
    import django

    settings.configure(
        DATABASES={name: {"ENGINE": "django.db.backends.postgresql"} for name in ("default", "other")},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["pg_embed.django", "tests.integration.django.app.Found"],
        TIME_ZONE="UTC",
        USE_TZ=True,
    )
    django.setup()


@contextmanager
def connected(dsn: str, alias: str = "default", **options: Any) -> Iterator[None]:
    """Django's connection goes to a database, for a while."""
    from django.db import connections

    connection = connections[alias]
    before = dict(connection.settings_dict)
    connection.settings_dict.update({**database(dsn), "OPTIONS": options})
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.clear()
        connection.settings_dict.update(before)
