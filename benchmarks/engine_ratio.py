"""The engine over the bare library with the real MiniLM: the same texts, sorted alike, in the same batches.

`python -m benchmarks.engine_ratio [--texts 256] [--repeats 7] [--json]`

The engine's bulk threads are nice; here the library is as nice, else a busy machine would serve it first.
"""

from __future__ import annotations

import asyncio
import os
import sys

from sentence_transformers import SentenceTransformer

from benchmarks.common import Report, arguments, at_least, interleave, stopwatch
from benchmarks.texts import rows
from pg_embed.engine import Engine
from pg_embed.engine.threads import LOW_PRIORITY
from pg_embed.models.checkpoint import find_checkpoint
from pg_embed.models.presets import presets
from pg_embed.models.registry import default_registry
from pg_embed.records import Priority

MODEL = presets()["all-MiniLM-L6-v2"].spec
BATCH = 32  # as the family's on a CPU
TIMEOUT = 3_600.0  # seconds


async def opened() -> Engine:
    """An engine on this loop, with the model in it."""
    engine = Engine(default_registry())
    await engine.card(MODEL, TIMEOUT)
    return engine


def main() -> None:
    told = arguments("The engine over the bare library, MiniLM", texts=256, repeats=7).parse_args()
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, LOW_PRIORITY)
    texts = sorted(rows(told.texts), key=len, reverse=True)
    bare = SentenceTransformer(str(find_checkpoint(MODEL.options["checkpoint"])), device="cpu")
    with asyncio.Runner() as runner:
        engine = runner.run(opened())

        def by_engine() -> float:
            with stopwatch() as seconds:
                runner.run(engine.embed(MODEL, texts, "document", Priority.BACKFILL, TIMEOUT))
            return len(texts) / seconds()

        def by_library() -> float:
            with stopwatch() as seconds:
                bare.encode(texts, batch_size=BATCH, show_progress_bar=False)
            return len(texts) / seconds()

        for warm in (by_engine, by_library):
            warm()
        samples = interleave(told.repeats, {"engine": by_engine, "library": by_library})
        runner.run(engine.close())
    report = Report("all-MiniLM-L6-v2: the engine over SentenceTransformer.encode", {"texts": told.texts})
    sides = ("engine", samples["engine"]), ("library", samples["library"])
    report.ratio(f"{told.texts} texts of 450 characters", *sides, "texts/s", at_least(0.97))
    report.finish(told.json)


if __name__ == "__main__":
    main()
