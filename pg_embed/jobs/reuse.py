"""Vectors of texts that were embedded before, as the database keeps them.

A text is known by its hash, salted with a secret that the database makes for each owner of tables, and with
the space of the model and its checkpoint: models that share a space, but not their weights, share no vectors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pg_embed import statements
from pg_embed.errors import PgEmbedError
from pg_embed.jobs import packing
from pg_embed.log import event, logger
from pg_embed.records import Card, Embeddings, Outputs, Priority, SparseVectors, TokenVectors, starts

SQL = statements.load("reuse")
ROUNDS = 50  # of 20,000 rows, in a round of maintenance
EVICTED = 20_000  # rows that a round removes at most of a model, as `embed._evict_v1` has it
HALF, SINGLE = np.dtype("<f2"), np.dtype("<f4")
INDEX = np.dtype("<i4")

Pool = AsyncConnectionPool[Any]
End = asyncio.Future[PgEmbedError | None]
log = logger("reuse")


@dataclass(frozen=True)
class Kept:
    """Vectors that are known: of the keys at `places`, in that order, which is none."""

    places: list[int]
    vectors: Embeddings


class Reuse:
    """One worker's access to them. While the database does not answer, nothing is known and nothing kept."""

    def __init__(self) -> None:
        self.pool: Pool | None = None  # while there is a connection
        self._salts: dict[int, Mapping[str, bytes]] = {}  # by vectorizer, and by model if it is reused
        self._under_way: dict[bytes, tuple[Priority, End]] = {}
        self._is_well = True

    def refresh(self) -> None:
        """The catalog has changed."""
        self._salts = {}

    async def salt(self, vectorizer: int, model: str) -> bytes | None:
        """The salt of a vectorizer's texts; None where the model's vectors are not reused."""
        salts = self._salts
        if vectorizer not in salts:
            rows = await self._ask("reused", {"vectorizer": vectorizer})
            if rows is None:
                return None
            salts[vectorizer] = dict(rows)
        return salts[vectorizer].get(model)

    @contextmanager
    def claim(self, keys: Sequence[bytes], priority: Priority) -> Iterator[dict[int, End]]:
        """Call about these keys: but for those of another call, as urgent or more, which will end first.

        They are told by their places, each with the end of its call: an error, or none and vectors are kept.
        """
        end, claimed, others = asyncio.get_running_loop().create_future(), [], {}
        for place, key in enumerate(keys):
            known = self._under_way.get(key)
            if known is None:
                self._under_way[key] = priority, end
                claimed.append(key)
            elif known[0] <= priority:
                others[place] = known[1]
        error = None
        try:
            yield others
        except PgEmbedError as exc:
            error = exc
            raise
        finally:
            for key in claimed:
                del self._under_way[key]
            end.set_result(error)

    async def recall(
        self, model: str, card: Card, keys: Sequence[bytes], outputs: Outputs, *, exact: bool
    ) -> Kept:
        """What is known of the keys with all these outputs; `exact`: nothing that was rounded."""
        order, size = _ascending(keys), card.size("dense")
        numbers = (SINGLE,) if exact else (HALF, SINGLE)
        parameters = {
            "model": model,
            "keys": packing.uuids([keys[row] for row in order]),
            "outputs": sorted(outputs),
            "sizes": [size * number.itemsize for number in numbers],
        }
        rows = (await self._ask("recall", parameters) if keys else None) or []
        places, dense, sparse, multi = ([row[column] for row in rows] for column in range(4))
        vectors = Embeddings(
            dense=_dense(dense, size) if "dense" in outputs else np.empty((len(rows), 0), np.float32),
            sparse=_sparse(sparse) if "sparse" in outputs else None,
            multi=_multi(multi, card.size("multi")) if "multi" in outputs else None,
        )
        return Kept([order[place - 1] for place in places], vectors)

    async def remember(self, model: str, keys: Sequence[bytes], found: Embeddings, *, exact: bool) -> None:
        """Keep the vectors of these keys; dense ones as float32 if `exact`, else rounded to float16."""
        order = _ascending(keys)
        found = found.take(order)
        parameters = {
            "model": model,
            "keys": packing.uuids([keys[row] for row in order]),
            "dense": packing.rows(found.dense, SINGLE if exact else HALF) if found.dense.size else None,
            "sparse": None if found.sparse is None else packing.blobs(_sparse_blobs(found.sparse)),
            "multi": None if found.multi is None else packing.blobs(_multi_blobs(found.multi)),
        }
        await self._ask("remember", parameters)

    async def evict(self) -> None:
        """Remove what is beyond the bounds."""
        for _ in range(ROUNDS):
            rows = await self._ask("evict", {})
            if not rows or rows[0][0] < EVICTED:
                break

    async def _ask(self, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]] | None:
        """The rows; None, and one line in the log, while the database does not answer."""
        if self.pool is None:
            return None
        try:
            async with self.pool.connection() as connection, connection.cursor(binary=True) as cursor:
                await cursor.execute(SQL[statement], parameters)
                rows: list[tuple[Any, ...]] = await cursor.fetchall()
        except (psycopg.Error, PoolTimeout) as exc:
            if self._is_well:
                text = f"vectors are not reused: {exc}"
                event(log, logging.WARNING, "reuse_unavailable", text, error=str(exc))
            self._is_well = False
            return None
        self._is_well = True
        return rows


