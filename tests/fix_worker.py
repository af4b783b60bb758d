"""Workers for tests, each in a thread with an event loop of its own; and the invariant as one query."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_embed.engine import Engine
from pg_embed.jobs.limits import Limits
from pg_embed.models import bm25
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.registry import Registry, default_registry
from pg_embed.protocols import Embedder
from pg_embed.records import VECTORS, Embeddings, Kind, ModelSpec, Outputs
from pg_embed.worker import Worker, WorkerSettings
from pg_embed.worker.observer import Observer
from tests.fix_models import PATIENCE, OneModel

Connection = psycopg.Connection[Any]
DIMENSIONS = 4
QUICK = {"backoff": 0.01, "backoff_limit": 0.05, "repair_wait": 0.05}  # seconds
NEVER = 3_600.0  # seconds: what must not happen by the clock in a test


@dataclass(eq=False)
class Call:
    """One call of a `GatedFake`; while the gate is shut it waits until the test lets it go."""

    texts: list[str]
    gate: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def go(self, error: BaseException | None = None) -> None:
        """Let it end, with an error if given."""
        self.error = error
        self.gate.set()


class GatedFake(FakeEmbedder):
    """The fake model, with calls that a test can hold; what `refuse` returns for a call is raised."""

    def __init__(self, shut: bool = False, **options: Any) -> None:
        super().__init__(FakeOptions(**{"dimensions": DIMENSIONS, **options}))
        self.calls: list[Call] = []
        self.refuse: Callable[[Sequence[str]], BaseException | None] = lambda texts: None
        self._shut = shut
        self._changed = threading.Condition()
        self._seen = 0

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Wait while shut, then hash."""
        call = Call(list(texts))
        with self._changed:
            self.calls.append(call)
            shut = self._shut
            self._changed.notify_all()
        if shut:
            assert call.gate.wait(PATIENCE), "the test never let the call go"
        error = call.error or self.refuse(texts)
        if error is not None:
            raise error
        return super().embed(texts, kind)

    def next_call(self) -> Call:
        """Wait for the next call to begin."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) > self._seen, PATIENCE), "no call came"
            self._seen += 1
            return self.calls[self._seen - 1]

    def shut(self) -> None:
        """Hold the calls that begin from now on; `next_call` gives the first of them."""
        with self._changed:
            self._shut = True
            self._seen = len(self.calls)

    def open(self) -> None:
        """Hold no call any more, and let go those that wait."""
        with self._changed:
            self._shut = False
            for call in self.calls:
                call.gate.set()

    @property
    def texts(self) -> list[str]:
        """Every text that came, in the order of the calls."""
        return [text for call in self.calls for text in call.texts]


class RunningWorker:
    """A worker with its engine, in a thread of its own."""

    def __init__(
        self, dsn: str, registry: Registry, settings: WorkerSettings, observer: Observer | None = None
    ) -> None:
        self._dsn = dsn
        self._observer = observer
        self._registry = registry
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: Worker | None = None
        self._begun = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="worker under test")
        self._thread.start()

    @property
    def number(self) -> int:
        """The number that it claims entries under."""
        assert self._worker is not None
        return self._worker.number

    def ready(self) -> RunningWorker:
        """Wait until it watches the queue."""
        assert self._begun.wait(PATIENCE), "the worker did not begin"
        if self.error is not None:
            raise self.error
        return self

    def ask_to_stop(self) -> None:
        """What the first signal does."""
        self._tell("stop")

    def ask_to_abort(self) -> None:
        """What the second signal does."""
        self._tell("abort")

    def join(self) -> None:
        """Wait for its end; its error is raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the worker did not end"
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Let it finish what is in hand, and wait for that."""
        self.ask_to_stop()
        self.join()

    def abort(self) -> None:
        """End it at once."""
        self.ask_to_abort()
        self.join()

    def _tell(self, what: str) -> None:
        if self._loop is not None and self._worker is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(getattr(self._worker, what))

    def _main(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as exc:
            self.error = exc
        finally:
            self._begun.set()

    async def _work(self) -> None:
        limits = Limits(self._dsn)
        engine = Engine(self._registry, throttle=limits)
        self._worker = Worker(self._dsn, engine, self._settings, limits, self._observer)
        self._loop = asyncio.get_running_loop()
        ready = asyncio.create_task(self._worker.ready())
        ready.add_done_callback(lambda _: self._begun.set())
        try:
            await limits.open()
            await self._worker.run()
        finally:
            ready.cancel()
            await engine.close()
            await limits.close()


class StartWorker(logging.Handler):
    """Starts workers: `start_worker(dsn, model, lease=5.0)`; keeps the errors that they log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []
        self.expected: str | None = None  # a regular expression for errors that belong to the test
        self._started: list[RunningWorker] = []
        self._models: list[GatedFake] = []

    def __call__(
        self,
        dsn: str,
        model: GatedFake | Mapping[str, GatedFake] | None = None,
        observer: Observer | None = None,
        **settings: Any,
    ) -> RunningWorker:
        """A worker that watches the queue; `model` stands for all models, or for those named."""
        named = model if isinstance(model, Mapping) else {}
        known = default_registry()

        def load(spec: ModelSpec) -> Embedder:
            return model if isinstance(model, GatedFake) else named.get(spec.name) or known.load(spec)

        worker = RunningWorker(dsn, OneModel(load), WorkerSettings(**{**QUICK, **settings}), observer)
        self._started.append(worker)
        self._models.extend([model] if isinstance(model, GatedFake) else named.values())
        return worker.ready()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an error."""
        self.errors.append(record.getMessage())

    def forget_errors(self) -> None:
        """Workers that have ended by an error did what the test wanted."""
        self._started = [worker for worker in self._started if worker.error is None]

    def end(self) -> None:
        """End all workers, whatever they wait for."""
        for worker in self._started:
            worker.ask_to_abort()
        for model in self._models:
            model.open()
        for worker in self._started:
            worker.join()

    def check(self) -> None:
        """No worker has logged an error but those that the test expects."""
        errors = [text for text in self.errors if not (self.expected and re.search(self.expected, text))]
        assert not errors, f"a worker logged: {errors}"


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Start workers that end with the test; an error in their log fails it."""
    start = StartWorker()
    logger = logging.getLogger("pg_embed.worker")
    logger.addHandler(start)
    try:
        yield start
        start.end()
        start.check()
    finally:
        start.end()
        logger.removeHandler(start)


