"""The package FlagEmbedding, whose classes run in a process of their own; nothing else sees the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.packages import answer, fetched

PACKAGES = (  # and what it imports; transformers and torch are ours
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
RERANKER_PROGRAM = """
import json, sys
from FlagEmbedding import FlagReranker
asked, answered = sys.argv[1:]
told = json.load(open(asked))
model = FlagReranker(told["folder"], devices="cpu")
model.tokenizer.model_max_length = 10**9  # nothing is said about texts that are cut later

def prepared(first, second, **settings):
    # transformers 4 joined the two lists of ids, and 5 has no such method
    rest = settings["max_length"] - len(first) - 4
    begin, end = [model.tokenizer.bos_token_id], [model.tokenizer.eos_token_id]
    ids = begin + first + end + end + second[:rest] + end
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}

def scores(pairs, settings, joined):
    model.tokenizer.prepare_for_model = prepared if joined else None
    alone = [model.compute_score([pair], **settings)[0] for pair in pairs]
    return alone + model.compute_score(pairs, **settings)

scores = [scores(**job) for job in told["jobs"]]
json.dump(scores, open(answered, "w"))
"""
M3_PROGRAM = """
import json, sys
from FlagEmbedding import BGEM3FlagModel

ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}

def plain(found):
    weights = [{token: float(weight) for token, weight in row.items()} for row in found["lexical_weights"]]
    colbert = [vectors.tolist() for vectors in found["colbert_vecs"]]
    return {"dense": found["dense_vecs"].tolist(), "sparse": weights, "multi": colbert}

asked, answered = sys.argv[1:]
job = json.load(open(asked))
model = BGEM3FlagModel(job["folder"], devices="cpu", use_fp16=False)
answers = {"embeddings": plain(model.encode(job["texts"], max_length=job["max_tokens"], **ALL))}
if job["pairs"]:
    limits = {"max_query_length": job["max_tokens"], "max_passage_length": job["max_tokens"]}
    answers["scores"] = model.compute_score(job["pairs"], **limits)
json.dump(answers, open(answered, "w"))
"""
TheirM3 = Callable[..., dict[str, Any]]
FlagScores = Callable[[Path, list[dict[str, Any]]], list[Any]]


@pytest.fixture(scope="session")
def flag_folder() -> Path:
    """Where the package lies."""
    return fetched(*PACKAGES)


@pytest.fixture
def flag_scores(flag_folder: Path, tmp_path: Path) -> FlagScores:
    """Scores of the package's own class: of each pair alone, then of all in a batch.

    A job that is `joined` runs as under transformers 4, where the class joined token ids; under 5 it makes
    text of them first.
    """

    def scores(folder: Path, jobs: list[dict[str, Any]]) -> list[Any]:
        found = answer(RERANKER_PROGRAM, flag_folder, {"folder": str(folder), "jobs": jobs}, tmp_path)
        return [np.asarray(scores, np.float32) for scores in found]

    return scores


@pytest.fixture
def their_m3(flag_folder: Path, tmp_path: Path) -> TheirM3:
    """What the package's class for BGE-M3 makes of texts, and the scores it gives to pairs of texts."""

    def their_m3(
        folder: Path, texts: list[str], max_tokens: int, pairs: list[tuple[str, str]] | None = None
    ) -> dict[str, Any]:
        job = {"folder": str(folder), "texts": texts, "max_tokens": max_tokens, "pairs": pairs}
        told: dict[str, Any] = answer(M3_PROGRAM, flag_folder, job, tmp_path)
        embeddings = told["embeddings"]
        embeddings["dense"] = np.asarray(embeddings["dense"], np.float32)
        embeddings["multi"] = [np.asarray(vectors, np.float32) for vectors in embeddings["multi"]]
        return told

    return their_m3
