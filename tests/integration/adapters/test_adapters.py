"""The adapters to LangChain and LlamaIndex, each with its package in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pg_embed.errors import MissingExtra
from pg_embed.resources import PACKAGE
from tests.packages import fetched

HERE = Path(__file__).parent
RUNNING = 900.0  # seconds
SETTINGS = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
addopts = --import-mode=importlib
"""
# too heavy, with what they bring, for the extra `dev`
LANGCHAIN = ("langchain-core==1.7.2", "langchain-tests==1.1.9")
LLAMAINDEX = ("llama-index-core==0.14.25",)


def run(suite: str, folder: Path, where: Path) -> int:
    """Run a file of tests with the packages of a folder; returns how many passed, all of them."""
    plugins = ("-p", "pg_embed.pytest_plugin", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
    settings = where / "pytest.ini"  # ours is strict about markers, which LangChain's tests are not
    settings.write_text(SETTINGS, encoding="ascii")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PYTEST"))}
    own = {
        "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{folder}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", str(settings), *plugins, str(HERE / suite)],
        cwd=where,
        env={**kept, **own},
        capture_output=True,
        text=True,
        timeout=RUNNING,
        check=False,
    )
    told = re.search(r"^(\d+) passed(?:, \d+ warnings?)? in ", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert told is not None, done.stdout[-2000:]
    return int(told[1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_langchains_own_standard_tests_and_ours(tmp_path: Path) -> None:
    assert run("langchain_suite.py", fetched(*LANGCHAIN, dependencies=True), tmp_path) > 50


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_llamaindex(tmp_path: Path) -> None:
    assert run("llamaindex_suite.py", fetched(*LLAMAINDEX, dependencies=True), tmp_path) > 20


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [("langchain_core", "langchain", "langchain"), ("llama_index", "llamaindex", "llamaindex")],
)
def test_without_its_package(monkeypatch: pytest.MonkeyPatch, package: str, module: str, extra: str) -> None:
    import importlib

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"pg_embed.{module}", raising=False)
    with pytest.raises(MissingExtra, match="is not installed") as caught:
        importlib.import_module(f"pg_embed.{module}")
    assert f"pg-embed[{extra}]" in (caught.value.hint or "")
