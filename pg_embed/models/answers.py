"""Reading vectors and scores out of an answer; one that is missing, misplaced or not finite is an error."""

from __future__ import annotations

from binascii import a2b_base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pg_embed.records import Embeddings, Scores, SparseVectors, TokenVectors, starts

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What one call was given: vectors as lists or base64, whose texts they are, and the tokens used.

    `indexes` is None where a contract has none and the order is that of the texts.
    """

    vectors: list[Any]
    indexes: list[int] | None
    tokens: int


def parsed(body: bytes) -> Any:
    """The JSON in a body; ValueError, with its first words, if it is something else."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError(f"not JSON: {body[:40]!r}") from None


def openai_answer(told: dict[str, Any]) -> Answer:
    """The shape that OpenAI, Voyage and Jina share; KeyError and its like if it is another."""
    data = told["data"]
    return Answer(
        vectors=[item["embedding"] for item in data],
        indexes=[item["index"] for item in data],
        tokens=used_tokens(told),
    )


def used_tokens(told: dict[str, Any]) -> int:
    """What stands under `usage`; 0 if nothing does."""
    usage = told.get("usage") or {}
    return int(usage.get("total_tokens") or usage.get("prompt_tokens") or 0)


def billed_tokens(told: dict[str, Any]) -> int:
    """What Cohere bills; 0 if it bills something else."""
    billed = (told.get("meta") or {}).get("billed_units") or {}
    return int(billed.get("input_tokens") or 0)


def embeddings(answer: Answer, count: int) -> Embeddings:
    """The vectors in the order of the texts; ValueError and its like if anything is wrong with them."""
    if len(answer.vectors) != count:
        raise ValueError(f"{len(answer.vectors)} vectors for {count} texts")
    dense = _matrix(answer.vectors)
    if dense.ndim != 2 or not dense.size:
        raise ValueError("a vector is empty")
    if answer.indexes is not None:
        dense = _ordered(dense, answer.indexes)
    if not np.isfinite(dense).all():
        raise ValueError("a vector is not finite")
    return Embeddings(dense=dense, tokens=answer.tokens)


def scores(ranked: list[dict[str, Any]], name: str, count: int, tokens: int) -> Scores:
    """The scores in the order of the texts; ValueError and its like if anything is wrong with them."""
    if len(ranked) != count:
        raise ValueError(f"{len(ranked)} scores for {count} texts")
    found = _floats([item[name] for item in ranked])
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError("a score is not a finite number")
    return Scores(_ordered(found, [item["index"] for item in ranked]), tokens)


def sparse_embeddings(rows: list[list[dict[str, Any]]], count: int, size: int) -> Embeddings:
    """Rows of indices and values, in the order of the texts; ValueError and its like if anything is wrong."""
    if len(rows) != count:
        raise ValueError(f"{len(rows)} vectors for {count} texts")
    ordered = [sorted((int(item["index"]), item["value"]) for item in row) for row in rows]
    kept = [[(index, value) for index, value in row if value != 0] for row in ordered]
    indices = np.array([index for row in kept for index, _ in row], np.int64)
    values = _floats([value for row in kept for _, value in row])
    if any(len({index for index, _ in row}) != len(row) for row in kept):
        raise ValueError("indices are doubled")
    if len(indices) and not 0 <= indices.min() <= indices.max() < size:
        raise ValueError(f"index {indices.max()} is not below sparse_dimensions, {size}")
    if not np.isfinite(values).all():
        raise ValueError("a vector is not finite")
    sparse = SparseVectors(starts([len(row) for row in kept]), indices.astype(np.int32), values)
    return Embeddings(dense=np.empty((count, 0), np.float32), sparse=sparse)


def token_embeddings(told: dict[str, Any], count: int) -> Embeddings:
    """Several vectors a text, in the order of the texts; ValueError and its like if anything is wrong."""
    data = {item["index"]: item["embeddings"] for item in told["data"]}
    if len(told["data"]) != count:
        raise ValueError(f"vectors for {len(told['data'])} of {count} texts")
    if sorted(data) != list(range(count)):
        raise ValueError("indexes are missing or doubled")
    rows = [_matrix(data[place]) for place in range(count)]
    vectors = np.concatenate(rows)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError("a vector is not finite")
    multi = TokenVectors(starts([len(row) for row in rows]), vectors)
    return Embeddings(dense=np.empty((count, 0), np.float32), tokens=used_tokens(told), multi=multi)


def _matrix(vectors: list[Any]) -> Float32:
    """Base64 of little-endian float32, or lists of numbers, whichever the server chose."""
    if not isinstance(vectors[0], str):
        return _floats(vectors)
    blobs = [a2b_base64(vector) for vector in vectors]
    if len({len(blob) for blob in blobs}) != 1:
        raise ValueError("vectors of different lengths")
    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), -1).astype(np.float32, copy=False)


def _floats(numbers: list[Any]) -> Float32:
    """A number that is too large becomes infinite, which is then found."""
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float32)


def _ordered(found: Float32, indexes: list[int]) -> Float32:
    straight = list(range(len(indexes)))
    if indexes == straight:
        return found
    if sorted(indexes) != straight:
        raise ValueError("indexes are missing or doubled")
    ordered = np.empty_like(found)
    ordered[indexes] = found
    return ordered
