"""The functions of the queue against a model in Python: no order of calls forgets a row or leaves it stale.

What the model leaves open (which due entries a claim takes, how a suspect is split) is read back and checked
by rules; rows, vectors, failures, and how often each key stands in the queue must be exactly the model's. It
does so for a table whose key is a whole number, and for one with two columns and a filter.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.types.json import Jsonb

from pg_embed.jobs import Batch, Lane
from pg_embed.jobs.store import SQL, _batch
from tests.fix_worker import Connection, create_fake_model, vector

EXAMPLES, STEPS = 30, 50
MAX_ATTEMPTS, SUSPECT = 4, 2
SPARE = 10  # attempts more of a row that was never alone in its worker's hands
NAME = "docs_embedding"
EVENTS = (
    "taken",
    "taken over",
    "split",
    "buried",
    "outlived",
    "held",
    "written",
    "stale",
    "busy",
    "dead",
    "paged",
    "all paged",
)
WORKERS = (101, 102)
ALIVE = 1_885_695_331  # the first number of the lock that a living worker holds
LEASE = 3_600.0  # seconds: only the rules let one end
LOST = "its worker was lost"
TEXTS = ("one", "two", "three")
KEYS = st.integers(1, 4)
TEXT = st.sampled_from([None, *TEXTS])
NUMBERED = st.dictionaries(KEYS, TEXT, min_size=1, max_size=4)
WORKER = st.sampled_from(WORKERS)
LANE = st.sampled_from([Lane.LIVE, Lane.LIVE, Lane.LIVE, Lane.BACKFILL])
QUEUE = """
    SELECT q.id, embed._keys(q), q.attempts, q.worker, q.available_at <= clock_timestamp(), q.alone,
        q.worker IS NOT NULL OR q.last_error IS NOT DISTINCT FROM %s, q.priority, q.hash
    FROM embed._queue AS q
"""
# Waits of a random or a short time become long ones: what is due must not depend on how fast a run is.
FREEZE = """
    UPDATE embed._queue AS q SET available_at = clock_timestamp() + interval '1 hour'
    WHERE q.worker IS NULL AND q.available_at >= %s
        AND (q.locked > 0 OR q.last_error = %s AND q.attempts >= %s)
"""
FINISH = """
    SELECT * FROM embed._finish_v1(%s, %s, %s::bigint[], %s::text[], %s::bigint[], %s::text[]::halfvec[],
        %s::text[], %s)
"""


INSERT = """
    INSERT INTO docs ({columns}, body)
    SELECT {values}, n.body FROM unnest(%s::bigint[], %s::text[]) AS n(number, body)
    ON CONFLICT DO NOTHING
"""
UPDATE = """
    UPDATE docs SET body = n.body, rating = rating + 1
    FROM unnest(%s::bigint[], %s::text[]) AS n(number, body) WHERE ({columns}) = ({values})
"""
REDRAFT = (
    "UPDATE docs SET draft = NOT draft FROM unnest(%s::bigint[]) AS n(number) WHERE ({columns}) = ({values})"
)
DELETE = "DELETE FROM docs WHERE ({columns}) = ({values})"
CHANGE_KEY = "UPDATE docs SET ({columns}) = ROW({values}) WHERE ({columns}) = ({old})"
LOCK = """
    SELECT {key} FROM docs, unnest(%s::bigint[]) AS n(number)
    WHERE ({columns}) = ({values}) FOR UPDATE OF docs
"""
READ = "SELECT {key}, body, draft, embedding::text FROM docs"


@dataclass(frozen=True)
class Shape:
    """A table `docs`; of a row's number {} come the values of its key."""

    create: str
    vectorizer: str  # arguments
    columns: str
    values: str
    key: str  # as the queue holds it
    spell: Callable[[int], str]
    order: Callable[[int], tuple[Any, ...]]
    drafts: bool  # whether the vectorizer leaves drafts out

    def sql(self, statement: str, **values: str) -> str:
        """A statement with columns and key filled in, and each of `values` for the number that it names."""
        words = {name: self.values.format(number) for name, number in values.items()}
        return statement.format(columns=self.columns, key=self.key, **words)


