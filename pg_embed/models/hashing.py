"""Family "fake": vectors from a hash of the text, for tests and trials; near texts are not near each other.

The same text has the same vector, bit by bit, on every machine: all sums are of whole numbers. A model that
is told so has a sparse vector of each text, too (how often each of its words occurs), and one for each word.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import shake_128

import numpy as np
import numpy.typing as npt

from pg_embed.errors import InputRejected, ModelUnavailable
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.records import (
    VECTORS,
    Card,
    Embeddings,
    Kind,
    Metric,
    ModelSpec,
    Output,
    Outputs,
    SparseVectors,
    TokenVectors,
    starts,
)

ROWS = 256  # at a time, to stay in the processor's cache

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FakeOptions:
    """What a fake model can be told; `fail_on` and `unavailable_on` are substrings that make a call fail."""

    dimensions: int = 8
    sparse_dimensions: int | None = None
    multi_dimensions: int | None = None
    delay: float = 0.0  # seconds a call
    fail_on: str | None = None
    unavailable_on: str | None = None
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int = 8_192
    metric: Metric = "cosine"
    concurrency: int = 2
    max_batch_items: int = 2_048
    max_batch_tokens: int = 1_048_576


class FakeEmbedder:
    """Hashes instead of a model."""

    def __init__(self, options: FakeOptions) -> None:
        self._options = options
        self._prompts: dict[Kind, str] = {"query": options.query_prompt, "document": options.document_prompt}
        self.card = _card(options)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """A quarter of the characters, and one."""
        return [len(text) // 4 + 1 for text in texts]

    def measure_tokens(self, texts: Sequence[str]) -> list[int]:
        """As `embed` counts them."""
        return self.count_tokens([self._prompts["document"] + text for text in texts])

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Hash and normalise."""
        if self._options.delay:
            time.sleep(self._options.delay)
        self._fail_if_told(texts)
        if prompt := self._prompts[kind]:
            texts = [prompt + text for text in texts]
        return Embeddings(
            dense=_vectors(texts, self.card.dimensions),
            tokens=sum(self.count_tokens(texts)),
            sparse=_sparse(texts, self.card.sparse_dimensions) if self.card.sparse_dimensions else None,
            multi=_multi(texts, self.card.multi_dimensions) if self.card.multi_dimensions else None,
        )

    def close(self) -> None:
        """Nothing is held."""

    def _fail_if_told(self, texts: Sequence[str]) -> None:
        options = self._options
        if options.fail_on and any(options.fail_on in text for text in texts):
            raise InputRejected(f"the fake model was told to refuse {options.fail_on!r}")
        if options.unavailable_on and any(options.unavailable_on in text for text in texts):
            raise ModelUnavailable(f"the fake model was told to fail on {options.unavailable_on!r} for now")


def _vectors(texts: Sequence[str], dimensions: int) -> Float32:
    dense = np.empty((len(texts), dimensions), np.float32)
    for start in range(0, len(texts), ROWS):
        dense[start : start + ROWS] = _hashed(texts[start : start + ROWS], dimensions)
    return dense


def _sparse(texts: Sequence[str], dimensions: int) -> SparseVectors:
    """How many words of each text have each number; a word's number is its hash."""
    rows = []
    for text in texts:
        digests = b"".join(
            [shake_128(word.encode("utf-8", "surrogatepass")).digest(4) for word in text.split()]
        )
        rows.append(np.unique(np.frombuffer(digests, "<u4") % dimensions, return_counts=True))
    none = [np.empty(0, np.int32)]
    return SparseVectors(
        starts([len(indices) for indices, _ in rows]),
        np.concatenate([*none, *(indices for indices, _ in rows)]).astype(np.int32),
        np.concatenate([*none, *(counts for _, counts in rows)]).astype(np.float32),
    )


def _multi(texts: Sequence[str], dimensions: int) -> TokenVectors:
    words = [text.split() for text in texts]
    vectors = _vectors([word for row in words for word in row], dimensions)
    return TokenVectors(starts([len(row) for row in words]), vectors)


def _hashed(texts: Sequence[str], dimensions: int) -> Float32:
    """A byte of the hash for each dimension, then length 1; no matrix product, for those start threads."""
    digests = b"".join(
        [shake_128(text.encode("utf-8", "surrogatepass")).digest(dimensions) for text in texts]
    )
    whole = np.frombuffer(digests, np.int8).astype(np.int32).reshape(len(texts), dimensions)
    whole[:, 0] |= ~whole.any(axis=1)  # a vector of zeros has no direction
    norms: Float32 = np.sqrt(np.einsum("ij,ij->i", whole, whole)).astype(np.float32)
    unit: Float32 = whole.astype(np.float32) / norms[:, None]
    return unit


def _card(options: FakeOptions) -> Card:
    facts = {name: fact for name, fact in asdict(options).items() if name in _CHANGE_VECTORS}
    outputs: tuple[Output, ...] = ("dense",)
    if options.sparse_dimensions:
        outputs += ("sparse",)
    if options.multi_dimensions:
        outputs += ("multi",)
    return Card(
        family="fake",
        checkpoint="hash",
        outputs=outputs,
        dimensions=options.dimensions,
        sparse_dimensions=options.sparse_dimensions,
        multi_dimensions=options.multi_dimensions,
        max_tokens=options.max_tokens,
        metric=options.metric,
        space_id=space_id("fake", **facts),
        concurrency=options.concurrency,
        max_batch_items=options.max_batch_items,
        max_batch_tokens=options.max_batch_tokens,
    )


_CHANGE_VECTORS = {"dimensions", "sparse_dimensions", "multi_dimensions", "query_prompt", "document_prompt"}


def load(spec: ModelSpec) -> FakeEmbedder:
    """A fake model; ready at once."""
    return FakeEmbedder(read_options(spec, FakeOptions))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("fake", "pg_embed.models.hashing:load")
