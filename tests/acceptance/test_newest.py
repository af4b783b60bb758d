"""The tests of Django once more: with its newest version, on trixie's Python, in a root of debootstrap's.

The first run makes the root in the user's cache, by apt and pip (a minute, 0.6 GB), and a run after a change
of the packages makes another.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_embed.embedded import EmbeddedServer
from tests.fix_pg import temporary_folder
from tests.fix_trixie import BUILDING, CERTIFICATES, copy, doubled, in_root, kept

ROOT = Path(__file__).resolve().parents[2]
RUNNING = 900.0  # seconds
SOURCES = ("pg_embed", "sql", "migrations", "tests")
FOR_TESTS = {
    "greenlet",
    "hypothesis",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
}  # torch is not among them
ENVIRONMENT = {"PATH": "/opt/python/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
PACKAGES = """
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/python
cd /opt
pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt
"""


def name_of(requirement: str) -> str:
    """The package that a requirement is of."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def requirements() -> list[str]:
    """What the package needs for Django, and what its tests need besides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tests = [wanted for wanted in extras["dev"] if name_of(wanted) in FOR_TESTS]
    return [*project["dependencies"], *extras["django"], *tests]


def constraints() -> dict[str, str]:
    """The pinned version of each package, by its name."""
    files = [ROOT / name for name in ("constraints.txt", "constraints-newest.txt")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    return {name_of(pin): pin for pin in pins}


@pytest.fixture(scope="module")
def newest(trixie: Path) -> Path:
    """A root with the packages."""
    needed, pinned = "\n".join(requirements()), "\n".join(constraints().values())

    def make(folder: Path) -> None:
        doubled(trixie, folder)
        (folder / "opt" / "requirements.txt").write_text(needed)
        (folder / "opt" / "constraints.txt").write_text(pinned)
        trust = {"PIP_CERT": CERTIFICATES} if "PIP_CERT" in os.environ else {}
        command = in_root(folder, {**ENVIRONMENT, **trust}, "sh", "-ec", PACKAGES)
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILDING, check=False)
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]

    return kept(hashlib.sha256(f"{PACKAGES}{needed}{pinned}".encode()).hexdigest()[:12], make)


@pytest.fixture
def sources(newest: Path) -> Iterator[Path]:
    """Today's sources, in a folder of the root."""
    with tempfile.TemporaryDirectory(prefix="newest-", dir=newest / "tmp") as name:
        folder = Path(name)
        for source in SOURCES:
            copy(ROOT / source, folder / source)
        copy(ROOT / "pyproject.toml", folder)
        yield folder


@pytest.mark.slow
@pytest.mark.timeout(BUILDING + RUNNING)
def test_the_tests_of_django_pass_with_its_newest_version(newest: Path, sources: Path) -> None:
    def run(*words: str, **environment: str) -> str:
        inside = f"--chdir=/{sources.relative_to(newest)}"
        command = in_root(newest, {**ENVIRONMENT, **environment}, "env", inside, "python", *words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUNNING, check=False)
        assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
        return done.stdout

    found = run("-c", "import sys, django; print(sys.version_info >= (3, 13), django.__version__)")
    assert found.split() == ["True", constraints()["django"].removeprefix("Django==")]
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "tests/integration/django"]
    with temporary_folder() as folder, EmbeddedServer(folder, fast=True, tcp_port=0) as server:
        said = run(*suite, PG_EMBED_TEST_DSN=server.dsn(tcp=True))
    assert re.search(r"\d+ passed", said.splitlines()[-1])
    assert " skipped" not in said.splitlines()[-1]
