"""The queue as a worker sees it: each method is one statement and one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.errors import InvalidSchemaName, UndefinedColumn, UndefinedTable
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from pg_embed import statements
from pg_embed.errors import storable
from pg_embed.jobs import packing
from pg_embed.jobs.batch import Batch, Dead, Lane, Outcome, Refused, Share, Work
from pg_embed.jobs.documents import Chunked, Document, Reading
from pg_embed.jobs.figures import Figures, figures
from pg_embed.jobs.indexes import IndexJob, index_job
from pg_embed.jobs.switches import SwitchJob, switch_job
from pg_embed.records import Embeddings, ModelSpec, Output

SQL = statements.load("jobs")
RENAMED = (UndefinedTable, UndefinedColumn, InvalidSchemaName)
PACKS = 50  # of 20,000 entries, in a round of maintenance


class Store:
    """One worker's access to the queue, through a pool of autocommit connections.

    What keeps the worker going uses `control`, for locked tables may hold the pool for long.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        control: psycopg.AsyncConnection[Any],
        worker: int,
        lease: float,
    ) -> None:
        self._pool = pool
        self._control = control
        self._worker = worker
        self._lease = lease  # seconds
        self._types: packing.Types = {}

    async def work(self) -> list[Work]:
        """The active vectorizers."""
        async with self._control.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(SQL["work"])
            return [_work(row) for row in await cursor.fetchall()]

    async def figures(self) -> Figures:
        """How far all vectorizers are."""
        return figures(await self._run("figures", {}))

    def connections(self) -> tuple[int, int]:
        """How many connections are in use, and how many are open and wait for use."""
        stats = self._pool.get_stats()
        waiting = stats.get("pool_available", 0)
        return stats.get("pool_size", 0) - waiting, waiting

    async def take(self, work: Work, lane: Lane, rows: int, most: int) -> Batch | None:
        """Claim about so many rows; None when none is due. Those to be split are read by `read`.

        Of the others texts are read until `most` bytes are reached; the rest goes back to the queue.
        """
        parameters = {
            "worker": self._worker,
            "vectorizer": work.vectorizer,
            "lane": int(lane),
            "rows": rows,
            "lease": self._lease,
            "most": most,
        }
        async with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            await _execute(cursor, "take" if work.chunking is None else "claim_documents", parameters)
            taken = await cursor.fetchall()
        if not taken:
            return None
        if work.chunking is not None:
            return _claimed(lane, taken)
        later = [row[2] for row in taken if row[4] is None and row[5] is not None]
        if not later:
            return _batch(lane, taken)
        entries = packing.bigints(list(dict.fromkeys(row[0] for row in taken)))
        await self._run(
            "put_back", {"worker": self._worker, "entries": entries, "later": packing.texts(later)}
        )
        given_back = set(later)
        return replace(
            _batch(lane, [row for row in taken if row[2] not in given_back]), later=len(given_back)
        )

    async def read(self, work: Work, keys: Sequence[str], most: int, attempts: int) -> Reading:
        """The first of these rows, until `most` characters are reached."""
        parameters = {
            "vectorizer": work.vectorizer,
            "keys": packing.texts(keys),
            "most": most,
            "attempts": attempts,
        }
        async with self._pool.connection() as connection, connection.cursor(binary=True) as cursor:
            await _execute(cursor, "read_documents", parameters)
            return _reading(await cursor.fetchall())

    async def finish_documents(
        self, work: Work, batch: Batch, reading: Reading, found: Chunked, entries: Sequence[int]
    ) -> int:
        """Write chunks, and acknowledge `entries`; how many rows had what was read, and now have theirs."""
        parameters = {
            "worker": self._worker,
            "vectorizer": work.vectorizer,
            "entries": packing.bigints(entries),
            "keys": packing.texts([*(document.key for document in reading.documents), *reading.bare]),
            "hashes": packing.bigints([document.hash for document in reading.documents], len(reading.bare)),
            "kept_of": [kept.place + 1 for kept in found.kept],
            "kept_ids": packing.bigints([kept.id for kept in found.kept]),
            "kept_numbers": [kept.number for kept in found.kept],
            **_chunks(found),
            **_packed(work, found.vectors, await self._vector_types(), 0),
            "dead": Jsonb(_dead(batch, [document.key for document in reading.documents], found.dead)),
            "chunking": Jsonb(work.chunking),
            "hook": work.prepare,
        }
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await _execute(cursor, "finish_documents", parameters)
            row = await cursor.fetchone()
        return row[0] if row else 0

    async def finish(self, work: Work, batch: Batch, outcome: Outcome) -> tuple[int, int]:
        """Write an outcome; rows written, and rows locked by others and queued again."""
        places = [*outcome.places, *(dead.place for dead in outcome.dead), *outcome.bare]
        # the dead, the bare and the empty are written, too: as NULL, under the same guard
        keys = [*(batch.keys[place] for place in places), *batch.empty]
        hashes = [batch.hashes[place] for place in places]
        nulls = len(keys) - len(outcome.places)
        parameters = {
            "worker": self._worker,
            "vectorizer": work.vectorizer,
            "entries": packing.bigints(batch.entries),
            "keys": packing.texts(keys),
            "hashes": packing.bigints(hashes, nulls=len(batch.empty)),
            **_packed(work, outcome.vectors, await self._vector_types(), nulls),
            "gone": packing.texts(batch.gone),
            "dead": Jsonb(_dead(batch, batch.keys, outcome.dead)),
            "hook": work.prepare,
        }
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await _execute(cursor, "finish", parameters)
            row = await cursor.fetchone()
        return (row[0], row[1]) if row else (0, 0)

    async def postpone(self, batch: Batch, delay: float, error: str, *, charge: bool) -> None:
        """Put a batch back, due after `delay` seconds."""
        parameters = {
            "worker": self._worker,
            "entries": packing.bigints(batch.entries),
            "delay": delay,
            "error": storable(error),
            "charge": charge,
        }
        await self._run("postpone", parameters)

    async def blame(self, work: Work, error: str | None) -> None:
        """Tell in the catalog why rows cannot be read or written; None when they can again."""
        reason = None if error is None else storable(error)
        await self._run("blame", {"vectorizer": work.vectorizer, "error": reason})

    async def give_up(self, work: Work, row: Refused) -> bool | None:
        """List a row as failed: True when it was, False when somebody holds it, None when it has changed."""
        listed: bool | None = await self._run("give_up", {"vectorizer": work.vectorizer, **vars(row)})
        return listed

    async def renew(self, entries: Sequence[int]) -> None:
        """Prolong the leases of entries."""
        parameters = {"worker": self._worker, "entries": packing.bigints(entries), "lease": self._lease}
        await self._control.execute(SQL["renew"], parameters)

    async def page(self, work: Work, rows: int) -> bool:
        """Queue the next page of a backfill; False when there is none to be had."""
        return bool(await self._run("page", {"vectorizer": work.vectorizer, "rows": rows}))

    async def rescue(self) -> int:
        """Free what dead workers held; how many entries."""
        return int(await self._run("rescue", {}))

    async def tend(self) -> None:
        """Look after dropped tables, renamed keys, new partitions."""
        await self._run("tend", {})

    async def tidy(self, work: Work) -> None:
        """Bring small entries together, strike failures of vanished rows off the list, mend postings."""
        for _ in range(PACKS):
            if not await self._run("pack", {"vectorizer": work.vectorizer}):
                break
        await self._run("prune", {"vectorizer": work.vectorizer})
        await self._run("mend_postings", {"vectorizer": work.vectorizer})
        await self._run("count_postings", {"vectorizer": work.vectorizer})

    async def sweep(self, work: Work) -> int:
        """Remove chunks whose rows went without a trigger; how many, of which there may be more."""
        return int(await self._run("sweep", {"vectorizer": work.vectorizer}))

    async def indexes(self) -> list[IndexJob]:
        """The indexes that can be built now."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await _execute(cursor, "index_todo", {"vectorizer": None})
            return [index_job(row) for row in await cursor.fetchall()]

    async def index_needs_owner(self, job: IndexJob) -> None:
        """Tell in the catalog that this worker may not build it."""
        await self._run("index_done", {"vectorizer": job.vectorizer, "error": None, "needs_owner": True})

    async def switches(self) -> list[SwitchJob]:
        """The switches of models that can be brought further now."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await _execute(cursor, "switch_todo", {})
            return [switch_job(row) for row in await cursor.fetchall()]

    async def compare_switch(self, job: SwitchJob) -> float | None:
        """Compare both models; the overlap of their nearest rows, None where there is nothing to compare."""
        overlap = await self._run("switch_compare", {"vectorizer": job.name})
        return None if overlap is None else float(overlap)

    async def swap_switch(self, job: SwitchJob, seconds: float) -> None:
        """Swap, if the table is free within `seconds`; an error of psycopg's if it is not."""
        await self._run("switch_swap", {"vectorizer": job.name, "seconds": seconds})

    async def switch_tried(self, job: SwitchJob, error: str | None, *, needs_owner: bool = False) -> None:
        """Tell in the catalog how a step ended, or that this worker may not do it."""
        await self._run("switch_tried", {"shadow": job.shadow, "error": error, "needs_owner": needs_owner})

    async def _run(self, statement: str, parameters: dict[str, Any]) -> Any:
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await _execute(cursor, statement, parameters)
            row = await cursor.fetchone()
        return row[0] if row else None

    async def _vector_types(self) -> packing.Types:
        if not self._types:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(SQL["vector_types"])
                self._types = {name: (element, array) for name, element, array in await cursor.fetchall()}
        return self._types


