"""Published figures of models, checked with the real weights where they are at hand.

    python -m benchmarks.golden                                  # what is in the hub's cache, or installed
    python -m benchmarks.golden bge-m3=/models/bge-m3 …          # weights in folders
    python -m benchmarks.golden --download bge-m3                # fetched from the hub
    python -m benchmarks.golden --abstracts FILE GritLM-7B       # its example's two documents, one a line

Nothing is fetched without `--download`. The exit status is 1 where a figure differs, else 0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

Float32 = npt.NDArray[np.float32]

M3_QUERIES = ["What is BGE M3?", "Defination of BM25"]  # spelled as in the published example
M3_TEXTS = [
    "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector interaction.",
    "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query terms"
    " appearing in each document",
]
GRIT_TASK = "Given a scientific paper title, retrieve the paper's abstract"
GRIT_QUERIES = [
    "Bitcoin: A Peer-to-Peer Electronic Cash System",
    "Generative Representational Instruction Tuning",
]
GRIT_DIGESTS = [  # SHA-256 of the abstracts of the two papers, as the model's README has them
    "cda9b3812b878f66e6c5e7773fd7587419f644b67924766e13e78f544df943b3",
    "51e0a8779953aff2dece0da55881907082b8098a2d5eeac2fa8ceae7f08c0e8f",
]
PLANET = "Which planet is known as the Red Planet?"
PLANETS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]


@dataclass(frozen=True)
class Golden:
    """What is published of a model: `measure` gives the figures that stand in `expected`."""

    preset: str
    figure: str
    expected: Sequence[float]
    tolerance: float
    measure: Callable[[Any], Sequence[float]]
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Result:
    """One line of the table; None where nothing was measured, and why."""

    golden: Golden
    found: Sequence[float] | None
    note: str

    @property
    def differs(self) -> bool:
        return self.note == "differs"


def dense(queries: Sequence[str], texts: Sequence[str]) -> Callable[[Any], Sequence[float]]:
    """Cosines of every query with every text."""

    def measure(model: Any) -> Sequence[float]:
        return rounded(
            unit(model.embed(queries, "query").dense) @ unit(model.embed(texts, "document").dense).T
        )

    return measure


def sparse(model: Any) -> Sequence[float]:
    """BGE-M3's lexical scores: products of the weights of the tokens that two texts share."""
    queries = model.embed(M3_QUERIES, "query", frozenset({"sparse"})).sparse
    texts = model.embed(M3_TEXTS, "document", frozenset({"sparse"})).sparse

    def product(query: int, text: int) -> float:
        (tokens, weights), (others, other_weights) = queries.row(query), texts.row(text)
        _, here, there = np.intersect1d(tokens, others, return_indices=True)
        return float(weights[here] @ other_weights[there])

    return [product(query, text) for query in range(2) for text in range(2)]


def multi(model: Any) -> Sequence[float]:
    """BGE-M3's scores by token: the mean over a query's vectors of the best product with a text's."""
    queries = model.embed(M3_QUERIES, "query", frozenset({"multi"})).multi
    texts = model.embed(M3_TEXTS, "document", frozenset({"multi"})).multi
    return [
        float((queries.row(query) @ texts.row(text).T).max(axis=1).mean())
        for query in range(2)
        for text in range(2)
    ]


def log_odds(model: Any) -> Sequence[float]:
    """A reranker's scores, which are probabilities, as what they were before the sigmoid."""
    scores = model.rerank(PLANET, PLANETS).scores.astype(np.float64)
    return [float(value) for value in np.log(scores / (1 - scores))]


def beside_library(model: Any) -> Sequence[float]:
    """Cosines of MiniLM's vectors with those that sentence-transformers itself makes of the same weights."""
    from sentence_transformers import SentenceTransformer

    from pg_embed.models.checkpoint import find_checkpoint

    library = SentenceTransformer(str(find_checkpoint(model.card.checkpoint)), device="cpu")
    found = model.embed(PLANETS, "document").dense
    return [
        float(value) for value in (found * library.encode(PLANETS, normalize_embeddings=True)).sum(axis=1)
    ]


def abstracts(file: Path | None) -> list[str]:
    """The documents of GritLM's example, which must be the published ones; none where no file is named."""
    if file is None:
        return []
    texts = file.read_text(encoding="utf-8").splitlines()
    if [hashlib.sha256(text.encode()).hexdigest() for text in texts] != GRIT_DIGESTS:
        raise SystemExit(f"{file} has not the two documents of GritLM's README, one a line")
    return texts


