"""Family "bm25": keyword search as sparse vectors, without weights, for any language.

A document's value for a term is BM25's share of the document, in its classic form (Robertson and Zaragoza):
tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average_length)); a query's is how often it has the term.
The other share, the term's rarity (IDF), changes with the table: the database multiplies the query by it
(embed._sparse_query_v1). The average length is fixed with the model; one that is wrong by half costs little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from pg_embed.errors import InvalidArgument
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.models.words import NUMBERS, VERSION, Words
from pg_embed.records import VECTORS, Card, Embeddings, Kind, ModelSpec, Outputs, SparseVectors, starts

MOST_TERMS = 16_000  # different ones that a sparsevec holds
MAX_TOKENS = 1_000_000

Row = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Bm25Options:
    """What a model of the family can be told; `average_length` is in terms (see `average_length`)."""

    language: str = "english"
    k1: float = 1.2
    b: float = 0.75
    average_length: float = 150.0


class Bm25Embedder:
    """Counts terms; holds no model."""

    def __init__(self, options: Bm25Options) -> None:
        _check(options)
        self._options = options
        self._words = Words(options.language)
        self.card = _card(options)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Terms of each text, stop words left out."""
        return [len(self._words.numbers(text)) for text in texts]

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Sparse vectors; of a text with more than `MOST_TERMS` terms the heaviest are kept."""
        numbers = [self._words.numbers(text) for text in texts]
        rows = [self._row(found, kind) for found in numbers]
        return Embeddings(
            dense=np.empty((len(texts), 0), np.float32),
            tokens=sum(map(len, numbers)),
            sparse=SparseVectors(
                starts([len(terms) for terms, _ in rows]),
                np.concatenate([np.empty(0, np.int32), *(terms for terms, _ in rows)]).astype(np.int32),
                np.concatenate([np.empty(0, np.float32), *(values for _, values in rows)]).astype(np.float32),
            ),
        )

    def close(self) -> None:
        """Nothing is held."""

    def _row(self, numbers: Sequence[int], kind: Kind) -> Row:
        terms, counts = np.unique(np.asarray(numbers, np.int64), return_counts=True)
        values = counts.astype(np.float64)
        if kind == "document":
            values = self._saturated(values, len(numbers))
        return _heaviest(terms, values)

    def _saturated(self, counts: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
        k1, b = self._options.k1, self._options.b
        damping = k1 * (1 - b + b * length / self._options.average_length)
        saturated: npt.NDArray[np.float64] = counts * (k1 + 1) / (counts + damping)
        return saturated


def average_length(texts: Iterable[str], language: str = "english") -> float:
    """The mean number of terms of a sample of documents: what the option of that name should be."""
    words = Words(language)
    lengths = [len(words.numbers(text)) for text in texts]
    if not sum(lengths):
        raise InvalidArgument("the sample has no terms", hint="give documents with words in them")
    return sum(lengths) / len(lengths)


def _heaviest(terms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> Row:
    if len(terms) <= MOST_TERMS:
        return terms, values
    kept = np.sort(np.argsort(-values, kind="stable")[:MOST_TERMS])
    return terms[kept], values[kept]


def _check(options: Bm25Options) -> None:
    if options.b > 1:
        raise InvalidArgument("option 'b' of family 'bm25' must be between 0 and 1")
    if options.average_length < 1:
        raise InvalidArgument("option 'average_length' of family 'bm25' must be 1 or more")


def _card(options: Bm25Options) -> Card:
    facts = {**asdict(options), "terms": VERSION}
    for name in ("k1", "b", "average_length"):
        facts[name] = float(facts[name])  # 1 and 1.0 are one model
    return Card(
        family="bm25",
        checkpoint="none",
        outputs=("sparse",),
        dimensions=NUMBERS,
        max_tokens=MAX_TOKENS,
        metric="ip",
        space_id=space_id("bm25", **facts),
        max_batch_items=256,
        max_batch_tokens=65_536,
        padded=False,
        shares_cpu=True,
    )


def load(spec: ModelSpec) -> Bm25Embedder:
    """A model of the family; ready at once."""
    return Bm25Embedder(read_options(spec, Bm25Options))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("bm25", "pg_embed.models.bm25:load")
