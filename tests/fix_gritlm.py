"""The gritlm package, whose own class runs in a process of its own; nothing else sees the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.packages import answer, fetched

PROGRAM = """
import json, sys
from gritlm import GritLM
asked, answered = sys.argv[1:]
told = json.load(open(asked))
model = GritLM(told["folder"], mode="embedding", device="cpu")
vectors = [
    [model.encode([text], **job["settings"])[0].tolist() for text in job["texts"]]
    + model.encode(job["texts"], **job["settings"]).tolist()
    for job in told["jobs"]
]
json.dump(vectors, open(answered, "w"))
"""
Theirs = Callable[[Path, list[dict[str, Any]]], list[Any]]


@pytest.fixture(scope="session")
def gritlm_folder() -> Path:
    """Where the package lies."""
    return fetched("gritlm==1.0.2")


@pytest.fixture
def theirs(gritlm_folder: Path, tmp_path: Path) -> Theirs:
    """Vectors of the package's own class: of each text alone, then of all in a batch."""

    def theirs(folder: Path, jobs: list[dict[str, Any]]) -> list[Any]:
        found = answer(PROGRAM, gritlm_folder, {"folder": str(folder), "jobs": jobs}, tmp_path)
        return [np.asarray(vectors, np.float32) for vectors in found]

    return theirs
