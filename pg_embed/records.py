"""The values that go from room to room: frozen and small."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["query", "document"]
Metric = Literal["cosine", "ip", "l2"]
Output = Literal["dense", "sparse", "multi", "score"]  # "score": a reranker's, which makes no vectors
Outputs = frozenset[Output]
VECTORS: Outputs = frozenset({"dense", "sparse", "multi"})
Float32 = npt.NDArray[np.float32]
Rows = Sequence[int] | npt.NDArray[np.intp]


class Priority(IntEnum):
    """Who goes first in a model's queue; a smaller number is served earlier."""

    QUERY = 0
    LIVE = 1
    BACKFILL = 2


@dataclass(frozen=True)
class ModelSpec:
    """A model as the catalog names it: enough to load it, nothing secret in it."""

    name: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for two names of one configuration, so that it is loaded once."""
        return json.dumps([self.family, dict(self.options)], sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Card:
    """What a model is and how it wants to be fed.

    `dimensions` is the size of the first of its outputs: of its dense vector if it makes one, else of its
    sparse or token vectors; 1 for the scores of a reranker. The others, where a model has several outputs,
    have sizes of their own.

    `space_id` fingerprints all that changes the vectors (weights, pooling, prompts, dimensions, special
    tokens); device, dtype and batch size are left out: vectors that differ by rounding alone may be mixed.
    """

    family: str
    checkpoint: str
    outputs: tuple[Output, ...]
    dimensions: int
    max_tokens: int
    metric: Metric
    space_id: str
    concurrency: int = 1  # calls that the model takes at the same time
    max_batch_items: int = 32  # texts a call
    max_batch_tokens: int = 16_384  # tokens a call, counted as `padded` says
    padded: bool = True  # a call costs its longest text times their count; else the sum of its texts
    shares_cpu: bool = (
        False  # computes on this machine's processors: bulk calls then run at a lower OS priority
    )
    sparse_dimensions: int | None = None
    multi_dimensions: int | None = None
    paid: bool = (
        False  # each call costs money: vectors of texts that come again are kept, unless told otherwise
    )
    listwise: bool = False  # a reranker's scores depend on the other texts of a call: it takes all at once

    def size(self, output: Output) -> int:
        """Dimensions of an output, which must be one of the model's."""
        others = {"sparse": self.sparse_dimensions, "multi": self.multi_dimensions}
        return others.get(output) or self.dimensions

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON types, for the wire and the catalog."""
        return {**self.__dict__, "outputs": list(self.outputs)}


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, one behind the other: row `i` from `starts[i]` to before `starts[i + 1]`."""

    starts: npt.NDArray[np.int64]  # of shape (rows + 1,), the first is 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    def places(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Where the elements of these rows stand, row after row."""
        spans = [np.arange(self.starts[row], self.starts[row + 1]) for row in rows]
        return np.concatenate(spans) if spans else np.empty(0, np.int64)


@dataclass(frozen=True)
class SparseVectors(Ragged):
    """Sparse vectors: `indices` count from 0 and ascend within a row, no value is 0; a row may be empty."""

    indices: npt.NDArray[np.int32]
    values: Float32

    def cut(self, start: int, stop: int) -> SparseVectors:
        """Some rows that stand together, without copying them."""
        span = slice(self.starts[start], self.starts[stop])
        return SparseVectors(
            self.starts[start : stop + 1] - self.starts[start], self.indices[span], self.values[span]
        )

    def take(self, rows: Rows) -> SparseVectors:
        """These rows, in this order, copied."""
        places = self.places(rows)
        return SparseVectors(_starts(self, rows), self.indices[places], self.values[places])

    def row(self, row: int) -> tuple[npt.NDArray[np.int32], Float32]:
        """Indices and values of one row."""
        span = slice(self.starts[row], self.starts[row + 1])
        return self.indices[span], self.values[span]


