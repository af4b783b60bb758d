"""The package BCEmbedding, whose own class runs in a process of its own; nothing else sees the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.packages import answer, fetched

PROGRAM = """
import json, sys
from transformers import XLMRobertaTokenizer
from BCEmbedding import RerankerModel
# transformers 5 has no such method
XLMRobertaTokenizer.encode_plus = lambda self, text, **settings: self(text, **settings)
asked, answered = sys.argv[1:]
told = json.load(open(asked))
model = RerankerModel(told["folder"], device="cpu")

def ranked(query, texts):
    found = model.rerank(query, texts)
    return [score for _, score in sorted(zip(found["rerank_ids"], found["rerank_scores"]))]

scores = [
    ranked(job["query"], job["texts"])
    if job["windows"]
    else [model.compute_score([[job["query"], text]], enable_tqdm=False) for text in job["texts"]]
    for job in told["jobs"]
]
json.dump(scores, open(answered, "w"))
"""
BceScores = Callable[[Path, list[dict[str, Any]]], list[Any]]


@pytest.fixture(scope="session")
def bcembedding_folder() -> Path:
    """Where the package lies."""
    return fetched("BCEmbedding==0.1.5")


@pytest.fixture
def bce_scores(bcembedding_folder: Path, tmp_path: Path) -> BceScores:
    """Scores of the package's own class, by `rerank()` or, without windows, by `compute_score()`."""

    def scores(folder: Path, jobs: list[dict[str, Any]]) -> list[Any]:
        told = {"folder": str(folder), "jobs": jobs}
        found = answer(PROGRAM, bcembedding_folder, told, tmp_path)
        return [np.asarray(scores, np.float32) for scores in found]

    return scores
