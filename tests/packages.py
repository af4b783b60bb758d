"""Packages that tests compare ours with: each in a folder of its own, where nothing else sees it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

FETCHING, RUNNING = 400.0, 100.0  # seconds


def fetched(*requirements: str, dependencies: bool = False) -> Path:
    """A folder of the user's cache with the packages, which pip fetches the first time; else a skip."""
    wanted = json.dumps([*requirements, dependencies, sys.version])
    folder = user_cache_path("pg_embed") / "packages" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            target = Path(made) / "packages"
            _fetch(target, requirements, [] if dependencies else ["--no-deps"])
            if not folder.is_dir():  # another run may have been quicker
                target.rename(folder)
    return folder


def answer(program: str, folder: Path, told: Any, where: Path) -> Any:
    """What a program makes of the JSON `told`, with the packages in `folder`, in a process of its own.

    The program is called with two files, one to read and one to write.
    """
    question, answered = where / "question.json", where / "answer.json"
    question.write_text(json.dumps(told))
    done = subprocess.run(
        [sys.executable, "-c", program, str(question), str(answered)],
        capture_output=True,
        text=True,
        timeout=RUNNING,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(answered.read_text())


def _fetch(target: Path, requirements: tuple[str, ...], settings: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *settings, "--target", str(target)]
    try:
        done = subprocess.run(
            [*command, *requirements], capture_output=True, text=True, timeout=FETCHING, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not fetch {' and '.join(requirements)} within {FETCHING:g} seconds")
    if done.returncode:
        pytest.skip(f"pip cannot fetch {' and '.join(requirements)}: {done.stderr.strip()[-300:]}")
