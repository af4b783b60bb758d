"""Collections with judged queries, read from a folder, and how good a ranking of theirs is."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Collection:
    """Documents and queries by their ids, and how relevant a document is to a query."""

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    judged: Mapping[str, Mapping[str, int]]


def read_collection(folder: Path) -> Collection:
    """A folder in BEIR's form: corpus.jsonl, queries.jsonl and qrels.tsv with a head line."""
    documents = {
        row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in _lines(folder / "corpus.jsonl")
    }
    judged: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    queries = {row["_id"]: row["text"] for row in _lines(folder / "queries.jsonl") if judged.get(row["_id"])}
    return Collection(folder.name, documents, queries, judged)


def ndcg(found: Sequence[str], judged: Mapping[str, int], depth: int = 10) -> float:
    """Normalised discounted cumulative gain of a ranking, as trec_eval has it (ndcg_cut)."""
    ideal = _gain(sorted(judged.values(), reverse=True)[:depth])
    return _gain([judged.get(key, 0) for key in found[:depth]]) / ideal if ideal else 0.0


def _gain(scores: Sequence[int]) -> float:
    return sum(max(score, 0) / math.log2(rank + 2) for rank, score in enumerate(scores))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