def text_keys(salt: bytes, card: Card, texts: Iterable[str]) -> list[bytes]:
    """16 bytes for each text, as `embed._kept_v1` makes them, too."""
    head = sha256(salt + f"{card.space_id}\0{card.checkpoint}\0".encode())
    keys = []
    for text in texts:
        whole = head.copy()
        whole.update(sha256(text.encode()).digest())
        keys.append(whole.digest()[:16])
    return keys


def _ascending(keys: Sequence[bytes]) -> list[int]:
    """The places of the keys, by key: workers that lock rows in one order do not wait in a circle."""
    return sorted(range(len(keys)), key=keys.__getitem__)


def _sparse_blobs(found: SparseVectors) -> list[bytes]:
    rows = [found.row(row) for row in range(len(found))]
    return [indices.astype(INDEX).tobytes() + values.astype(SINGLE).tobytes() for indices, values in rows]


def _multi_blobs(found: TokenVectors) -> list[bytes]:
    return [found.row(row).astype(HALF).tobytes() for row in range(len(found))]


def _dense(blobs: Sequence[bytes], size: int) -> npt.NDArray[np.float32]:
    matrix = np.empty((len(blobs), size), np.float32)
    for number in (HALF, SINGLE):
        length = size * number.itemsize
        rows = [row for row, blob in enumerate(blobs) if len(blob) == length]
        matrix[rows] = np.frombuffer(b"".join([blobs[row] for row in rows]), number).reshape(len(rows), size)
    return matrix


def _sparse(blobs: Sequence[bytes]) -> SparseVectors:
    lengths = [len(blob) // (INDEX.itemsize + SINGLE.itemsize) for blob in blobs]
    cuts = [length * INDEX.itemsize for length in lengths]
    indices = b"".join([blob[:cut] for blob, cut in zip(blobs, cuts, strict=True)])
    values = b"".join([blob[cut:] for blob, cut in zip(blobs, cuts, strict=True)])
    return SparseVectors(
        starts(lengths),
        np.frombuffer(indices, INDEX).astype(np.int32),
        np.frombuffer(values, SINGLE).astype(np.float32),
    )


def _multi(blobs: Sequence[bytes], size: int) -> TokenVectors:
    lengths = [len(blob) // (size * HALF.itemsize) for blob in blobs]
    vectors = np.frombuffer(b"".join(blobs), HALF).astype(np.float32)
    return TokenVectors(starts(lengths), vectors.reshape(-1, size))