REST = "body text, rating integer NOT NULL DEFAULT 0, draft boolean NOT NULL DEFAULT false"
WHOLE = Shape(
    create=f"CREATE TABLE docs (id bigint PRIMARY KEY, {REST})",
    vectorizer="'docs', 'body'",
    columns="id",
    values="{}",
    key="docs.id::text",
    spell=str,
    order=lambda number: (number,),
    drafts=False,
)
PARTS = Shape(
    create=f"CREATE TABLE docs (part integer, name text, {REST}, PRIMARY KEY (part, name))",
    vectorizer="'docs', 'body', filter => 'NOT draft'",
    columns="part, name",
    values="mod({0}, 2)::integer, 'k \"' || {0}",
    key="jsonb_build_array(docs.part::text, docs.name)::text",
    spell=lambda number: json.dumps([str(number % 2), f'k "{number}']),
    order=lambda number: (number % 2, f'k "{number}'),
    drafts=True,
)


@dataclass(frozen=True)
class Entry:
    """An entry of the queue as it stands there."""

    keys: list[str]
    attempts: int
    worker: int | None
    due: bool
    alone: bool
    lost: bool  # whoever held it died, or seems to have
    lane: int
    hash: int | None  # of the text with which it was last taken by itself

    @property
    def is_spent(self) -> bool:
        """Whether it is given up when it is due, unless its row has another text."""
        attempts = MAX_ATTEMPTS + (0 if self.alone else SPARE)
        return self.lost and len(self.keys) == 1 and self.attempts >= attempts and self.hash is not None


