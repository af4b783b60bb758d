"""Measures against values worked out by hand, and the picture of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.evaluation import Mode, check_plot, chosen_modes, latency, plot, quality

FIGURES = {"ndcg@10": 0.7, "recall@100": 0.9, "mrr@10": 0.6, "p50_ms": 5.0, "p95_ms": 9.0}


@pytest.mark.parametrize(
    ("found", "judged", "ndcg", "reciprocal"),
    [
        (["a", "b"], {"a": 1}, 1.0, 1.0),
        (["b", "a"], {"a": 1}, 0.6309, 0.5),  # 1 / log2(3)
        (["a", "x", "b"], {"a": 1, "b": 1}, 0.9197, 1.0),  # (1 + 1/2) / (1 + 1 / log2(3))
        (["a", "b"], {"a": 1, "b": 3}, 0.7967, 1.0),  # (1 + 3 / log2(3)) / (3 + 1 / log2(3))
        ([f"x{rank}" for rank in range(10)] + ["a"], {"a": 1}, 0.0, 0.0),  # beyond the tenth
        ([], {"a": 1}, 0.0, 0.0),
    ],
)
def test_one_query(found: list[str], judged: dict[str, int], ndcg: float, reciprocal: float) -> None:
    told = quality({"q": found}, {"q": found}, {"q": judged})
    assert told["ndcg@10"] == pytest.approx(ndcg, abs=1e-4)
    assert told["mrr@10"] == pytest.approx(reciprocal)


def test_means_count_queries_that_found_nothing() -> None:
    judged = {"q1": {"a": 1, "b": 1}, "q2": {"c": 1}, "q3": {"d": 1}}
    deep = {"q1": ["x", "a"], "q2": [*(f"x{rank}" for rank in range(100)), "c"], "q3": []}
    told = quality({"q1": ["a"], "q2": ["x", "c"]}, deep, judged)
    assert told["recall@100"] == pytest.approx(0.5 / 3)
    assert told["mrr@10"] == pytest.approx((1 + 0.5) / 3)
    assert told["ndcg@10"] == pytest.approx((1 / 1.6309 + 0.6309) / 3, abs=1e-4)


def test_the_order_of_a_ranking_is_kept_whatever_the_names() -> None:
    for found in (["a", "z"], ["z", "a"]):
        assert quality({"q": found}, {"q": found}, {"q": {found[0]: 1}})["mrr@10"] == 1


def test_times() -> None:
    assert latency([float(time) for time in range(1, 101)]) == {"p50_ms": 50.5, "p95_ms": 95.0}
    assert latency([3.0]) == {"p50_ms": 3.0, "p95_ms": 3.0}


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "quality.png"
    check_plot(path)
    plot([{"dataset": "pets", "modes": {"dense": FIGURES, "hybrid": {**FIGURES, "p50_ms": 7.0}}}], path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["quality.doc", "nowhere/quality.png"])
def test_a_picture_that_cannot_be_written_is_told_beforehand(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_plot(tmp_path / name)


def test_the_libraries_are_loaded_when_needed() -> None:
    code = "import sys, pg_embed.evaluation; print({'pytrec_eval', 'matplotlib', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_modes_are_those_that_are_wanted_and_the_rerankers() -> None:
    assert [mode.name for mode in chosen_modes((), ())] == ["dense", "sparse", "hybrid"]
    assert chosen_modes(["hybrid"], ["judge"]) == (
        Mode("hybrid", "hybrid"),
        Mode("hybrid+judge", "hybrid", "judge"),
    )
    with pytest.raises(InvalidArgument, match="no mode 'best'"):
        chosen_modes(["best"], ())
