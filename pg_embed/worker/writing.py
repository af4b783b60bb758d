"""A batch's outcome into its table: a row that the table refuses does not keep the others out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import psycopg

from pg_embed.jobs import Batch, Chunked, Outcome, Reading, Refused, Store, Work
from pg_embed.records import no_embeddings

# Classes of SQLSTATE that say nothing about a row: features, transactions, rights, names, objects.
NOT_OF_A_ROW = ("0A", "25", "28", "3D", "3F", "42", "55", "XX")
LOCKED = "the row is locked by another transaction"
LOCKED_DELAY = 0.1  # seconds
GENTLE_ROWS = 64  # in a transaction: a search waits behind no longer write, and a page's next row finds room

Rest = Callable[[float], Awaitable[None]]  # after what took so many seconds
Written = tuple[int, int, list[Refused]]  # rows written, rows locked by others, rows refused


async def write_batch(store: Store, work: Work, batch: Batch, outcome: Outcome) -> tuple[int, list[Refused]]:
    """Write and acknowledge. Returns how many rows were written, and those that the table refused.

    A trigger or a constraint of the user's may refuse a row: it is found by halving, and listed as failed.
    """
    try:
        written, _ = await store.finish(work, batch, outcome)
    except psycopg.Error as exc:
        if not _is_of_a_row(exc):
            raise
    else:
        return written, []
    rows = range(len(outcome.places) + len(outcome.dead) + len(outcome.bare) + len(batch.empty))
    written, locked, refused = await _write(store, work, batch, outcome, rows)
    listed = [(row, await store.give_up(work, row)) for row in refused]
    if locked or any(answer is False for _, answer in listed):
        await store.postpone(batch, LOCKED_DELAY, LOCKED, charge=False)
    else:
        await store.finish(work, replace(batch, empty=()), _only(batch, outcome, ())[1])
    return written, [row for row, answer in listed if answer]


async def write_gently(
    store: Store, work: Work, batch: Batch, outcome: Outcome, rest: Rest
) -> tuple[int, list[Refused]]:
    """As `write_batch`, some rows at a time, with a rest behind each write.

    The last one acknowledges the batch, and tries parts again of which a row was locked or refused.
    """
    rows = range(len(outcome.places) + len(outcome.dead) + len(outcome.bare) + len(batch.empty))
    last = (max(len(rows), 1) - 1) // GENTLE_ROWS * GENTLE_ROWS  # where it begins
    written, left = 0, list[int]()
    for first in range(0, last, GENTLE_ROWS):
        part = rows[first : first + GENTLE_ROWS]
        started = time.monotonic()
        done, locked, refused = await _write(store, work, batch, outcome, part)
        await rest(time.monotonic() - started)
        if locked or refused:
            left += part
        else:
            written += done
    others, only = _only(batch, outcome, [*left, *rows[last:]])
    others = replace(others, entries=batch.entries, gone=batch.gone)
    started = time.monotonic()
    done, failed = await write_batch(store, work, others, only)
    await rest(time.monotonic() - started)
    return written + done, failed


async def write_documents(
    store: Store, work: Work, batch: Batch, reading: Reading, found: Chunked, entries: Sequence[int]
) -> tuple[int, list[Refused]]:
    """Write chunks and acknowledge `entries`; how many rows were written, and those that were refused.

    A trigger or a constraint that somebody put on the table of the chunks may refuse a row: then each goes
    alone.
    """
    try:
        return await store.finish_documents(work, batch, reading, found, entries), []
    except psycopg.Error as exc:
        if not _is_of_a_row(exc):
            raise
    written, refused = 0, list[Refused]()
    for place in range(len(reading.documents)):
        try:
            written += await store.finish_documents(work, batch, *_one(reading, found, place), ())
        except psycopg.Error as exc:
            if not _is_of_a_row(exc):
                raise
            document = reading.documents[place]
            error = f"the table of its chunks refuses them: {exc.diag.message_primary or exc}"
            refused.append(Refused(document.key, document.hash, exc.sqlstate or "", error, batch.tries))
    listed = [row for row in refused if await store.give_up(work, row)]
    rest = replace(reading, documents=())
    await store.finish_documents(work, batch, rest, Chunked([], [], no_embeddings()), entries)
    return written, listed


def _one(reading: Reading, found: Chunked, place: int) -> tuple[Reading, Chunked]:
    """One of the documents."""
    rows = [row for row, made in enumerate(found.made) if made.place == place]
    return (
        replace(reading, documents=[reading.documents[place]], empty=(), gone=()),
        Chunked(
            kept=[replace(kept, place=0) for kept in found.kept if kept.place == place],
            made=[replace(found.made[row], place=0) for row in rows],
            vectors=found.vectors.take(rows),
            dead=[replace(dead, place=0) for dead in found.dead if dead.place == place],
        ),
    )


async def _write(store: Store, work: Work, batch: Batch, outcome: Outcome, rows: Sequence[int]) -> Written:
    try:
        written, locked = await store.finish(work, *_only(batch, outcome, rows))
    except psycopg.Error as exc:
        if not _is_of_a_row(exc):
            raise
        if len(rows) == 1:
            return 0, 0, [_refused(batch, outcome, rows[0], exc)]
    else:
        return written, locked, []
    half = len(rows) // 2
    first = await _write(store, work, batch, outcome, rows[:half])
    second = await _write(store, work, batch, outcome, rows[half:])
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]


def _only(batch: Batch, outcome: Outcome, rows: Sequence[int]) -> tuple[Batch, Outcome]:
    """Some rows of an outcome, without entries: with a vector first, then dead, then bare, then empty."""
    living = len(outcome.places)
    bare = living + len(outcome.dead)  # where these begin
    empty = bare + len(outcome.bare)
    with_vector = [row for row in rows if row < living]
    return (
        replace(
            batch,
            entries=(),
            gone=(),
            empty=[batch.empty[row - empty] for row in rows if row >= empty],
        ),
        Outcome(
            places=[outcome.places[row] for row in with_vector],
            vectors=outcome.vectors.take(with_vector),
            dead=[outcome.dead[row - living] for row in rows if living <= row < bare],
            bare=[outcome.bare[row - bare] for row in rows if bare <= row < empty],
        ),
    )


def _refused(batch: Batch, outcome: Outcome, row: int, error: psycopg.Error) -> Refused:
    part, only = _only(batch, outcome, [row])
    places = [*only.places, *(dead.place for dead in only.dead), *only.bare]
    key, found = (batch.keys[places[0]], batch.hashes[places[0]]) if places else (part.empty[0], None)
    message = error.diag.message_primary or str(error)
    return Refused(key, found, error.sqlstate or "", f"the table refuses its vector: {message}", batch.tries)


def _is_of_a_row(error: psycopg.Error) -> bool:
    """Whether another row might be written where this one was not."""
    lost = isinstance(error, psycopg.OperationalError) or not error.sqlstate
    return not lost and (error.sqlstate or "")[:2] not in NOT_OF_A_ROW