async def _execute(cursor: psycopg.AsyncCursor[Any], statement: str, parameters: dict[str, Any]) -> None:
    try:
        await cursor.execute(SQL[statement], parameters)
    except RENAMED:  # perhaps just between the function's look at a name and its use
        await cursor.execute(SQL[statement], parameters)


def _work(row: dict[str, Any]) -> Work:
    return Work(
        vectorizer=row["vectorizer"],
        name=row["name"],
        shares=_shares(row),
        column_type=row["column_type"],
        max_attempts=row["max_attempts"],
        reason=row["reason"],
        has_backfill=row["has_backfill"],
        live_due=row["live_due"],
        backfill_due=row["backfill_due"],
        chunking=row["chunking"],
        must_sweep=row["must_sweep"],
        is_gentle=row["is_gentle"],
        prepare=row["prepare"],
    )


def _shares(row: dict[str, Any]) -> list[Share]:
    sizes: dict[Output, int] = dict(zip(row["outputs"], row["sizes"], strict=True))
    first = ModelSpec(row["model"], row["family"], row["options"])
    second = row["sparse_model"]
    if second is None:
        return [Share(first, row["space_id"], row["dimensions"], sizes)]
    sparse: dict[Output, int] = {"sparse": sizes.pop("sparse")}
    return [
        Share(first, row["space_id"], row["dimensions"], sizes),
        Share(
            ModelSpec(second["name"], second["family"], second["options"]),
            second["space_id"],
            second["dimensions"],
            sparse,
        ),
    ]