def create_fake_model(db: Connection, name: str = "fake", **options: Any) -> str:
    """Enter a fake model in the catalog, with the card that the family gives."""
    chosen = {"dimensions": DIMENSIONS, **options}
    card = FakeEmbedder(FakeOptions(**chosen)).card.as_dict()
    db.execute("SELECT embed.create_model(%s, 'fake', %s, card => %s)", [name, Jsonb(chosen), Jsonb(card)])
    return name


def create_bm25_model(db: Connection, name: str = "bm25", **options: Any) -> str:
    """Enter a model of family bm25 in the catalog."""
    card = bm25.load(ModelSpec(name, "bm25", options)).card.as_dict()
    db.execute("SELECT embed.create_model(%s, 'bm25', %s, card => %s)", [name, Jsonb(options), Jsonb(card)])
    return name


def create_docs(db: Connection, *texts: str | None) -> None:
    """A table `docs (id, title, body)` with these texts as bodies."""
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    insert_docs(db, *texts)


def insert_docs(db: Connection, *texts: str | None) -> None:
    """Further rows of `docs`, numbered on."""
    db.execute(
        "INSERT INTO docs (id, body) SELECT (SELECT coalesce(max(id), 0) FROM docs) + n, t"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u(t, n)",
        [list(texts)],
    )


def vector(text: str, **options: Any) -> str:
    """The fake model's vector of a text, as pgvector reads it."""
    model = FakeEmbedder(FakeOptions(**{"dimensions": DIMENSIONS, **options}))
    (row,) = model.embed([text], "document").dense
    return "[" + ",".join(repr(float(number)) for number in row) + "]"


def broken_rows(
    db: Connection,
    table: str = "docs",
    key: str = "id::text",
    text: str = "body",
    column: str = "embedding",
    vectorizer: str = "docs_embedding",
    **options: Any,
) -> list[tuple[Any, ...]]:
    """The invariant: rows whose vector is not that of their present text, less those in embed.failures.

    `key` and `text` are SQL expressions over the table's columns, in the test's words, not the code's.
    """
    parts = {
        "table": sql.SQL(table),
        "key": sql.SQL(key),
        "text": sql.SQL(text),
        "column": sql.SQL(column),
        "vectorizer": sql.Literal(vectorizer),
        "type": sql.SQL(_column_type(db, table, column)),
    }
    present = db.execute(
        sql.SQL("SELECT DISTINCT ({text}) FROM {table} WHERE ({text}) IS NOT NULL").format(**parts)
    )
    texts = [row[0] for row in present]
    db.execute("DROP TABLE IF EXISTS pg_temp.expected")
    db.execute("CREATE TEMPORARY TABLE expected (input text, vector text)")
    with db.cursor() as cursor, cursor.copy("COPY pg_temp.expected FROM STDIN") as copy:
        for given in texts:
            copy.write_row((given, vector(given, **options)))
    found = db.execute(
        sql.SQL(
            "SELECT {key} AS key, ({text}) AS input, {column}::text AS vector, e.vector AS expected"
            " FROM {table} LEFT JOIN pg_temp.expected AS e ON e.input = ({text})"
            " WHERE {column} IS DISTINCT FROM e.vector::{type} AND NOT (({text}) IS NOT NULL AND EXISTS ("
            "SELECT FROM embed.failures AS f WHERE f.vectorizer_name = {vectorizer} AND f.key = {key}))"
        ).format(**parts)
    )
    return found.fetchall()


def _column_type(db: Connection, table: str, column: str) -> str:
    row = db.execute(
        "SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a"
        " WHERE a.attrelid = %s::regclass AND a.attname = (parse_ident(%s))[1]",
        [table, column],
    ).fetchone()
    assert row is not None, f"{table} has no column {column}"
    return str(row[0])
