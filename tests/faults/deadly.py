"""Family "deadly": the fake model, except that a word ends its process at once, as a crash would."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry, default_registry
from pg_embed.records import VECTORS, Embeddings, Kind, ModelSpec, Outputs

DEADLY = "deadly"


class DeadlyEmbedder(FakeEmbedder):
    """Does not survive a text with the word in it."""

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Hash, or die."""
        if any(DEADLY in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(texts, kind)


def load(spec: ModelSpec) -> DeadlyEmbedder:
    """A model that waits for its text."""
    return DeadlyEmbedder(read_options(spec, FakeOptions))


def registry() -> Registry:
    """All families, with this one and "unlucky"."""
    families = default_registry()
    families.register(DEADLY, "tests.faults.deadly:load")
    families.register("unlucky", "tests.faults.unlucky:load")
    return families
