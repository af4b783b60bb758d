"""The authors' algorithms in their plainest form: one text at a time, no padding, no code of ours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
TEXTS = [
    "How do I get my money back?",
    "a cat",
    "the stock market fell by three percent",
    "naïve Größe 東京 пример 🦜",
    "a cat sat on the mat " * 5,
]
LONG = "You may send anything back within thirty days. " * 100


def token_ids(folder: Path, text: str, **settings: Any) -> list[int]:
    """Of the library's own tokenizer, told what to add by settings."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), **settings)
    found: list[int] = tokenizer(text, truncation=False)["input_ids"]
    return found


def states(folder: Path, ids: Sequence[int], *, bidirectional: bool = False) -> Any:
    """The last layer's output of shape (tokens, dimensions); all see all by a mask that says so."""
    import torch

    model = _model(folder)
    everything = torch.zeros(1, 1, len(ids), len(ids))
    mask = everything if bidirectional else torch.ones(1, len(ids), dtype=torch.long)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]


@lru_cache(maxsize=1)
def _model(folder: Path) -> Any:
    import torch
    from transformers import AutoModel

    return AutoModel.from_pretrained(str(folder), dtype=torch.float32).eval()


def last(folder: Path, rows: Sequence[Sequence[int]], *, bidirectional: bool = False) -> Float32:
    """Normalised vectors of the last tokens."""
    return unit([states(folder, ids, bidirectional=bidirectional)[-1].numpy() for ids in rows])


def unit(vectors: Any) -> Float32:
    """Of length 1."""
    rows: Float32 = np.asarray(vectors, np.float32)
    normalised: Float32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def cosines(left: Float32, right: Float32) -> Float32:
    """Of each row with the row in the same place."""
    found: Float32 = (unit(left).astype(np.float64) * unit(right)).sum(axis=1).astype(np.float32)
    return found


def same(left: Float32, right: Float32) -> bool:
    """Whether every vector points where the other one does."""
    return bool((cosines(left, right) >= 0.99999).all())


def different(left: Float32, right: Float32) -> bool:
    """Whether no vector points where the other one does."""
    return bool((cosines(left, right) < 0.999).all())
