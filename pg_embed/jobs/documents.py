"""Rows whose texts are split into chunks, between reading and finishing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pg_embed.jobs.batch import Dead
from pg_embed.records import Embeddings


@dataclass(frozen=True)
class Document:
    """A row with a text; `ids` and `hashes` are those of the chunks that it has, in their order."""

    key: str
    text: str
    hash: int
    ids: Sequence[int] = ()
    hashes: Sequence[int] = ()


@dataclass(frozen=True)
class Reading:
    """Rows of a batch that were read together."""

    documents: Sequence[Document]
    empty: Sequence[str]  # keys of rows without input: they have no chunks
    gone: Sequence[str]  # keys whose rows are no longer there
    keys: int  # how many keys of the batch these are; 0 when the vectorizer was stopped

    @property
    def bare(self) -> Sequence[str]:
        """Keys whose chunks go, whatever they were."""
        return [*self.empty, *self.gone]


@dataclass(frozen=True)
class Kept:
    """A chunk that is there and stays, under a number; `place` is that of its document."""

    place: int
    id: int
    number: int


@dataclass(frozen=True)
class Made:
    """A chunk that has a vector now; with an `id` it is there, and its vectors take the place of others."""

    place: int
    number: int
    text: str
    context: str
    hash: int
    id: int | None = None


@dataclass(frozen=True)
class Chunked:
    """What became of documents; `vectors` has a row for each of `made`, and these with an id come first."""

    kept: Sequence[Kept]
    made: Sequence[Made]
    vectors: Embeddings
    dead: Sequence[Dead] = field(default=())
