"""Faster ways to compute on a CPU over float32 by torch, through the engine: speed, likeness, ranking.

    python -m benchmarks.cpu_paths                       # speed and likeness
    python -m benchmarks.cpu_paths --scifact FOLDER      # and nDCG@10 on SciFact (needs ir-measures)

The folder has corpus.jsonl, queries.jsonl and qrels.tsv as BEIR has them.
"""

from __future__ import annotations

import asyncio
import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import Report, arguments, at_least, at_most, interleave, log, stopwatch
from benchmarks.texts import rows
from pg_embed.engine import Engine
from pg_embed.models.registry import default_registry
from pg_embed.records import Kind, ModelSpec, Priority

PLAIN = "float32"
PATHS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "onnx": {"backend": "onnx"},
    "onnx int8": {"backend": "onnx", "quantize": "int8"},
}
SPEED = {"bfloat16": at_least(1.5), "onnx": None, "onnx int8": at_least(2)}
UNLIKENESS = {"bfloat16": at_most(1e-3), "onnx": at_most(1e-5), "onnx int8": at_most(1e-2)}  # 1 - cosine
SHORT = 60  # characters: a query's length
TIMEOUT = 3_600.0

Float32 = npt.NDArray[np.float32]


class Paths:
    """The models in one engine on one event loop."""

    def __init__(self, checkpoint: str) -> None:
        self._runner = asyncio.Runner()
        self._engine = self._runner.run(self._open())
        self._specs = {
            name: ModelSpec(
                name, "sentence_transformers", {"checkpoint": checkpoint, "device": "cpu", **told}
            )
            for name, told in PATHS.items()
        }
        for name, spec in self._specs.items():
            log(f"loading {name}")
            self._runner.run(self._engine.card(spec, TIMEOUT))

    async def _open(self) -> Engine:
        return Engine(default_registry())

    def embed(self, path: str, texts: Sequence[str], kind: Kind = "document") -> Float32:
        """Dense vectors, by bulk."""
        call = self._engine.embed(self._specs[path], texts, kind, Priority.BACKFILL, TIMEOUT)
        return self._runner.run(call).dense

    def speed(self, path: str, texts: Sequence[str]) -> float:
        """Texts a second."""
        with stopwatch() as seconds:
            self.embed(path, texts)
        return len(texts) / seconds()

    def close(self) -> None:
        self._runner.run(self._engine.close())
        self._runner.close()


def main() -> None:
    parser = arguments(
        "Faster ways to compute on a CPU over float32 by torch.", texts=256, repeats=5, documents=0
    )
    parser.add_argument("--checkpoint", default="all-MiniLM-L6-v2", help=" ")
    parser.add_argument("--scifact", type=Path, help="folder; --documents takes so many of them, all where 0")
    told = parser.parse_args()
    report = Report("CPU paths, through the engine", {"checkpoint": told.checkpoint, "texts": told.texts})
    paths = Paths(told.checkpoint)
    long = rows(told.texts)
    for what, texts in (("450 characters", long), (f"{SHORT} characters", [text[:SHORT] for text in long])):
        compare(report, paths, what, texts, told.repeats)
    if told.scifact is not None:
        rank(report, paths, told.scifact, told.documents)
    paths.close()
    report.finish(told.json)


def compare(report: Report, paths: Paths, what: str, texts: list[str], repeats: int) -> None:
    """Speed in turn, then likeness of the vectors."""
    for path in PATHS:
        paths.embed(path, texts[:32])
    samples = interleave(repeats, {path: lambda path=path: paths.speed(path, texts) for path in PATHS})
    expected = paths.embed(PLAIN, texts).astype(np.float64)
    for path in SPEED:
        sides = (path, samples[path]), (PLAIN, samples[PLAIN])
        report.ratio(f"{path}, {what}", *sides, "texts/s", SPEED[path])
        found = paths.embed(path, texts).astype(np.float64)
        cosines = (
            (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        )
        report.figure(f"{path}, {what}: 1 - mean cosine", [float(1 - cosines.mean())], "", UNLIKENESS[path])
        report.figure(f"{path}, {what}: 1 - least cosine", [float(1 - cosines.min())], "")


def rank(report: Report, paths: Paths, folder: Path, documents: int) -> None:
    """nDCG@10 of float32 and of int8, and what the one loses against the other."""
    import ir_measures

    qrels = list(csv.DictReader((folder / "qrels.tsv").open(encoding="utf-8"), delimiter="\t"))
    judged = [ir_measures.Qrel(row["query-id"], row["corpus-id"], int(row["score"])) for row in qrels]
    queries = read(folder / "queries.jsonl")
    wanted = {qrel.query_id for qrel in judged}
    queries = {name: text for name, text in queries.items() if name in wanted}
    corpus = chosen(read(folder / "corpus.jsonl"), {qrel.doc_id for qrel in judged}, documents)
    found = {}
    for path in (PLAIN, "onnx int8"):
        log(f"ranking {len(corpus)} documents for {len(queries)} queries by {path}")
        run = ranked(paths, path, queries, corpus)
        found[path] = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)[ir_measures.nDCG @ 10]
        report.figure(f"{path}, {len(corpus)} of SciFact: nDCG@10", [found[path]], "")
    loss = abs(found[PLAIN] - found["onnx int8"])
    report.figure("onnx int8, SciFact: nDCG@10, difference", [loss], "", at_most(0.005))


def read(file: Path) -> dict[str, str]:
    """Title and text by id."""
    told = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in told}


def chosen(corpus: dict[str, str], relevant: set[str], documents: int) -> dict[str, str]:
    """All documents, or the relevant ones and others by lot."""
    if not documents:
        return corpus
    others = sorted(corpus.keys() - relevant)
    random.Random(1).shuffle(others)
    kept = relevant | set(others[: max(0, documents - len(relevant))])
    return {name: text for name, text in corpus.items() if name in kept}


def ranked(paths: Paths, path: str, queries: dict[str, str], corpus: dict[str, str]) -> list[Any]:
    """The 100 nearest of each query."""
    import ir_measures

    names, vectors = list(corpus), paths.embed(path, list(corpus.values()))
    scores = paths.embed(path, list(queries.values()), "query") @ vectors.T
    return [
        ir_measures.ScoredDoc(query, names[column], float(row[column]))
        for query, row in zip(queries, scores, strict=True)
        for column in np.argsort(-row)[:100]
    ]


if __name__ == "__main__":
    main()
