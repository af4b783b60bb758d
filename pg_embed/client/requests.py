"""What clients ask a database, and what they make of its answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

import numpy as np
import orjson
from psycopg.types.json import Jsonb

from pg_embed import statements
from pg_embed.errors import InvalidArgument, ModelUnavailable, SpaceMismatch
from pg_embed.models.spelling import spelled
from pg_embed.records import (
    VECTORS,
    Card,
    Embeddings,
    Float32,
    Kind,
    ModelSpec,
    Output,
    SparseVectors,
    TokenVectors,
    no_embeddings,
    starts,
)
from pg_embed.search import Asked, Table, identifier

BATCH = 256  # texts a request
SQL = statements.load("client")
Vectors = Float32 | SparseVectors | TokenVectors


@dataclass(frozen=True)
class Status:
    """How far a vectorizer is: rows pending, in flight and failed; the columns of embed.status."""

    vectorizer: str
    table: str
    model: str
    sparse_model: str | None
    state: str
    reason: str | None
    pending: int
    in_flight: int
    failed: int
    backfill: int
    rows_per_second: float
    oldest: timedelta | None
    time_left: timedelta | None
    last_error: str | None


@dataclass(frozen=True)
class Found:
    """A model of the catalog, and the space that the database expects its vectors to be in."""

    spec: ModelSpec
    space_id: str | None = None

    def check(self, card: Card) -> None:
        """Raise where a loaded model makes other vectors than the database has."""
        if self.space_id not in (None, card.space_id):
            raise SpaceMismatch(
                f"model {self.spec.name!r} makes vectors of the space {card.space_id} here,"
                f" the database has {self.space_id}",
                hint="load the model's revision with the options that the database was told of",
            )


@dataclass(frozen=True)
class Question:
    """Texts to embed."""

    texts: list[str]
    model: str | None
    kind: Kind
    output: Output

    def batches(self) -> Iterator[dict[str, Any]]:
        """The parameters of one request after the other."""
        for start in range(0, len(self.texts), BATCH):
            texts = self.texts[start : start + BATCH]
            yield {"texts": texts, "model": self.model, "kind": self.kind, "output": self.output}


def question(texts: Sequence[str], model: str | None, kind: Kind, output: Output) -> Question:
    """What is asked for, or `InvalidArgument`."""
    if isinstance(texts, str):
        raise InvalidArgument("the texts are one string", hint='give a list: embed(["a text"])')
    if kind not in get_args(Kind):
        raise InvalidArgument(f"there is no kind {kind!r}", hint='use "query" or "document"')
    if output not in VECTORS:
        raise InvalidArgument(f"there is no output {output!r}", hint='use "dense", "sparse" or "multi"')
    given: list[Any] = list(texts)
    if wrong := {type(text).__name__ for text in given if not isinstance(text, str)}:
        raise InvalidArgument(f"a text is of type {min(wrong)}", hint="give strings")
    return Question(given, model, kind, output)


def answered(asked: Asked, query: str, vectors: Vectors) -> dict[str, str]:
    """The one vector of a query, as it is given to the database."""
    return asked.given(query, spelled(vectors, asked.size)[0])


def weightless(spec: ModelSpec) -> bool:
    """Whether a model only counts words, so that no sidecar is asked, whose HTTP door gives dense vectors."""
    return spec.family == "bm25"


def picked(found: Embeddings, output: Output) -> Vectors:
    """The output that was asked for."""
    vectors = {"dense": found.dense, "sparse": found.sparse, "multi": found.multi}[output]
    if vectors is None:
        raise ModelUnavailable(f"the model gave no {output} vectors")
    return vectors


def read(vectors: Sequence[str], output: Output) -> Vectors:
    """Vectors in the text form of their type in pgvector, whose sparsevec counts from 1."""
    if not vectors:
        return picked(no_embeddings(), output)
    if output == "dense":
        return np.array([orjson.loads(vector) for vector in vectors], np.float32)
    return _read_sparse(vectors) if output == "sparse" else _read_multi(vectors)


def table_text(table: Table) -> str:
    """The table as regclass reads it."""
    return identifier(table).as_string()


def vectorizing(table: Table, columns: Sequence[str], told: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a new vectorizer."""
    chunking = None if told["chunking"] is None else Jsonb(told["chunking"])
    return {**told, "table": table_text(table), "columns": list(columns) or None, "chunking": chunking}


def find(name: str | None, models: Sequence[ModelSpec]) -> ModelSpec:
    """One of the models that a client without a database was given."""
    if name is None and len(models) == 1:
        return models[0]
    for model in models:
        if model.name == name:
            return model
    names = ", ".join(model.name for model in models) or "none"
    hint = f"there are: {names}; give models=[ModelSpec(name, family, options)], or a database"
    raise InvalidArgument(f"there is no model {name!r} here" if name else "no model is named", hint=hint)


def _read_sparse(vectors: Sequence[str]) -> SparseVectors:
    rows = [vector.partition("/")[0].strip("{}") for vector in vectors]
    pairs = [[pair.split(":") for pair in row.split(",")] if row else [] for row in rows]
    flat = [pair for row in pairs for pair in row]
    return SparseVectors(
        starts([len(row) for row in pairs]),
        np.array([int(index) - 1 for index, _ in flat], np.int32),
        np.array([float(value) for _, value in flat], np.float32),
    )


def _read_multi(vectors: Sequence[str]) -> TokenVectors:
    rows = [[orjson.loads(token) for token in re.findall(r"\[[^\]]*\]", row)] for row in vectors]
    flat = np.array([token for row in rows for token in row], np.float32)
    return TokenVectors(starts([len(row) for row in rows]), flat)
