"""What a worker holds between claiming rows and finishing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pg_embed.records import Embeddings, ModelSpec, Output


class Lane(IntEnum):
    """The two priorities of the queue, as `embed._queue.priority` has them."""

    LIVE = 1
    BACKFILL = 2


@dataclass(frozen=True)
class Share:
    """A model's share of a vectorizer, and what the catalog says of the model."""

    spec: ModelSpec
    space_id: str
    dimensions: int
    sizes: Mapping[Output, int]  # what is stored of the model's outputs, and the dimensions of each


@dataclass(frozen=True)
class Work:
    """An active vectorizer, and what is due for it."""

    vectorizer: int
    name: str
    shares: Sequence[Share]  # one, or two where another model makes the sparse vectors
    column_type: str  # of the first output's column
    max_attempts: int
    reason: str | None  # why its rows could not be read or written, the last time
    has_backfill: bool
    live_due: bool
    backfill_due: bool
    chunking: Mapping[str, Any] | None = None  # how texts are split; None where a row has one vector
    must_sweep: bool = False  # there may be chunks whose rows went without a trigger
    is_gentle: bool = False  # a switch of models: nobody waits for its backfill, and all search meanwhile
    prepare: str | None = None  # the hook that makes the texts; None where they are read as such

    @property
    def sizes(self) -> dict[Output, int]:
        """What is stored, whichever model makes it, and the dimensions of each."""
        return {output: size for share in self.shares for output, size in share.sizes.items()}


@dataclass(frozen=True)
class Batch:
    """Claimed rows: `keys`, `texts`, `hashes` and `attempts` run in parallel; a key stands there once."""

    lane: Lane
    entries: Sequence[int]
    keys: Sequence[str]
    texts: Sequence[str]
    hashes: Sequence[int]
    attempts: Sequence[int]
    empty: Sequence[str]  # rows without input: their vectors are taken away
    gone: Sequence[str]  # keys whose rows are no longer there
    later: int = 0  # rows that were given back, for the others' texts are long enough

    @property
    def tries(self) -> int:
        """How often the most tried of the rows was claimed, this time included."""
        return max(self.attempts, default=1)

    @property
    def rows(self) -> int:
        """How many rows were claimed."""
        return len(self.keys) + len(self.empty) + len(self.gone)


@dataclass(frozen=True)
class Dead:
    """A row that is given up, by its place in the batch."""

    place: int
    code: str
    error: str


@dataclass(frozen=True)
class Refused:
    """A row whose vector its table does not take; `hash` is that of its text, None where it has none."""

    key: str
    hash: int | None
    code: str
    error: str
    attempts: int


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: the vectors of the rows at `places`, the dead, and those without a text."""

    places: Sequence[int]
    vectors: Embeddings
    dead: Sequence[Dead] = field(default=())
    bare: Sequence[int] = field(default=())  # places of rows of which a hook made no text