def _packed(
    work: Work, found: Embeddings, types: packing.Types, nulls: int
) -> dict[str, packing.PackedArray | None]:
    """The vectors of each output as an array, with NULLs behind; None for what the vectorizer does not keep.

    The dense ones are never None, for they tell the statement their type.
    """
    packed = dict[str, packing.PackedArray | None](sparse=None, multi=None)
    sizes = work.sizes
    kind, dense = (work.column_type, found.dense) if "dense" in sizes else ("vector", found.dense[:0])
    if "sparse" in sizes and found.sparse is not None:
        packed["sparse"] = packing.sparse(found.sparse, sizes["sparse"], *types["sparsevec"], nulls)
    if "multi" in sizes and found.multi is not None:
        packed["multi"] = packing.multi(found.multi, types, nulls)
    packed["dense"] = packing.vectors(dense, kind, *types[kind], nulls if "dense" in sizes else 0)
    return packed


def _batch(lane: Lane, taken: list[tuple[Any, ...]]) -> Batch:
    entries = list(dict.fromkeys(row[0] for row in taken))
    rows = {row[2]: row for row in taken}  # a key that was queued twice is embedded once
    texts = [row for row in rows.values() if row[4] is not None]
    return Batch(
        lane=lane,
        entries=entries,
        keys=[row[2] for row in texts],
        texts=[row[4] for row in texts],
        hashes=[row[5] for row in texts],
        attempts=[row[1] for row in texts],
        empty=[row[2] for row in rows.values() if row[4] is None and row[3]],
        gone=[row[2] for row in rows.values() if row[3] is False],  # None: given up as it was read
    )


def _claimed(lane: Lane, taken: list[tuple[Any, ...]]) -> Batch:
    attempts = {key: tries for _, tries, key in taken}
    return Batch(
        lane=lane,
        entries=list(dict.fromkeys(row[0] for row in taken)),
        keys=list(attempts),
        texts=(),
        hashes=(),
        attempts=list(attempts.values()),
        empty=(),
        gone=(),
    )


def _reading(rows: list[tuple[Any, ...]]) -> Reading:
    return Reading(
        documents=[
            Document(key, text, hash, ids or (), hashes or ())
            for key, _, text, hash, ids, hashes in rows
            if text is not None
        ],
        empty=[row[0] for row in rows if row[2] is None and row[1]],
        gone=[row[0] for row in rows if row[1] is False],  # None: given up as it was read
        keys=len(rows),
    )


def _chunks(found: Chunked) -> dict[str, Any]:
    with_id = [made.id for made in found.made if made.id is not None]
    return {
        "made_of": [made.place + 1 for made in found.made],
        "made_ids": packing.bigints(with_id, nulls=len(found.made) - len(with_id)),
        "made_numbers": [made.number for made in found.made],
        "chunks": packing.texts([made.text for made in found.made]),
        "contexts": packing.texts([made.context for made in found.made]),
        "chunk_hashes": packing.bigints([made.hash for made in found.made]),
    }


def _dead(batch: Batch, keys: Sequence[str], dead: Sequence[Dead]) -> list[dict[str, Any]]:
    attempts = dict(zip(batch.keys, batch.attempts, strict=True))
    return [
        {
            "key": keys[row.place],
            "code": row.code,
            "error": storable(row.error),
            "attempts": attempts[keys[row.place]],
        }
        for row in dead
    ]
