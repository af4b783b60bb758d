"""The whole path with the real MiniLM over `SentenceTransformer.encode` of the same texts, bare and warm.

`python -m benchmarks.pipeline [--rows 640] [--repeats 3] [--json]`
"""

from __future__ import annotations

import time

from sentence_transformers import SentenceTransformer

from benchmarks import ours
from benchmarks.common import Report, arguments, at_least, interleave
from benchmarks.cycle import Cycle
from benchmarks.postgres import postgres
from benchmarks.texts import rows
from pg_embed.models.checkpoint import find_checkpoint

BATCH = 32  # the fastest on processors


def main() -> None:
    options = arguments("Pipeline over bare encode, MiniLM", rows=640, repeats=3).parse_args()
    texts = rows(options.rows)
    model = SentenceTransformer(str(find_checkpoint(ours.MINILM["checkpoint"])), device="cpu")
    model.encode(texts[:BATCH], batch_size=BATCH)

    def bare() -> float:
        start = time.perf_counter()
        model.encode(texts, batch_size=BATCH, show_progress_bar=False)
        return len(texts) / (time.perf_counter() - start)

    with postgres() as server:
        cycle = Cycle(server, "sentence_transformers", ours.MINILM)
        report = Report(
            f"all-MiniLM-L6-v2, {options.rows} rows of 450 characters: pipeline over bare encode",
            {**server.conditions(), "bare": f"encode(batch_size={BATCH}) on the CPU"},
        )
        samples = interleave(
            options.repeats, {"pipeline": lambda: cycle.backfill(options.rows), "bare": bare}
        )
        report.ratio(
            "rows/s", ("pipeline", samples["pipeline"]), ("bare", samples["bare"]), "rows/s", at_least(0.95)
        )
    report.finish(options.json)


if __name__ == "__main__":
    main()