def unit(vectors: Float32) -> Float32:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rounded(scores: Float32) -> list[float]:
    return [float(score) for score in scores.ravel()]


FULL = (("dtype", "float32"),)
GOLDEN = [
    Golden("all-MiniLM-L6-v2", "cosine with sentence-transformers", [1.0] * 4, 1e-5, beside_library),
    Golden("bge-m3", "dense", [0.6260, 0.3474, 0.3499, 0.6782], 2e-3, dense(M3_QUERIES, M3_TEXTS)),
    Golden("bge-m3", "sparse", [0.1956, 0.0088, 0.0, 0.1803], 2e-3, sparse),
    Golden("bge-m3", "multi", [0.7796, 0.4621, 0.4524, 0.7899], 2e-3, multi),
    Golden("Qwen3-Reranker-0.6B", "log-odds", [-3.1093, 7.1204, -0.3788, 3.5416], 2e-2, log_odds, FULL),
]


def gritlm(texts: Sequence[str]) -> Golden:
    """The cosines of its README's example."""
    told = (("instruction", GRIT_TASK),)
    expected = [0.608, 0.101, 0.120, 0.533]
    return Golden("GritLM-7B", "cosine", expected, 5e-3, dense(GRIT_QUERIES, texts), told)


def main() -> None:
    names = sorted({golden.preset for golden in [*GOLDEN, gritlm([])]})
    parser = argparse.ArgumentParser(
        description="Published figures of models, checked with the real weights."
    )
    parser.add_argument(
        "models", nargs="*", metavar="NAME[=FOLDER]", help=f"of {', '.join(names)}; all if none"
    )
    parser.add_argument("--abstracts", type=Path, help="the two documents of GritLM's example, one a line")
    parser.add_argument("--download", action="store_true", help="fetch weights that are missing")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of the table")
    told = parser.parse_args()
    folders = dict(name.partition("=")[::2] for name in told.models)
    if unknown := sorted(folders.keys() - set(names)):
        parser.error(f"nothing is published of {unknown[0]}")
    if not told.download:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported: not before this
    texts = abstracts(told.abstracts)
    golden = [*GOLDEN, gritlm(texts)]
    results = []
    for name in names if not folders else sorted(folders):
        wanted = [one for one in golden if one.preset == name]
        if name == "GritLM-7B" and not texts:
            results += [Result(one, None, "no abstracts here") for one in wanted]
        else:
            results += check(name, folders.get(name) or None, wanted)
    tell(results, told.json)
    raise SystemExit(any(result.differs for result in results))


def check(name: str, folder: str | None, wanted: Sequence[Golden]) -> list[Result]:
    """Load a model once, and measure what is published of it."""
    from pg_embed.errors import ModelMisconfigured, ModelUnavailable
    from pg_embed.models.presets import presets
    from pg_embed.models.registry import default_registry
    from pg_embed.records import ModelSpec

    preset, registry = presets()[name], default_registry()
    if preset.family not in registry.families():
        return [Result(golden, None, f"no family {preset.family} here") for golden in wanted]
    options = {**preset.options, **dict(wanted[0].options)}
    if folder is not None:
        options["checkpoint"] = str(Path(folder).resolve())
    try:
        model: Any = registry.load(ModelSpec(name, preset.family, options))
    except (ModelMisconfigured, ModelUnavailable) as exc:
        if folder is None and "not in the local cache" in str(exc):
            return [Result(golden, None, "no weights here") for golden in wanted]
        raise
    with closing(model):
        return [compared(golden, model) for golden in wanted]


def compared(golden: Golden, model: Any) -> Result:
    found = list(golden.measure(model))
    near = np.allclose(found, golden.expected, rtol=0, atol=golden.tolerance)
    return Result(golden, found, "ok" if near else "differs")


def tell(results: list[Result], as_json: bool) -> None:
    if as_json:
        told = [
            {
                "model": result.golden.preset,
                "figure": result.golden.figure,
                "expected": list(result.golden.expected),
                "tolerance": result.golden.tolerance,
                "found": result.found,
                "result": result.note,
            }
            for result in results
        ]
        print(json.dumps(told))
        return
    table = Table("model", "figure", "expected", "measured", "within", "result")
    for result in results:
        golden = result.golden
        colour = {"ok": "green", "differs": "red"}.get(result.note, "")
        table.add_row(
            golden.preset,
            golden.figure,
            figures(golden.expected),
            figures(result.found or ()),
            f"{golden.tolerance:g}",
            f"[{colour}]{result.note}[/]" if colour else result.note,
        )
    Console(width=None if os.isatty(1) else 160).print(table)


def figures(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    main()