class Queue(RuleBasedStateMachine):
    """Writers, workers, an operator and time, one step after the other."""

    db: Connection  # these are given by the test
    lives: Connection
    locker: Connection
    seen: Counter[str]
    shape: Shape

    def __init__(self) -> None:
        super().__init__()
        if self.locker.info.transaction_status:
            self.locker.execute("ROLLBACK")
        self.lives.execute("SELECT pg_advisory_unlock_all()")
        self.db.execute("TRUNCATE docs, embed._queue, embed._failure, embed._backfill")
        self.db.execute("SELECT embed.resume(%s)", (NAME,))
        self.db.execute("SELECT embed._rescue_v1()")  # the first one after a start charges nobody
        self.rows: dict[str, str | None] = {}
        self.drafts: set[str] = set()
        self.numbers = {self.shape.spell(number): number for number in range(1, 5)}
        self.reached: tuple[Any, ...] | None = None  # by the backfill
        self.upto: tuple[Any, ...] = ()  # where it ends
        self.mode: str | None = None  # of the backfill
        self.vectors: dict[str, str] = {}
        self.failed: set[str] = set()
        self.queued: Counter[str] = Counter()
        self.in_hand: list[tuple[int, Batch]] = []
        self.alive: set[int] = set()
        self.locked: set[str] = set()
        self.paused = False
        row = self.db.execute("SELECT id FROM embed._vectorizer").fetchone()
        assert row is not None
        self.vectorizer = row[0]
        self.spelled = {self._halfvec(text): text for text in TEXTS}
        self.hashes = dict(
            self.db.execute(
                "SELECT t.body, embed._hash(t.body) FROM unnest(%s::text[]) AS t(body)", (list(TEXTS),)
            )
        )
        for worker in WORKERS:
            self.begin(worker)

    # writers

    @initialize(texts=NUMBERED)
    def fill(self, texts: dict[int, str | None]) -> None:
        """Some rows are there."""
        self.insert(texts)

    @rule(texts=NUMBERED)
    def insert(self, texts: dict[int, str | None]) -> None:
        """One statement: rows that are there already are left alone."""
        spelled = {self.shape.spell(number): text for number, text in texts.items()}
        new = {key: text for key, text in spelled.items() if key not in self.rows}
        with self.db.cursor() as cursor:
            cursor.execute(self.shape.sql(INSERT, values="n.number"), (list(texts), list(texts.values())))
            assert cursor.rowcount == len(new)
        self.rows.update(new)
        self.queued.update(new.keys())

    @precondition(lambda self: self.rows)
    @rule(texts=NUMBERED, rolled_back=st.booleans())
    def update(self, texts: dict[int, str | None], rolled_back: bool) -> None:
        """Only a text that really changes is queued, and only when the change is kept."""
        spelled = {self.shape.spell(number): text for number, text in texts.items()}
        free = {key: text for key, text in spelled.items() if key not in self.locked}
        with self.db.transaction(force_rollback=rolled_back):
            self.db.execute(
                self.shape.sql(UPDATE, values="n.number"),
                ([self.numbers[key] for key in free], list(free.values())),
            )
        if not rolled_back:
            changed = {key: text for key, text in free.items() if key in self.rows and self.rows[key] != text}
            self.rows.update(changed)
            self.queued.update(changed.keys())

    @precondition(lambda self: self.shape.drafts and self.rows)
    @rule(numbers=st.sets(KEYS, min_size=1, max_size=3), rolled_back=st.booleans())
    def redraft(self, numbers: set[int], rolled_back: bool) -> None:
        """Drafts are drafts no more, others become some: both are queued."""
        keys = {self.shape.spell(number) for number in numbers} & self.rows.keys() - self.locked
        with self.db.transaction(force_rollback=rolled_back):
            statement = self.shape.sql(REDRAFT, values="n.number")
            self.db.execute(statement, ([self.numbers[key] for key in keys],))
        if not rolled_back:
            self.drafts ^= keys
            self.queued.update(keys)

    @rule(number=KEYS)
    def delete(self, number: int) -> None:
        """The vector goes with its row."""
        key = self.shape.spell(number)
        if key not in self.locked:
            self.db.execute(self.shape.sql(DELETE, values="%(number)s::bigint"), {"number": number})
            self.rows.pop(key, None)
            self.vectors.pop(key, None)
            self.drafts.discard(key)

    @precondition(lambda self: self.rows)
    @rule(old=KEYS, new=KEYS)
    def change_key(self, old: int, new: int) -> None:
        """The row is queued by its new key, with the vector that it had."""
        before, after = self.shape.spell(old), self.shape.spell(new)
        if before not in self.rows or after in self.rows or before in self.locked:
            return
        statement = self.shape.sql(CHANGE_KEY, values="%(new)s::bigint", old="%(old)s::bigint")
        self.db.execute(statement, {"new": new, "old": old})
        self.rows[after] = self.rows.pop(before)
        if before in self.drafts:
            self.drafts ^= {before, after}
        if before in self.vectors:
            self.vectors[after] = self.vectors.pop(before)
        self.queued[after] += 1

    @precondition(lambda self: not self.locked)
    @rule()
    def truncate(self) -> None:
        """Nothing is queued by it."""
        self.db.execute("TRUNCATE docs")
        self.rows.clear()
        self.drafts.clear()
        self.vectors.clear()

    @precondition(lambda self: self.rows and not self.locked)
    @rule(keys=st.sets(KEYS, min_size=1, max_size=3))
    def lock(self, keys: set[int]) -> None:
        """A transaction holds rows that workers must pass over."""
        self.locker.execute("BEGIN")
        found = self.locker.execute(self.shape.sql(LOCK, values="n.number"), (list(keys),))
        self.locked = {key for (key,) in found.fetchall()}
        if not self.locked:
            self.unlock()

    @precondition(lambda self: self.locked)
    @rule()
    def unlock(self) -> None:
        """It ends."""
        self.locker.execute("ROLLBACK")
        self.locked.clear()

    # workers

    @precondition(lambda self: +self.queued)
    @rule(worker=WORKER, lane=LANE, most=st.integers(1, 8))
    def take(self, worker: int, lane: Lane, most: int) -> None:
        """Only what is due is taken, its attempts go up, and what may kill a worker is taken by itself."""
        before = self._queue()
        words = {
            "worker": worker,
            "vectorizer": self.vectorizer,
            "lane": int(lane),
            "rows": most,
            "lease": LEASE,
            "most": 1_000_000,
        }
        with self._frozen():
            taken = self.db.execute(SQL["take"], words).fetchall()
        after = self._queue()
        due = {number for number, entry in before.items() if entry.due and entry.lane == lane}
        spent = self._give_up(before, after, due)
        if not taken:
            # a claim looks at no more entries than the rows that it may take
            assert self.paused or due == spent or len(spent) == most
            return
        assert not self.paused
        batch = _batch(lane, taken)
        self._check_claim(worker, most, batch, before, after, due)
        assert [self._input(key) for key in batch.keys] == batch.texts
        assert all(key in self.rows and self._input(key) is None for key in batch.empty)
        assert not self.rows.keys() & set(batch.gone)
        self.in_hand.append((worker, batch))

    @precondition(lambda self: self.in_hand)
    @rule(worker=WORKER, most=st.integers(1, 8))
    def take_over(self, worker: int, most: int) -> None:
        """All leases are over, and somebody takes what another may still work on."""
        self.let_time_pass(held=True)
        self.take(worker, Lane.LIVE, most)

    @precondition(lambda self: +self.queued)
    @rule(worker=WORKER)
    def die_of_it(self, worker: int) -> None:
        """Whoever takes what is due dies, again and again."""
        for _ in range(MAX_ATTEMPTS + 1):
            self.take_over(worker, 8)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), dead=st.booleans(), stays=st.booleans(), held=st.booleans())
    def finish(self, data: st.DataObject, dead: bool, stays: bool, held: bool) -> None:
        """A batch is written, however late; and once more if `stays`, and while a row of it is `held`."""
        place = data.draw(st.integers(0, len(self.in_hand) - 1))
        worker, batch = self.in_hand[place] if stays else self.in_hand.pop(place)
        self._work(worker, batch, dead, held)

    @precondition(lambda self: +self.queued)
    @rule(worker=WORKER, dead=st.booleans(), held=st.booleans(), texts=st.none() | NUMBERED)
    def work(self, worker: int, dead: bool, held: bool, texts: dict[int, str | None] | None) -> None:
        """All is due, taken and written; texts may change in between."""
        before = len(self.in_hand)
        self.take_over(worker, 8)
        if texts:
            self.update(texts, rolled_back=False)
        for owner, batch in self.in_hand[before:]:
            self._work(owner, batch, dead, held)
        del self.in_hand[before:]

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), delay=st.sampled_from([0.0, LEASE]), charge=st.booleans())
    def postpone(self, data: st.DataObject, delay: float, charge: bool) -> None:
        """What the worker still holds goes back; what others hold by now is left to them."""
        worker, batch = self.in_hand.pop(data.draw(st.integers(0, len(self.in_hand) - 1)))
        before = self._queue()
        mine = [number for number in batch.entries if number in before and before[number].worker == worker]
        words = {
            "worker": worker,
            "entries": list(batch.entries),
            "delay": delay,
            "error": "no",
            "charge": charge,
        }
        assert self.db.execute(SQL["postpone"], words).fetchone() == (len(mine),)
        for number, entry in self._queue().items():
            if number in mine:
                assert entry.worker is None
                assert entry.due == (delay == 0)
                assert entry.attempts == max(before[number].attempts - (not charge), 0)
            else:
                assert entry == before[number]

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """A lease goes on, even one that was over, as long as nobody else has the entry."""
        worker, batch = self.in_hand[data.draw(st.integers(0, len(self.in_hand) - 1))]
        before = self._queue()
        mine = [number for number in batch.entries if number in before and before[number].worker == worker]
        words = {"worker": worker, "entries": list(batch.entries), "lease": LEASE}
        assert self.db.execute(SQL["renew"], words).fetchone() == (len(mine),)
        after = self._queue()
        assert not any(after[number].due for number in mine)
        assert after.keys() == before.keys()

    @precondition(lambda self: len(self.alive) < len(WORKERS))
    @rule(worker=WORKER)
    def begin(self, worker: int) -> None:
        """A worker's session is there."""
        if worker not in self.alive:
            self.lives.execute("SELECT pg_advisory_lock(%s, %s)", (ALIVE, worker))
            self.alive.add(worker)

    @precondition(lambda self: self.alive)
    @rule(worker=WORKER)
    def lose(self, worker: int) -> None:
        """A worker's session ends; the process may be alive, and finish late."""
        if worker in self.alive:
            self.lives.execute("SELECT pg_advisory_unlock(%s, %s)", (ALIVE, worker))
            self.alive.discard(worker)

    @precondition(lambda self: self.in_hand and len(self.alive) < len(WORKERS))
    @rule()
    def rescue(self) -> None:
        """What lost workers held is free; nothing else changes hands."""
        before = self._queue()
        lost = {
            n for n, entry in before.items() if entry.worker is not None and entry.worker not in self.alive
        }
        held = Counter(entry.worker for entry in before.values())
        with self._frozen():
            assert self.db.execute(SQL["rescue"]).fetchone() == (len(lost),)
        for number, entry in self._queue().items():
            if number in lost:
                assert entry.worker is None
                assert entry.lost
                assert entry.attempts == before[number].attempts
                assert entry.alone == (before[number].alone and held[before[number].worker] == 1)
            else:
                assert (entry.worker, entry.attempts) == (before[number].worker, before[number].attempts)

    # an operator, and time

    @precondition(lambda self: +self.queued)
    @rule(held=st.booleans())
    def let_time_pass(self, held: bool) -> None:
        """Backoffs are over; with `held`, leases are, too."""
        self.db.execute(
            "UPDATE embed._queue SET available_at = clock_timestamp() - interval '1 second'"
            " WHERE available_at > clock_timestamp() AND (worker IS NULL OR %s)",
            (held,),
        )

    @precondition(lambda self: self.failed)
    @rule(key=st.none() | KEYS)
    def retry(self, key: int | None) -> None:
        """Failures go back to the queue, and are none meanwhile."""
        spelled = None if key is None else self.shape.spell(key)
        again = self.failed if spelled is None else self.failed & {spelled}
        self.db.execute("SELECT embed.retry(%s, %s)", (NAME, spelled))
        self.queued.update(again)
        self.failed = self.failed - again

    @precondition(lambda self: self.failed)
    @rule()
    def prune(self) -> None:
        """Failures of rows that are gone, or have no text any more, are struck off."""
        self.db.execute(SQL["prune"], {"vectorizer": self.vectorizer})
        self.failed = {key for key in self.failed if self._input(key) is not None}

    @rule(mode=st.sampled_from(["missing", "all"]))
    def backfill(self, mode: str) -> None:
        """It begins, or begins again; a wish for all rows stands until all were read."""
        self.db.execute("SELECT embed.backfill(%s, mode => %s)", (NAME, mode))
        self.mode = "all" if "all" in (mode, self.mode) else "missing"
        self.reached = None

    @precondition(lambda self: self.mode)
    @rule(most=st.integers(1, 3))
    def page(self, most: int) -> None:
        """The next rows by key are queued: all, or those without a vector; none behind the last at first."""
        words = {"vectorizer": self.vectorizer, "rows": most}
        assert self.db.execute(SQL["page"], words).fetchone() == (True,)
        places = sorted((self.shape.order(self.numbers[key]), key) for key in self.rows)
        if self.reached is None:
            self.upto = places[-1][0] if places else ()
        wanted = [one for one in places if one[0] <= self.upto]
        beyond = [one for one in wanted if self.reached is None or one[0] > self.reached][:most]
        self.queued.update(key for _, key in beyond if self.mode == "all" or key not in self.vectors)
        self.seen["paged"] += 1
        if len(beyond) < most:
            self.seen["all paged"] += 1
            self.mode = None
        else:
            self.reached = beyond[-1][0]

    @precondition(lambda self: +self.queued)
    @rule(worker=WORKER)
    def pause(self, worker: int) -> None:
        """Nothing is taken while it is paused."""
        self.db.execute("SELECT embed.pause(%s)", (NAME,))
        self.paused = True
        self.take(worker, Lane.LIVE, 8)
        self.db.execute("SELECT embed.resume(%s)", (NAME,))
        self.paused = False

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Rows, vectors, failures and what is queued are the model's."""
        found = self.db.execute(self.shape.sql(READ)).fetchall()
        assert {key: text for key, text, _, _ in found} == self.rows
        assert {key for key, _, draft, _ in found if draft} == self.drafts
        stored = {key: self.spelled[spelt] for key, _, _, spelt in found if spelt is not None}
        assert stored == self.vectors
        assert {key for (key,) in self.db.execute("SELECT key FROM embed.failures")} == self.failed
        queued = Counter(key for entry in self._queue().values() for key in entry.keys)
        assert queued == +self.queued

    @invariant()
    def forgets_nothing(self) -> None:
        """At every moment a row has the vector of its text, or is queued, or is listed as failed."""
        for key in self.rows:
            fits = self.vectors.get(key) == self._input(key)
            assert fits or self.queued[key] > 0 or key in self.failed, key

    def teardown(self) -> None:
        """Let everything come to rest: then each row has its vector or is listed, and nothing is queued."""
        if self.locked:
            self.unlock()
        while self.mode:
            self.page(3)
        for _ in range(500):
            if not self._queue():
                break
            self.let_time_pass(held=True)
            for lane in Lane:
                self.take(WORKERS[0], lane, 8)
            while self.in_hand:
                self._finish(*self.in_hand.pop(), set())
        self.prune()
        self.agrees_with_the_model()
        assert not self._queue()
        for key in self.rows:
            assert key in self.failed or self.vectors.get(key) == self._input(key)
        for worker in WORKERS:
            self.lose(worker)

    def _input(self, key: str) -> str | None:
        """The text to embed, of a row that is there; of one that is not there is none."""
        return None if key in self.drafts else self.rows.get(key)

    def _give_up(self, before: dict[int, Entry], after: dict[int, Entry], due: set[int]) -> set[int]:
        """What a claim does with entries that killed too many: their ids."""
        spent = {number for number in due if before[number].is_spent}
        spent = {number for number in spent if number not in after or not after[number].due}
        assert before.keys() - after.keys() <= spent
        for number in spent:
            entry = before[number]
            (key,) = entry.keys
            same = self._hash(self._input(key)) == entry.hash
            if same and key in self.locked:
                assert after[number] == replace(entry, due=False)
                self.seen["held"] += 1
                continue
            assert number not in after
            self.queued.subtract([key])
            self.seen["buried" if same else "outlived"] += 1
            if same:
                self.failed.add(key)
        return spent

    def _check_claim(
        self,
        worker: int,
        most: int,
        batch: Batch,
        before: dict[int, Entry],
        after: dict[int, Entry],
        due: set[int],
    ) -> None:
        claimed = [before[number] for number in batch.entries]
        self.seen["taken"] += 1
        self.seen["taken over"] += any(entry.worker is not None for entry in claimed)
        assert set(batch.entries) <= due
        sizes = [len(entry.keys) for entry in claimed]
        assert sum(sizes) - max(sizes) < most
        assert len({entry.attempts + 1 >= MAX_ATTEMPTS for entry in claimed}) == 1
        suspects = [entry for entry in claimed if entry.lost and entry.attempts >= SUSPECT]
        assert not suspects or len(claimed) == 1
        for number, entry in zip(batch.entries, claimed, strict=True):
            now = after[number]
            split = bool(suspects) and len(entry.keys) > 1
            self.seen["split"] += split
            assert (now.worker, now.due) == (worker, False)
            assert now.attempts == (SUSPECT if split else entry.attempts) + 1
            assert now.alone == (bool(suspects) and len(now.keys) == 1)
            assert not now.alone or now.hash == self._hash(self._input(now.keys[0]))
            parts = [after[new] for new in after.keys() - before.keys()] if split else []
            assert sorted([*now.keys, *(key for part in parts for key in part.keys)]) == sorted(entry.keys)
            assert all((part.attempts, part.worker, part.lost) == (SUSPECT, None, True) for part in parts)
        for number in before.keys() & after.keys() - set(batch.entries):
            assert after[number].worker == before[number].worker

    def _work(self, worker: int, batch: Batch, dead: bool, held: bool) -> None:
        if held and batch.keys and not self.locked:
            self.lock({self.numbers[batch.keys[0]]})
        self._finish(worker, batch, set(batch.keys[-1:]) if dead else set())

    def _finish(self, worker: int, batch: Batch, dead: set[str]) -> None:
        before = self._queue()
        living = [key for key in batch.keys if key not in dead]
        texts = dict(zip(batch.keys, batch.texts, strict=True))
        hashes = dict(zip(batch.keys, batch.hashes, strict=True))
        given = [*living, *sorted(dead), *batch.empty]
        told = [{"key": key, "code": "PE021", "error": "told", "attempts": 1} for key in dead]
        words = (
            worker,
            self.vectorizer,
            list(batch.entries),
            given,
            [hashes.get(key) for key in given],
            [vector(texts[key]) if key in living else None for key in given],
            list(batch.gone),
            Jsonb(told),
        )
        with self._frozen():
            row = self.db.execute(FINISH, words).fetchone()
        busy: set[str] = set()
        done = 0
        for key in given:
            done += self._expect(key, texts.get(key), key in dead, busy)
        for key in batch.gone:
            if self._input(key) is None and key not in self.vectors:
                self.failed.discard(key)
        for number in batch.entries:
            if number in before:
                self.queued.subtract(key for key in before[number].keys if key not in busy)
        assert row == (done, len(busy))

    def _expect(self, key: str, text: str | None, dead: bool, busy: set[str]) -> bool:
        """What becomes of a row that is given; whether it is written."""
        same = key in self.rows and self._input(key) == text and (text is not None or key in self.vectors)
        if same and key in self.locked:
            busy.add(key)
            self.seen["busy"] += 1
        elif same:
            self.failed.discard(key)
            self.vectors.pop(key, None)
            self.seen["dead" if dead else "written"] += 1
            if dead:
                self.failed.add(key)
            elif text is not None:
                self.vectors[key] = text
            return True
        elif self._input(key) is None and key not in self.vectors:
            self.failed.discard(key)  # nothing there to embed
        elif text is not None:
            self.seen["stale"] += 1
        return False

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        row = self.db.execute("SELECT clock_timestamp()").fetchone()
        yield
        self.db.execute(FREEZE, (*(row or ()), LOST, SUSPECT))

    def _queue(self) -> dict[int, Entry]:
        return {number: Entry(*words) for number, *words in self.db.execute(QUEUE, (LOST,)).fetchall()}

    def _hash(self, text: str | None) -> int | None:
        return None if text is None else self.hashes[text]

    def _halfvec(self, text: str) -> str:
        row = self.db.execute("SELECT %s::halfvec::text", (vector(text),)).fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", [WHOLE, PARTS], ids=["whole", "parts"])
def test_no_order_of_calls_forgets_a_row(dsn: str, db: Connection, shape: Shape) -> None:
    create_fake_model(db)
    db.execute(shape.create)
    db.execute(f"SELECT embed.create_vectorizer({shape.vectorizer}, max_attempts => %s)", (MAX_ATTEMPTS,))
    examples = int(os.environ.get("PG_EMBED_TEST_EXAMPLES") or EXAMPLES)
    chosen = settings(
        max_examples=examples,
        derandomize=examples == EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with (
        psycopg.connect(dsn, autocommit=True) as lives,
        psycopg.connect(dsn, autocommit=True) as locker,
    ):

        class Ours(Queue):
            pass

        Ours.db, Ours.lives, Ours.locker, Ours.seen, Ours.shape = db, lives, locker, Counter(), shape
        run_state_machine_as_test(Ours, settings=chosen)
    print(dict(Ours.seen))
    assert min(Ours.seen[event] for event in EVENTS) > 0
