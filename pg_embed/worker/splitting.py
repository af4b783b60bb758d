"""Documents through the model: split, compared with the chunks that are there, embedded where they differ."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from pg_embed.chunks import Chunk, Chunking, Counter, split
from pg_embed.errors import InputRejected
from pg_embed.jobs import Batch, Chunked, Dead, Document, Kept, Lane, Made, Work
from pg_embed.records import Embeddings, join, no_embeddings
from pg_embed.worker.embedding import PRIORITIES, Models, Timeout, check_space, embed_batch
from pg_embed.worker.preparing import Prepared

Row = tuple[Embeddings, int]  # a vector: the one of a call's that stands there
Found = dict[int, list[Row]]  # a document's vectors, by its place
Rejected = dict[int, Dead]
CALL = 512  # chunks that are given to the model together
LARGEST = 2**28  # numbers in the token vectors of a document, which are written in one piece: half a gigabyte


@dataclass(frozen=True)
class Plan:
    """A document's chunks: those that stay, and those that need vectors, with what is embedded of each."""

    kept: Sequence[Kept]
    made: Sequence[Made]
    inputs: Sequence[str]


async def embed_documents(
    models: Models,
    work: Work,
    lane: Lane,
    documents: Sequence[Document],
    prepared: Sequence[Prepared],
    timeout: Timeout,
) -> Chunked:
    """What becomes of documents. One whose chunk the model rejects is dead as a whole, and it alone.

    `prepared` are their texts as a hook made them: dead where it failed, and None leaves no chunk. Raises
    what `embed_batch` raises; `timeout` is for each call.
    """
    if not documents:
        return Chunked([], [], no_embeddings())
    chunking = Chunking.from_json(work.chunking or {})
    first = work.shares[0].spec
    count = await models.counter(first)
    together = await models.reads_documents(first)
    space = " ".join(share.space_id for share in work.shares)
    given_up = {row.place: row for row in prepared if isinstance(row, Dead)}
    plans = await asyncio.to_thread(_plans, documents, prepared, chunking, count, space, together)
    large = _too_large(plans, count, work.sizes.get("multi", 0))
    plans = [Plan((), (), ()) if place in large else one for place, one in enumerate(plans)]
    found, dead = await (_embed_together if together else _embed)(models, work, lane, plans, timeout)
    return _chunked(
        plans,
        {place: rows for place, rows in found.items() if place not in {**large, **given_up}},
        {**dead, **large, **given_up},
    )


def _plans(
    documents: Sequence[Document],
    prepared: Sequence[Prepared],
    chunking: Chunking,
    count: Counter,
    space: str,
    together: bool,
) -> list[Plan]:
    return [
        plan(document, place, split(text, chunking, count) or [_whole(text)], space, together)
        if isinstance(text, str)
        else Plan((), (), ())
        for place, (document, text) in enumerate(zip(documents, prepared, strict=True))
    ]


def plan(document: Document, place: int, chunks: Sequence[Chunk], space: str, together: bool = False) -> Plan:
    """Compare a document's chunks with those that are stored, by hash; equal ones in their order.

    With `together` a chunk's vectors depend on all of them: where one has changed, each needs new ones.
    """
    stored: dict[int, deque[int]] = {}
    for known, number in zip(document.hashes, document.ids, strict=True):
        stored.setdefault(known, deque()).append(number)
    rows: list[Made] = []
    for number, chunk in enumerate(chunks, 1):
        key = chunk_hash(chunk.input, space)
        id = stored[key].popleft() if stored.get(key) else None
        rows.append(Made(place, number, chunk.text, chunk.context, key, id))
    kept = [Kept(place, row.id, row.number) for row in rows if row.id is not None]
    again = together and len(kept) < max(len(rows), len(document.ids))
    made = [row for row in rows if again or row.id is None]
    return Plan(kept, made, [chunks[row.number - 1].input for row in made])


