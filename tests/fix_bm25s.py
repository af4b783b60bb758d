"""BM25 by bm25s, a package that has nothing of ours: scores to compare ours with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pg_embed.records import Float32
from tests.packages import answer, fetched

# Lucene's form has no factor k1 + 1: an answer is ours divided by it.
PROGRAM = """
import json, sys
import bm25s

asked, answered = sys.argv[1:]
told = json.load(open(asked))
index = bm25s.BM25(method="lucene", k1=told["k1"], b=told["b"])
index.index(told["documents"], show_progress=False)
json.dump([index.get_scores(query).tolist() for query in told["queries"]], open(answered, "w"))
"""
Terms = Sequence[Sequence[str]]
Bm25sScores = Callable[[Terms, Terms], Float32]
K1, B = 1.2, 0.75


@pytest.fixture
def bm25s_scores(tmp_path: Path) -> Bm25sScores:
    """A score of every document for every query, all given as terms."""

    def scores(documents: Terms, queries: Terms) -> Float32:
        told = {"k1": K1, "b": B, "documents": documents, "queries": queries}
        found = answer(PROGRAM, fetched("bm25s==0.2.14"), told, tmp_path)
        return np.asarray(found, np.float32) * (K1 + 1)

    return scores
