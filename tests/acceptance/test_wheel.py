"""The wheel, installed into an environment that has nothing but what the wheel asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement
from psycopg.types.json import Jsonb

from pg_embed.records import Card

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120.0  # seconds
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "sqlalchemy",
    "alembic",
    "django",
    "numpy",
    "scipy",
    "httpx",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=TIMEOUT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel and exactly the packages that it declares, linked from ours."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    install += ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=TIMEOUT)
    (ours,) = Distribution.discover(name="pg-embed", path=[str(site_packages)])
    for name in closure(ours):
        link(distribution(name), site_packages)
    return folder


def closure(root: Distribution) -> set[str]:
    """The names of all distributions that one needs when no extra is asked for."""
    found: set[str] = set()
    waiting: list[tuple[Distribution, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        parent, extras = waiting.pop()
        for text in parent.requires or []:
            needed = Requirement(text)
            wanted = not needed.marker or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras | {""}
            )
            if wanted and (needed.name not in found or needed.extras):
                found.add(needed.name)
                waiting.append((distribution(needed.name), frozenset(needed.extras)))
    return found


def link(package: Distribution, site_packages: Path) -> None:
    """Put a distribution that we have into another environment."""
    tops = {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        target = site_packages / top
        if not target.exists():
            target.symlink_to(Path(str(package.locate_file(top))))


def run(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment, far from our sources."""
    command = [str(environment / "bin" / arguments[0]), *arguments[1:]]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    return subprocess.run(
        command, cwd=environment, env=clean, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def test_sql_and_migrations_travel_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("sql", "migrations"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert files
        assert {f"pg_embed/{path.relative_to(ROOT)}" for path in files} <= packed
    assert "pg_embed/py.typed" in packed
    assert not any("__pycache__" in name for name in packed)


def test_package_is_imported_from_the_wheel(environment: Path) -> None:
    done = run(environment, "python", "-c", "import pg_embed; print(pg_embed.__version__, pg_embed.__file__)")
    version, path = done.stdout.split()
    assert version == distribution("pg-embed").version
    assert Path(path).is_relative_to(environment)


def test_import_loads_nothing_heavy(environment: Path) -> None:
    code = "import sys, json, pg_embed; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.partition(".")[0] for name in json.loads(run(environment, "python", "-c", code).stdout)}
    assert loaded.isdisjoint(HEAVY)


def test_core_brings_no_torch(environment: Path) -> None:
    done = run(environment, "python", "-c", "import torch")
    assert "No module named 'torch'" in done.stderr


def test_embedded_server_names_its_extra_where_it_is_missing(environment: Path) -> None:
    code = "from pg_embed.embedded import EmbeddedServer; EmbeddedServer().start()"
    assert "the embedded PostgreSQL 18 is not installed" in run(environment, "python", "-c", code).stderr


def test_schema_is_installed_by_the_command_and_makes_a_vectorizer(environment: Path, bare_dsn: str) -> None:
    done = run(environment, "pg-embed", "install", bare_dsn)
    assert done.returncode == 0, done.stdout + done.stderr
    card = Card("fake", "fake", ("dense",), 4, 512, "cosine", "fake-4")
    with psycopg.connect(bare_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
        connection.execute("SELECT embed.create_model('small', 'fake', card => %s)", [Jsonb(card.as_dict())])
        connection.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'small')")
        kind = connection.execute(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'docs'::regclass AND attname = 'embedding'"
        ).fetchone()
    assert kind is not None
    assert str(kind[0]).endswith("halfvec(4)")
