"""The gritlm package, whose own class runs in a process of its own; nothing else sees the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PACKAGE = "gritlm==1.0.2"
FETCHING, RUNNING = 60.0, 100.0  # seconds
PROGRAM = """
import json, sys
from gritlm import GritLM
folder, jobs, answer = sys.argv[1:]
model = GritLM(folder, mode="embedding", device="cpu")
vectors = [
    [model.encode([text], **job["settings"])[0].tolist() for text in job["texts"]]
    + model.encode(job["texts"], **job["settings"]).tolist()
    for job in json.loads(jobs)
]
open(answer, "w").write(json.dumps(vectors))
"""
Theirs = Callable[[Path, list[dict[str, Any]]], list[Any]]


@pytest.fixture(scope="session")
def gritlm_folder(request: pytest.FixtureRequest) -> Path:
    """Where the package lies, fetched once."""
    folder = Path(str(request.config.cache.mkdir(PACKAGE)))  # type: ignore[union-attr]
    if not (folder / "gritlm").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(folder)]
        try:
            done = subprocess.run(
                [*pip, PACKAGE], capture_output=True, text=True, timeout=FETCHING, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"pip did not fetch {PACKAGE} within {FETCHING:g} seconds")
        if done.returncode:
            pytest.skip(f"pip cannot fetch {PACKAGE}: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture
def theirs(gritlm_folder: Path, tmp_path: Path) -> Theirs:
    """Vectors of the package's own class: of each text alone, then of all in a batch."""

    def theirs(folder: Path, jobs: list[dict[str, Any]]) -> list[Any]:
        answer = tmp_path / "vectors.json"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), json.dumps(jobs), str(answer)],
            capture_output=True,
            text=True,
            timeout=RUNNING,
            check=False,
            env={**os.environ, "PYTHONPATH": str(gritlm_folder)},
        )
        assert done.returncode == 0, done.stderr
        return [np.asarray(vectors, np.float32) for vectors in json.loads(answer.read_text())]

    return theirs