@dataclass(frozen=True)
class TokenVectors(Ragged):
    """Several vectors a text: `vectors` is float32 of shape (vectors of all rows, dimensions)."""

    vectors: Float32

    def cut(self, start: int, stop: int) -> TokenVectors:
        """Some rows that stand together, without copying them."""
        span = slice(self.starts[start], self.starts[stop])
        return TokenVectors(self.starts[start : stop + 1] - self.starts[start], self.vectors[span])

    def take(self, rows: Rows) -> TokenVectors:
        """These rows, in this order, copied."""
        return TokenVectors(_starts(self, rows), self.vectors[self.places(rows)])

    def row(self, row: int) -> Float32:
        """The vectors of one row, of shape (vectors, dimensions)."""
        return self.vectors[self.starts[row] : self.starts[row + 1]]


@dataclass(frozen=True)
class Embeddings:
    """One call's result, in the order of the texts.

    `dense` is float32 of shape (texts, dimensions), or (texts, 0) where no dense vectors were asked for or
    the model has none; `sparse` and `multi` have as many rows, or are None for the same reasons.
    """

    dense: Float32
    tokens: int = 0  # tokens that the call used, as the model or the provider counts them
    sparse: SparseVectors | None = None
    multi: TokenVectors | None = None
    requests: int = 0  # calls of the model; one that several callers share is the first one's

    def __len__(self) -> int:
        return len(self.dense)

    def cut(self, start: int, stop: int, tokens: int = 0) -> Embeddings:
        """Some rows that stand together, not copied; `tokens` is what they are said to have used."""
        return Embeddings(
            dense=self.dense[start:stop],
            tokens=tokens,
            sparse=None if self.sparse is None else self.sparse.cut(start, stop),
            multi=None if self.multi is None else self.multi.cut(start, stop),
        )

    def take(self, rows: Rows, tokens: int = 0) -> Embeddings:
        """These rows, in this order, copied; `tokens` is what they are said to have used."""
        return Embeddings(
            dense=self.dense[np.asarray(rows, np.intp)],
            tokens=tokens,
            sparse=None if self.sparse is None else self.sparse.take(rows),
            multi=None if self.multi is None else self.multi.take(rows),
        )


@dataclass(frozen=True)
class CallLimit:
    """What one call should have at most, of a model that may do only so much in a minute."""

    items: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Reservation:
    """A call that may be sent after so many seconds; its tokens as estimated, and as reserved."""

    seconds: float
    estimated: int
    reserved: int


@dataclass(frozen=True)
class Remaining:
    """What a provider says is left of a limit; of how much, and in how many seconds it is whole again."""

    left: float
    limit: float | None = None
    reset: float | None = None


@dataclass(frozen=True)
class Allowance:
    """What a provider says, with an answer, is left of its limits."""

    requests: Remaining | None = None
    tokens: Remaining | None = None


@dataclass(frozen=True)
class Scores:
    """A reranker's result: `scores` is float32 of shape (texts,), in the order of the texts; high is good."""

    scores: Float32
    tokens: int = 0
    requests: int = 0  # calls of the model


def join(parts: Sequence[Embeddings]) -> Embeddings:
    """One result of several, which have the same outputs; there must be one at least."""
    if len(parts) == 1:
        return parts[0]
    sparse = [part.sparse for part in parts if part.sparse is not None]
    multi = [part.multi for part in parts if part.multi is not None]
    return Embeddings(
        dense=np.concatenate([part.dense for part in parts]),
        tokens=sum(part.tokens for part in parts),
        requests=sum(part.requests for part in parts),
        sparse=SparseVectors(
            _joined(sparse),
            np.concatenate([part.indices for part in sparse]),
            np.concatenate([part.values for part in sparse]),
        )
        if sparse
        else None,
        multi=TokenVectors(_joined(multi), np.concatenate([part.vectors for part in multi]))
        if multi
        else None,
    )


def no_embeddings() -> Embeddings:
    """Of no texts, with every output."""
    none = np.empty(0, np.float32)
    return Embeddings(
        dense=none.reshape(0, 0),
        sparse=SparseVectors(starts([]), np.empty(0, np.int32), none),
        multi=TokenVectors(starts([]), none.reshape(0, 0)),
    )


def starts(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where rows of these lengths start, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(lengths, np.int64))])


def _starts(ragged: Ragged, rows: Rows) -> npt.NDArray[np.int64]:
    return starts(np.diff(ragged.starts)[np.asarray(rows, np.intp)])


def _joined(parts: Sequence[Ragged]) -> npt.NDArray[np.int64]:
    return starts(np.concatenate([np.diff(part.starts) for part in parts]))
