"""Postgres, workers, a sidecar, a provider, writers and searchers: all that a soak harms and heals."""

from __future__ import annotations

import heapq
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_embed.embedded import EmbeddedServer
from pg_embed.install import install, transports
from pg_embed.records import ModelSpec
from tests.faults.invariant import rest, violations
from tests.faults.nursery import Nursery, nursery
from tests.faults.postmaster import bring_up
from tests.faults.proxy import Proxy, proxy
from tests.faults.searchers import Searcher
from tests.faults.tables import (
    LEXICAL,
    MODEL,
    NOTES,
    ODD,
    PAIR,
    PARTED,
    SECOND,
    TEXT,
    TWICE,
    Column,
    Table,
    set_up,
)
from tests.faults.writers import Writer
from tests.fix_pg import temporary_folder
from tests.providers.openai_server import openai_server
from tests.providers.server import ProviderServer, serving

WORKERS, WRITERS, SEARCHERS = 3, 3, 2
ROWS = 80  # of each table, at most
WRITERS_PAUSE = 0.02  # seconds between two transactions of a writer
SETTINGS = {
    "lease": 3.0,
    "tend_every": 0.3,
    "poll": 0.2,
    "page_rows": 50,
    "connections": 4,
    "backoff": 0.05,
    "backoff_limit": 1.0,
    "repair_wait": 0.3,
    "refused_wait": 0.3,
}
REST_TIMEOUT = 180.0  # seconds until all work is done, once all is healed
TELLING = 20.0  # seconds until workers have told what they used
TELLING_TASKS = 2.0  # seconds until workers have told what they wait for
END_TIMEOUT = 20.0  # seconds until Postgres has noticed that its clients are gone
LATER = "UPDATE embed._queue SET available_at = clock_timestamp() WHERE worker IS NULL"
SESSIONS = """
    SELECT application_name, state, query FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
ADVISORY = "SELECT classid, objid, pid FROM pg_locks WHERE locktype = 'advisory'"


def hosted(provider: ProviderServer) -> Table:
    """A table whose model is the provider's."""
    options = {
        "base_url": provider.base_url,
        "model": "ours",
        "dimensions": 8,
        "timeout": 1.0,
        "concurrency": 2,
    }
    column = Column(
        "embedding", ModelSpec("hosted", "openai", options), "input => 'body', model => 'hosted'", "body"
    )
    return replace(
        NOTES,
        name="hosted",
        create=[f"CREATE TABLE hosted (id bigint PRIMARY KEY, {TEXT})"],
        columns=[column],
    )


def unlucky(folder: Path) -> Table:
    """The partitioned table, with the model that has mishaps."""
    model = ModelSpec("unlucky", "unlucky", {**MODEL.options, "mishaps": str(folder)})
    column = Column("embedding", model, "input => 'body', model => 'unlucky'", "body")
    return replace(PARTED, columns=[column])