def _too_large(plans: Sequence[Plan], count: Counter, dimensions: int) -> Rejected:
    """The documents whose token vectors would not fit."""
    if not dimensions:
        return {}
    tokens = [sum(count.many(one.inputs)) for one in plans]
    error = "its token vectors are too large to be written together; split the text into several rows"
    return {
        place: Dead(place, InputRejected.sqlstate, error)
        for place, number in enumerate(tokens)
        if number * dimensions > LARGEST
    }


def chunk_hash(text: str, space: str) -> int:
    """What a chunk is recognised by: 64 signed bits of what is embedded, and of the model's space.

    `embed._chunk_hash` gives the same.
    """
    told = f"{space}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(sha256(told).digest()[:8], "big", signed=True)


def _whole(text: str) -> Chunk:
    """The one chunk of a text of which nothing was left: who has a text has a vector."""
    return Chunk(text, 0, len(text), "")


async def _embed(
    models: Models, work: Work, lane: Lane, plans: Sequence[Plan], timeout: Timeout
) -> tuple[Found, Rejected]:
    """Each text once, wherever it stands."""
    inputs = list(dict.fromkeys(text for plan in plans for text in plan.inputs))
    known: dict[str, Row] = {}
    rejected: dict[str, Dead] = {}
    for start in range(0, len(inputs), CALL):
        part = inputs[start : start + CALL]
        outcome = await embed_batch(models, work, Batch(lane, (), part, part, (), (), (), ()), timeout)
        known.update((part[place], (outcome.vectors, row)) for row, place in enumerate(outcome.places))
        rejected.update((part[dead.place], dead) for dead in outcome.dead)
    found: Found = {}
    dead: Rejected = {}
    for place, one in enumerate(plans):
        wrong = next((number for number, text in enumerate(one.inputs) if text in rejected), None)
        if wrong is None:
            found[place] = [known[text] for text in one.inputs]
        else:
            error = rejected[one.inputs[wrong]]
            dead[place] = Dead(place, error.code, f"chunk {one.made[wrong].number}: {error.error}")
    return found, dead


async def _embed_together(
    models: Models, work: Work, lane: Lane, plans: Sequence[Plan], timeout: Timeout
) -> tuple[Found, Rejected]:
    """The chunks of each document in its context; a second model's sparse vectors know of none."""
    share, *others = work.shares
    await check_space(models, share)
    found: Found = {place: [] for place, one in enumerate(plans) if not one.made}
    dead: Rejected = {}
    waiting = deque([[place for place, one in enumerate(plans) if one.made]])
    while waiting and (places := waiting.popleft()):
        try:
            documents = [plans[place].inputs for place in places]
            vectors = await models.embed_chunks(share.spec, documents, PRIORITIES[lane], timeout(share.spec))
        except InputRejected as exc:
            if len(places) == 1:
                dead[places[0]] = Dead(places[0], exc.sqlstate, str(exc))
            else:
                half = len(places) // 2
                waiting += [places[:half], places[half:]]
            continue
        for place, rows in zip(places, vectors, strict=True):
            found[place] = [(rows, row) for row in range(len(rows))]
    if not others:
        return found, dead
    sparse, refused = await _embed(models, replace(work, shares=others), lane, plans, timeout)
    both = {
        place: [_beside(dense, row) for dense, row in zip(found[place], sparse[place], strict=True)]
        for place in found.keys() & sparse.keys()
    }
    return both, {**refused, **dead}


def _beside(dense: Row, sparse: Row) -> Row:
    vectors, row = dense
    others, other = sparse
    return replace(vectors.cut(row, row + 1), sparse=others.cut(other, other + 1).sparse), 0


def _chunked(plans: Sequence[Plan], found: Found, dead: Rejected) -> Chunked:
    living = [one for place, one in enumerate(plans) if place in found]
    made = [made for one in living for made in one.made]
    rows = [row for place in sorted(found) for row in found[place]]
    order = sorted(range(len(made)), key=lambda place: made[place].id is None)
    vectors = [rows[place][0].cut(rows[place][1], rows[place][1] + 1) for place in order]
    return Chunked(
        kept=[kept for one in living for kept in one.kept],
        made=[made[place] for place in order],
        vectors=join(vectors) if vectors else no_embeddings(),
        dead=list(dead.values()),
    )
