"""Family "unlucky": the fake model, except that a file in a folder makes the next call fail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pg_embed.errors import ModelUnavailable
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.local import OutOfMemory
from pg_embed.models.options import read_options
from pg_embed.records import VECTORS, Embeddings, Kind, ModelSpec, Outputs

MISHAPS = ("memory", "crash", "unavailable", "slow", "short")
LONG = 0.5  # seconds that a slow call takes


@dataclass(frozen=True)
class UnluckyOptions(FakeOptions):
    """Those of the fake model, and the folder in which each mishap is a file, named mishap-anything."""

    mishaps: str = ""


class UnluckyEmbedder(FakeEmbedder):
    """One call takes one mishap away."""

    def __init__(self, options: UnluckyOptions) -> None:
        super().__init__(options)
        self._folder = Path(options.mishaps)

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Hash, or fail."""
        mishap = self._next()
        if mishap == "memory":
            raise OutOfMemory(f"out of memory: {len(texts)} texts are too many")
        if mishap == "crash":
            raise RuntimeError("this is a bug of the model")
        if mishap == "unavailable":
            raise ModelUnavailable("not now")
        if mishap == "slow":
            time.sleep(LONG)
        found = super().embed(texts, kind)
        return replace(found, dense=found.dense[:-1]) if mishap == "short" else found

    def _next(self) -> str | None:
        for path in self._folder.iterdir():
            try:
                path.unlink()
            except FileNotFoundError:  # another process took it
                continue
            return path.name.partition("-")[0]
        return None


def load(spec: ModelSpec) -> UnluckyEmbedder:
    """A model that waits for its mishaps."""
    return UnluckyEmbedder(read_options(spec, UnluckyOptions))
