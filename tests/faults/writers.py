"""Writers that change a few rows in every way there is, from a seed, and keep errors that none should see.

They take advisory locks on the keys of a transaction in ascending order before they touch a row. So they
never wait for each other in a circle, and any deadlock is ours.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors

from tests.faults.tables import Table, random_text

STATEMENT_TIMEOUT = 30  # seconds; a writer that waits so long for us has been blocked
JOIN_TIMEOUT = 60  # seconds
EXPECTED = (errors.UniqueViolation,)
CHANGES = ("body = concat(title, 'x')", "rating = rating + 1", "body = NULL", "title = body")
BLOCKED = (errors.DeadlockDetected, errors.QueryCanceled, errors.LockNotAvailable)


def new_seed() -> int:
    """PG_EMBED_TEST_SEED, or a new one, printed for the next run."""
    seed = int(os.environ.get("PG_EMBED_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"PG_EMBED_TEST_SEED={seed}")
    return seed


class Writer(threading.Thread):
    """Changes rows 0 to `rows` of the tables until it is stopped; a lost connection is made again."""

    def __init__(self, dsn: str, tables: Sequence[Table], rows: int, seed: str, pause: float = 0.0) -> None:
        super().__init__(daemon=True, name=f"writer {seed}")
        self.errors: list[BaseException] = []
        self.done: Counter[str] = Counter()
        self._dsn = dsn
        self._tables = tables
        self._rows = rows
        self._random = random.Random(seed)
        self._pause = pause  # seconds between transactions
        self._ending = threading.Event()
        self._go = threading.Event()
        self._resting = threading.Event()
        self._go.set()

    def run(self) -> None:
        """Write until stopped."""
        while not self._ending.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT}s'")
                    connection.execute("SET log_min_messages = panic")  # conflicts are many
                    self._write(connection)
            except psycopg.OperationalError as error:
                if isinstance(error, BLOCKED):
                    self.errors.append(error)
                self.done["lost connections"] += 1
                self._ending.wait(0.01)
            except BaseException as error:
                self.errors.append(error)
                return

    def hold(self) -> None:
        """Stop writing for a while; back when no transaction is open."""
        self._resting.clear()
        self._go.clear()
        while self.is_alive() and not self._resting.wait(0.1):
            pass

    def go_on(self) -> None:
        """Write again."""
        self._go.set()

    def stop(self) -> None:
        """End, and raise what went wrong."""
        self._ending.set()
        self._go.set()
        self.join(JOIN_TIMEOUT)
        assert not self.is_alive(), f"{self.name} hangs"
        if self.errors:
            raise self.errors[0]

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        while not self._ending.is_set():
            if not self._go.is_set():
                self._resting.set()
                self._go.wait()
                continue
            table = self._random.choice(self._tables)
            action = self._random.choices(ACTIONS, WEIGHTS)[0]
            try:
                action(self._random, connection, table, self._rows)
                self.done[action.__name__.strip("_")] += 1
            except EXPECTED:
                self.done["conflicts"] += 1
            except psycopg.OperationalError:
                if not self._go.is_set():
                    self._resting.set()
                raise
            if self._pause:
                self._ending.wait(self._pause)


@contextmanager
def writing(
    dsn: str, tables: Sequence[Table], seed: int, *, writers: int, rows: int, pause: float = 0.0
) -> Iterator[list[Writer]]:
    """Writers at work during the block; their errors are raised at its end."""
    group = [Writer(dsn, tables, rows, f"{seed}/{number}", pause) for number in range(writers)]
    for writer in group:
        writer.start()
    try:
        yield group
    finally:
        for writer in group:
            writer._ending.set()
            writer._go.set()
        for writer in group:
            writer.join(JOIN_TIMEOUT)
    for writer in group:
        writer.stop()
    total = sum((writer.done for writer in group), Counter())
    print(f"writers: {dict(total)}")
    assert sum(total.values()) > 0


def _lock(connection: psycopg.Connection[Any], table: Table, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    """The keys of these numbers, held by this transaction against the other writers."""
    ordered = sorted(set(numbers))
    for number in ordered:
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s), %s)", (table.name, number))
    return [table.key(number) for number in ordered]


def _some(rng: random.Random, rows: int, most: int) -> list[int]:
    return [rng.randrange(rows) for _ in range(rng.randint(1, most))]


def _values(rng: random.Random, key: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*key, random_text(rng), random_text(rng), rng.randrange(10), rng.random() < 0.2)


def _insert_statement(table: Table, rows: int = 1, conflict: str = "") -> str:
    width = len(table.key_columns) + 4
    row = f"({', '.join(['%s'] * width)})"
    names = ", ".join([*table.key_columns, "title", "body", "rating", "draft"])
    return f"INSERT INTO {table.name} ({names}) VALUES {', '.join([row] * rows)} {conflict}"


def _delete(connection: psycopg.Connection[Any], table: Table, keys: Sequence[tuple[Any, ...]]) -> None:
    for key in keys:
        connection.execute(f"DELETE FROM {table.name} WHERE {table.where}", key)


def _insert_one(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    connection.execute(_insert_statement(table), _values(rng, table.key(rng.randrange(rows))))


def _upsert_one(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    conflict = f"ON CONFLICT ({', '.join(table.key_columns)}) DO UPDATE SET body = excluded.body"
    connection.execute(_insert_statement(table, 1, conflict), _values(rng, table.key(rng.randrange(rows))))


def _insert_many(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    with connection.transaction():
        keys = _lock(connection, table, _some(rng, rows, 20))
        values = [value for key in keys for value in _values(rng, key)]
        connection.execute(_insert_statement(table, len(keys), "ON CONFLICT DO NOTHING"), values)


def _copy(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    names = ", ".join([*table.key_columns, "title", "body", "rating", "draft"])
    with connection.transaction():
        keys = _lock(connection, table, _some(rng, rows, 30))
        _delete(connection, table, keys)
        with connection.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for key in keys:
                copy.write_row(_values(rng, key))


def _update_text(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    column = rng.choice(["title", "body", "body"])
    connection.execute(
        f"UPDATE {table.name} SET {column} = %s WHERE {table.where}",
        (random_text(rng), *table.key(rng.randrange(rows))),
    )


def _update_other(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    change = rng.choice(["rating = rating + 1", "draft = NOT draft", "body = body"])
    connection.execute(
        f"UPDATE {table.name} SET {change} WHERE {table.where}", table.key(rng.randrange(rows))
    )


def _set_null(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    connection.execute(
        f"UPDATE {table.name} SET body = NULL, title = NULL WHERE {table.where}",
        table.key(rng.randrange(rows)),
    )


def _delete_one(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    _delete(connection, table, [table.key(rng.randrange(rows))])


def _update_many(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    with connection.transaction():
        keys = _lock(connection, table, _some(rng, rows, 12))
        condition = " OR ".join([f"({table.where})"] * len(keys))
        change = rng.choice(
            ["body = concat(title, 'x')", "rating = rating + 1", "body = NULL", "title = body"]
        )
        connection.execute(
            f"UPDATE {table.name} SET {change} WHERE {condition}", [part for key in keys for part in key]
        )


def _change_key(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    old, new = rng.randrange(rows), rng.randrange(rows)
    names = ", ".join(f"{column} = %s" for column in table.key_columns)
    with connection.transaction():
        _lock(connection, table, [old, new])
        if rng.random() < 0.7:
            _delete(connection, table, [table.key(new)] if new != old else [])
        connection.execute(
            f"UPDATE {table.name} SET {names} WHERE {table.where}", (*table.key(new), *table.key(old))
        )


def _replace(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    with connection.transaction():
        keys = _lock(connection, table, _some(rng, rows, 5))
        for key in keys:
            connection.execute(_insert_statement(table, 1, "ON CONFLICT DO NOTHING"), _values(rng, key))
            _delete(connection, table, [key])
            connection.execute(_insert_statement(table), _values(rng, key))
            connection.execute(
                f"UPDATE {table.name} SET body = %s WHERE {table.where}", (random_text(rng), *key)
            )


def _savepoints(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    with connection.transaction():
        for key in _lock(connection, table, _some(rng, rows, 4)):
            with connection.transaction(force_rollback=rng.random() < 0.5):
                connection.execute(_insert_statement(table, 1, "ON CONFLICT DO NOTHING"), _values(rng, key))
                connection.execute(
                    f"UPDATE {table.name} SET body = %s WHERE {table.where}", (random_text(rng), *key)
                )


def _roll_back(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    with connection.transaction(force_rollback=True):
        for key in _lock(connection, table, _some(rng, rows, 4)):
            connection.execute(
                f"UPDATE {table.name} SET body = %s WHERE {table.where}", (random_text(rng), *key)
            )
            if rng.random() < 0.3:
                _delete(connection, table, [key])


def _truncate(rng: random.Random, connection: psycopg.Connection[Any], table: Table, rows: int) -> None:
    with connection.transaction(force_rollback=rng.random() < 0.3):
        connection.execute(f"TRUNCATE {table.name}")
        for number in _some(rng, rows, 5):
            connection.execute(
                _insert_statement(table, 1, "ON CONFLICT DO NOTHING"), _values(rng, table.key(number))
            )


Action = Callable[[random.Random, psycopg.Connection[Any], Table, int], None]
FREQUENCY: dict[Action, float] = {
    _insert_one: 10,
    _upsert_one: 12,
    _insert_many: 6,
    _copy: 3,
    _update_text: 25,
    _update_other: 10,
    _set_null: 3,
    _delete_one: 6,
    _update_many: 5,
    _change_key: 6,
    _replace: 3,
    _savepoints: 4,
    _roll_back: 4,
    _truncate: 0.4,
}
ACTIONS, WEIGHTS = list(FREQUENCY), list(FREQUENCY.values())
