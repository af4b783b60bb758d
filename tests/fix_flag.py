"""The FlagEmbedding package, whose classes run in a process of their own; nothing else sees the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PACKAGES = (  # and what importing it needs beside torch and transformers, which are ours
    "FlagEmbedding==1.4.2",
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "dill==0.4.1",
    "multiprocess==0.70.19",
    "pandas==3.1.1",
    "peft==0.21.2",
    "pyarrow==26.0.1",
    "python-dateutil==4.0.0",
    "xxhash==4.1.0",
)
FETCHING, RUNNING = 100.0, 100.0  # seconds
M3_PROGRAM = """
import json, sys
from FlagEmbedding import BGEM3FlagModel

ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}

def plain(found):
    weights = [{token: float(weight) for token, weight in row.items()} for row in found["lexical_weights"]]
    colbert = [vectors.tolist() for vectors in found["colbert_vecs"]]
    return {"dense": found["dense_vecs"].tolist(), "sparse": weights, "multi": colbert}

folder, job, answer = sys.argv[1:]
job = json.loads(job)
model = BGEM3FlagModel(folder, devices="cpu", use_fp16=False)
answers = {"embeddings": plain(model.encode(job["texts"], max_length=job["max_tokens"], **ALL))}
if job["pairs"]:
    limits = {"max_query_length": job["max_tokens"], "max_passage_length": job["max_tokens"]}
    answers["scores"] = model.compute_score(job["pairs"], **limits)
open(answer, "w").write(json.dumps(answers))
"""
TheirM3 = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def flag_folder(request: pytest.FixtureRequest) -> Path:
    """Where the package lies, fetched once."""
    cache = Path(str(request.config.cache.mkdir(PACKAGES[0])))  # type: ignore[union-attr]
    folder = cache / "packages"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as made:
            try:
                fetch(Path(made) / "packages")
            except subprocess.SubprocessError as exc:
                pytest.skip(f"pip cannot fetch {PACKAGES[0]}: {exc}")
            if not folder.is_dir():  # another run may have been quicker
                (Path(made) / "packages").rename(folder)
    return folder


def fetch(folder: Path) -> None:
    """Install the packages, and nothing that they require beside them, into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(folder)]
    subprocess.run([*pip, *PACKAGES], capture_output=True, timeout=FETCHING, check=True)


@pytest.fixture
def their_m3(flag_folder: Path, tmp_path: Path) -> TheirM3:
    """What the package's class for BGE-M3 makes of texts, and the scores it gives to pairs of texts."""

    def their_m3(
        folder: Path, texts: list[str], max_tokens: int, pairs: list[tuple[str, str]] | None = None
    ) -> dict[str, Any]:
        answer = tmp_path / "answer.json"
        job = json.dumps({"texts": texts, "max_tokens": max_tokens, "pairs": pairs})
        done = subprocess.run(
            [sys.executable, "-c", M3_PROGRAM, str(folder), job, str(answer)],
            capture_output=True,
            text=True,
            timeout=RUNNING,
            check=False,
            env={**os.environ, "PYTHONPATH": str(flag_folder)},
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(answer.read_text())
        embeddings = told["embeddings"]
        embeddings["dense"] = np.asarray(embeddings["dense"], np.float32)
        embeddings["multi"] = [np.asarray(vectors, np.float32) for vectors in embeddings["multi"]]
        return told

    return their_m3
