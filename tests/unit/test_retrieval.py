"""benchmarks/retrieval.py: the measure, by values worked out by hand; a collection in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.retrieval import ndcg, read_collection


@pytest.mark.parametrize(
    ("found", "judged", "value"),
    [
        (["a", "b"], {"a": 1}, 1.0),
        (["b", "a"], {"a": 1}, 0.6309),  # 1 / log2(3)
        (["a", "x", "b"], {"a": 1, "b": 1}, 0.9197),  # (1 + 1/2) / (1 + 1 / log2(3))
        (["a", "b"], {"a": 1, "b": 3}, 0.7967),  # (1 + 3 / log2(3)) / (3 + 1 / log2(3))
        (["x"] * 10 + ["a"], {"a": 1}, 0.0),  # beyond the tenth
        ([], {"a": 1}, 0.0),
        (["a"], {"a": 0}, 0.0),
    ],
)
def test_ndcg(found: list[str], judged: dict[str, int], value: float) -> None:
    assert ndcg(found, judged) == pytest.approx(value, abs=1e-4)


def test_a_collection_is_read_from_its_three_files(tmp_path: Path) -> None:
    documents = [{"_id": "d1", "title": "Cats", "text": "purr"}, {"_id": "d2", "text": "Dogs bark"}]
    queries = [{"_id": "q1", "text": "purr?"}, {"_id": "q2", "text": "nobody judged this"}]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n", encoding="utf-8")
    read = read_collection(tmp_path)
    assert read.documents == {"d1": "Cats purr", "d2": "Dogs bark"}
    assert read.queries == {"q1": "purr?"}
    assert read.judged == {"q1": {"d1": 2}}
