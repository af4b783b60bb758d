"""Measures of rankings by trec_eval's own code (pytrec-eval-terrier), and of times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pg_embed.errors import MissingExtra
from pg_embed.evaluation.collection import Judged

SHALLOW, DEEP = 10, 100  # how far down nDCG and MRR look, and recall

Rankings = Mapping[str, Sequence[str]]  # for each query the documents that were found, the best first


def quality(first: Rankings, deep: Rankings, judged: Judged) -> dict[str, float]:
    """Means over the judged queries: nDCG@10 and MRR@10 of `first`, recall@100 of `deep`, each 0 to 1.

    nDCG takes the judged score as the gain and log2(rank + 1) as the discount; a score of 1 or more is
    relevant to the others. A query without a ranking counts as 0.
    """
    shallow = _measured(first, judged, SHALLOW, {"ndcg_cut.10", "recip_rank"})
    recall = _measured(deep, judged, DEEP, {"recall.100"})
    return {
        "ndcg@10": _mean(shallow, judged, "ndcg_cut_10"),
        "recall@100": _mean(recall, judged, "recall_100"),
        "mrr@10": _mean(shallow, judged, "recip_rank"),  # of ten documents
    }


def latency(milliseconds: Sequence[float]) -> dict[str, float]:
    """The median and the 95th percentile (the smallest time that 95 % of them do not exceed)."""
    ordered = sorted(milliseconds)
    last = math.ceil(0.95 * len(ordered)) - 1
    return {"p50_ms": statistics.median(ordered), "p95_ms": ordered[last]}


def check_measures() -> None:
    """Raise MissingExtra where the library is not installed."""
    _library()


def _measured(rankings: Rankings, judged: Judged, depth: int, names: set[str]) -> Mapping[str, Any]:
    scored = {
        # trec_eval ranks by score, and equal scores by the documents' names
        query: {document: float(-rank) for rank, document in enumerate(found[:depth])}
        for query, found in rankings.items()
        if found
    }
    measured: Mapping[str, Any] = _library().RelevanceEvaluator(judged, names).evaluate(scored)
    return measured


def _mean(measured: Mapping[str, Any], queries: Iterable[str], name: str) -> float:
    return statistics.fmean(float(measured.get(query, {}).get(name, 0)) for query in queries)


def _library() -> Any:
    try:
        import pytrec_eval
    except ImportError as exc:
        raise MissingExtra(
            f"a package for measures is missing: {exc}", hint="pip install 'pg-embed[eval]'"
        ) from exc
    return pytrec_eval