class Scene:
    """What there is, what was done to it, and what is still to be undone."""

    def __init__(
        self,
        folder: Path,
        server: EmbeddedServer,
        provider: ProviderServer,
        link: Proxy,
        processes: Nursery,
        seed: int,
    ) -> None:
        self.folder = folder
        self.server = server
        self.provider = provider
        self.proxy = link
        self.processes = processes
        self.dsn = server.dsn()
        self.lease = SETTINGS["lease"]
        self.workers: list[int | None] = []
        self.paused: set[int] = set()
        self.sidecar: int | None = None
        self.sent: Counter[str] = Counter()  # faults that wait for a call, and those that met one
        self.hits: Counter[str] = Counter()
        self.wrong: list[str] = []
        mishaps = folder / "mishaps"
        mishaps.mkdir(exist_ok=True)
        self.tables = [NOTES, TWICE, ODD, PAIR, unlucky(mishaps), hosted(provider)]
        words = {"host": "127.0.0.1", "port": link.port}
        self._worker_dsn = make_conninfo(**{**conninfo_to_dict(self.dsn), **words})
        self._db: psycopg.Connection[Any] | None = None
        self._undoing: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._next_look = 0.0
        self._seed = seed
        self.writers: list[Writer] = []
        self.searchers: list[Searcher] = []

    def set_up(self) -> None:
        """Install, make the tables, and start all."""
        install(self.dsn)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            transports.set_up(connection, "spool", {"directory": self.server.spool_dir})
            models = [column.model for table in self.tables[-2:] for column in table.columns]
            set_up(connection, self.tables, models=[MODEL, SECOND, LEXICAL, *models])
        self.workers = [self._new_worker() for _ in range(WORKERS)]
        self._start_sidecar()
        written = [*self.tables, *self.tables[-2:]]  # models with faults of their own are called more often
        self.writers = [
            Writer(f"{self.dsn}&application_name=writer", written, ROWS, f"{self._seed}/{n}", WRITERS_PAUSE)
            for n in range(WRITERS)
        ]
        self.searchers = [
            Searcher(f"{self.dsn}&application_name=searcher", f"{self._seed}/search/{n}")
            for n in range(SEARCHERS)
        ]
        for thread in [*self.writers, *self.searchers]:
            thread.start()

    @property
    def injected(self) -> Counter[str]:
        """Faults that hit something, by kind."""
        return self.hits + self.sent - self.waiting

    @property
    def waiting(self) -> Counter[str]:
        """Faults that no call has met yet."""
        return Counter(
            provider_error=len(self.provider.faults),
            provider_garbage=len(self.provider.shapes),
            model_mishap=len(list((self.folder / "mishaps").iterdir())),
        )

    @property
    def late(self) -> int:
        """How many answers of the sidecar have not come in time."""
        return sum(searcher.answers["PE011"] for searcher in self.searchers)

    @property
    def embedded(self) -> int:
        """Texts embedded, as workers have told; what a killed one had not told yet is missing."""
        row = self.execute("SELECT COALESCE(sum(inputs), 0)::bigint FROM embed.usage").fetchone()
        return int(row[0]) if row else 0

    def embedded_more_than(self, before: int) -> bool:
        """Whether more was embedded; what was used is told now and then."""
        deadline = time.monotonic() + TELLING
        while self.embedded <= before and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.embedded > before

    def hit(self, name: str) -> None:
        """Count a fault."""
        self.hits[name] += 1

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        """One statement, sent again when the server was lost."""
        while True:
            try:
                if self._db is None:
                    self._db = psycopg.connect(self.dsn, autocommit=True, application_name="soak")
                return self._db.execute(statement, parameters)
            except psycopg.OperationalError:
                self._disconnect()
                self.bring_up()

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        """Undo something when its time has come."""
        heapq.heappush(self._undoing, (time.monotonic() + seconds, next(self._number), undo))

    def wait(self, seconds: float) -> None:
        """Let time go by, undo what is due, and look after what ended by itself."""
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            while self._undoing and self._undoing[0][0] <= now:
                heapq.heappop(self._undoing)[2]()
            if now >= self._next_look:
                self._next_look = now + 1.0
                self._look()
            due = self._undoing[0][0] if self._undoing else end
            if now >= end:
                return
            time.sleep(max(0.0, min(end, due) - now))

    def hold(self, statement: str, seconds: float, *, commit: bool = False) -> bool:
        """A session that does one thing and then nothing, for a while."""
        try:
            connection = psycopg.connect(
                self.dsn, autocommit=commit, application_name="holder", options="-c lock_timeout=1s"
            )
        except psycopg.OperationalError:
            return False
        self.later(seconds, connection.close)
        try:
            connection.execute(statement)
        except psycopg.OperationalError:
            connection.close()
            return False
        return True

    def kill_worker(self, place: int, absence: float) -> bool:
        """Kill a worker and start another; False when there is none."""
        pid = self.workers[place]
        if pid is None:
            return False
        self.workers[place] = None
        self.paused.discard(pid)
        self.processes.kill(pid)
        self.later(absence, lambda: self._start_worker(place))
        return True

    def kill_sidecar(self, absence: float) -> bool:
        """Kill the sidecar and start another; False when there is none."""
        if self.sidecar is None:
            return False
        self.processes.kill(self.sidecar)
        self.sidecar = None
        self.later(absence, self._start_sidecar)
        return True

    def bring_up(self) -> None:
        """Have Postgres run."""
        bring_up(self.server, workers=0)

    def heal(self) -> list[tuple[Any, ...]]:
        """Undo all that is still to be undone, and forget the faults that met nothing; what does not heal."""
        while self._undoing:
            heapq.heappop(self._undoing)[2]()
        self.proxy.flow()
        for name, faults in [
            ("provider_error", self.provider.faults),
            ("provider_garbage", self.provider.shapes),
        ]:
            while faults:
                faults.pop()
                self.sent[name] -= 1
        for path in (self.folder / "mishaps").iterdir():
            with suppress(FileNotFoundError):
                path.unlink()
                self.sent["model_mishap"] -= 1
        self._look()
        try:
            bring_up(self.server, workers=len(self.workers))
        except AssertionError as error:
            return [("no healing", str(error)), *self._workers_told()]
        return []

    def check(self) -> list[tuple[Any, ...]]:
        """Once healed: let all come to rest, and look for what is not as it must be; then go on."""
        for writer in self.writers:
            writer.hold()
        found = self._rest()
        if not found:
            self.execute("SELECT 1")
            assert self._db is not None
            found = violations(self._db, self.tables)
        found += [
            ("a searcher", searcher.name, wrong) for searcher in self.searchers for wrong in searcher.wrong
        ]
        found += [
            ("a writer", writer.name, repr(error)) for writer in self.writers for error in writer.errors
        ]
        found += [("a process", "", wrong) for wrong in self.wrong]
        self.provider.requests.clear()
        for writer in self.writers:
            writer.go_on()
        return found

    def memory(self) -> tuple[float, int]:
        """MiB of anonymous memory of the worker which is never killed, and its open files.

        It was forked: what it has for itself grows with each page that it shares and touches, this does not.
        """
        process = psutil.Process(self.workers[0])
        memory = process.memory_info()
        return (memory.rss - memory.shared) / 2**20, process.num_fds()

    def end(self) -> list[tuple[Any, ...]]:
        """Stop all; what is left behind in Postgres."""
        for writer in self.writers:
            writer.stop()
        for searcher in self.searchers:
            searcher.end()
        codes = [self.processes.stop(pid) for pid in [*self.workers, self.sidecar] if pid is not None]
        left = [("exit codes", *codes)] if any(codes) else []
        deadline = time.monotonic() + END_TIMEOUT
        while True:
            sessions = self.execute(SESSIONS).fetchall()
            locks = self.execute(ADVISORY).fetchall()
            if not (sessions or locks or self.proxy.links) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        left += [("session", *row) for row in sessions] + [("lock", *row) for row in locks]
        left += [("connections of the proxy", self.proxy.links)] if self.proxy.links else []
        log = self.processes.log.read_text(encoding="utf-8", errors="replace")
        left += [("the workers' log", line) for line in log.splitlines() if "deadlock" in line][:5]
        self._disconnect()
        return left

    def close(self) -> None:
        """Let go of what this process holds."""
        while self._undoing:
            with suppress(Exception):  # on the way out of a failure its victim may be gone
                heapq.heappop(self._undoing)[2]()
        self._disconnect()

    def _rest(self) -> list[tuple[Any, ...]]:
        deadline = time.monotonic() + REST_TIMEOUT
        while True:
            self.execute(LATER)  # as if the backoffs were over
            assert self._db is not None
            try:
                rest(self._db, self.tables, timeout=5.0)
            except psycopg.Error as error:
                if error.sqlstate == "PE040" and time.monotonic() < deadline:
                    continue
                stuck = self.execute("SELECT q::text FROM embed._queue AS q LIMIT 10").fetchall()
                return [("no rest", f"{error.sqlstate}: {error}", *stuck)]
            return []

    def _look(self) -> None:
        for place, pid in enumerate(self.workers):
            if pid is not None and pid not in self.paused and self.processes.died(pid):
                self.wrong.append(f"worker {pid} ended by itself")
                self._start_worker(place)

    def _workers_told(self) -> list[tuple[Any, ...]]:
        """The states of the workers, which tell the log what they do."""
        pids = [pid for pid in self.workers if pid is not None]
        states = [("worker", pid, psutil.Process(pid).status(), pid in self.paused) for pid in pids]
        for pid in pids:
            self.processes.signal(pid, signal.SIGUSR1)
        time.sleep(TELLING_TASKS)
        return [*states, *self.execute(SESSIONS).fetchall()]

    def _new_worker(self) -> int:
        return self.processes.worker(self._worker_dsn, **SETTINGS)

    def _start_worker(self, place: int) -> None:
        self.workers[place] = self._new_worker()

    def _start_sidecar(self) -> None:
        self.sidecar = self.processes.sidecar({"spool": str(self.server.spool_dir), "grace": 2.0})

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


@contextmanager
def scene(seed: int) -> Iterator[Scene]:
    """A scene that is set up for a block, on a server with fsync and whole pages: kill -9 may tear a page."""
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        server = stack.enter_context(EmbeddedServer(folder / "server"))
        words = conninfo_to_dict(server.dsn())
        link = stack.enter_context(proxy(f"{words['host']}/.s.PGSQL.{words['port']}"))
        provider = stack.enter_context(serving(openai_server, dimensions=8))
        provider.hang_limit = 3.0
        processes = stack.enter_context(nursery(folder / "processes.log"))
        found = Scene(folder, server, provider, link, processes, seed)
        try:
            found.set_up()
            yield found
        finally:
            for writer in found.writers:
                writer._ending.set()
                writer._go.set()
            for searcher in found.searchers:
                searcher._ending.set()
            found.close()
