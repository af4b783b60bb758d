"""BGE-M3's three outputs: our family over FlagEmbedding's own class, the same tiny checkpoint and texts.

Both sides run on one thread of the CPU in float32, in one process, and make the same batches of texts sorted
by length; the time is the processor's, so that nothing else on the machine counts. Their class reads the
first batch twice, to see whether it fits. The package is fetched into the cache the first time (290 MB).
`python -m benchmarks.three_outputs [--rows 256] [--batch 32] [--layers 4] [--hidden 256] [--repeats 5]`
"""

from __future__ import annotations

import io
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Report, arguments, at_least, cache_dir, interleave, log
from benchmarks.texts import rows
from pg_embed.models import local
from pg_embed.models.bge_m3 import load
from pg_embed.records import VECTORS, Embeddings, ModelSpec, Outputs
from tests.fix_checkpoints import MAX_TOKENS, make_bge_m3
from tests.fix_flag import PACKAGES

VOCABULARY = 250_002  # the real one's, which sparse vectors have dimensions of
SHORTEST, LONGEST, STEP = 30, 150, 13  # characters, which are tokens nearly all
SHOWN: dict[str, Outputs] = {"three outputs": VECTORS, "dense alone": frozenset({"dense"})}
TOLERANCE = 1e-4  # random weights magnify rounding
isclose = partial(math.isclose, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def flag_model(folder: Path) -> Any:
    """The authors' class; its package comes last on the path, so that all other packages are ours."""
    packages = cache_dir() / PACKAGES[0]
    if not packages.is_dir():
        log(f"fetching {PACKAGES[0]} and what it needs")
        with tempfile.TemporaryDirectory(dir=cache_dir()) as made:
            target = Path(made) / "packages"
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target)]
            subprocess.run([*pip, *PACKAGES], check=True)
            target.rename(packages)
    sys.path.append(str(packages))
    with local.quiet():
        from FlagEmbedding import BGEM3FlagModel

        return BGEM3FlagModel(str(folder), devices="cpu", use_fp16=False)


def texts_of_all_lengths(count: int) -> list[str]:
    span = LONGEST - SHORTEST
    return [text[: SHORTEST + number * STEP % span] for number, text in enumerate(rows(count))]


def check_same(ours: Embeddings, theirs: dict[str, Any]) -> None:
    """Nothing is worth measuring unless both sides make the same vectors."""
    assert ours.sparse is not None
    assert ours.multi is not None
    assert np.abs(ours.dense - theirs["dense_vecs"]).max() <= TOLERANCE
    for row, weights in enumerate(theirs["lexical_weights"]):
        found = dict(zip(*(part.tolist() for part in ours.sparse.row(row)), strict=True))
        assert {str(token) for token in found} == set(weights)
        assert all(isclose(found[int(token)], weight) for token, weight in weights.items())
        assert np.abs(ours.multi.row(row) - theirs["colbert_vecs"][row]).max() <= TOLERANCE


def rate(count: int, embed: Callable[[], object]) -> float:
    """Texts a second of the processor."""
    start = time.process_time()
    embed()
    return count / (time.process_time() - start)


def main() -> None:
    options = arguments(
        "Three outputs of BGE-M3", rows=256, batch=32, layers=4, hidden=256, repeats=5
    ).parse_args()
    torch.set_num_threads(1)
    texts = texts_of_all_lengths(options.rows)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "bge_m3"
        make_bge_m3(
            folder,
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            intermediate_size=4 * options.hidden,
            vocab_size=VOCABULARY,
        )
        theirs = flag_model(folder)
        told = {"checkpoint": str(folder), "device": "cpu", "batch_size": options.batch}
        ours = load(ModelSpec("tiny", "bge_m3", told))

        def encode(outputs: Outputs) -> Any:
            with redirect_stderr(io.StringIO()):  # its progress
                return theirs.encode(
                    texts,
                    batch_size=options.batch,
                    max_length=MAX_TOKENS,
                    return_dense="dense" in outputs,
                    return_sparse="sparse" in outputs,
                    return_colbert_vecs="multi" in outputs,
                )

        check_same(ours.embed(texts, "document"), encode(VECTORS))
        report = Report(
            f"Tiny BGE-M3 ({options.layers} layers, {options.hidden} d): our family over BGEM3FlagModel",
            {"texts": f"{options.rows}, of {SHORTEST} to {LONGEST} characters", "batch": options.batch},
        )
        for name, outputs in SHOWN.items():
            sides = {
                "ours": partial(rate, len(texts), partial(ours.embed, texts, "document", outputs)),
                "BGEM3FlagModel": partial(rate, len(texts), partial(encode, outputs)),
            }
            samples = interleave(options.repeats, sides)
            report.ratio(name, *samples.items(), "texts/CPU s", at_least(1.0))
    report.finish(options.json)


if __name__ == "__main__":
    main()
