"""Sidecars for tests: in a thread, or in a process that can be killed; and databases that reach them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop

from pg_embed.embedded.account import choose_account
from pg_embed.engine import Engine, EngineSettings
from pg_embed.install import transports
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from pg_embed.serve.directory import ModelDirectory, StaticDirectory
from pg_embed.serve.settings import ServeSettings
from pg_embed.serve.sidecar import Sidecar
from tests.fix_pg import Role, role_maker, temporary_folder

START_TIMEOUT = 30.0  # seconds
FAKE = ModelSpec("fake", "fake", {"dimensions": 4})
SLOW = ModelSpec("slow", "fake", {"dimensions": 4, "delay": 1.0, "concurrency": 1})

RERANKER = ModelSpec("reranker", "fake_reranker", {"fail_on": "poison", "unavailable_on": "storm"})


async def serve(
    settings: ServeSettings,
    engine_settings: EngineSettings,
    directory: ModelDirectory | None,
    stop: asyncio.Event,
    started: Any,
) -> None:
    """Run a sidecar until `stop` is set; `started` is told of it."""
    engine = Engine(default_registry(), engine_settings)
    sidecar = Sidecar(engine, settings, directory=directory)
    try:
        await sidecar.start()
        started(sidecar)
        await stop.wait()
        await sidecar.stop()
    finally:
        await engine.close()


class RunningSidecar:
    """A sidecar in a thread of the test's process."""

    def __init__(
        self,
        settings: ServeSettings,
        *,
        engine: EngineSettings | None = None,
        directory: ModelDirectory | None = None,
    ) -> None:
        self.settings = settings
        self.sidecar: Sidecar | None = None
        self._engine = engine or EngineSettings()
        self._directory = directory or StaticDirectory([FAKE, SLOW])
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start, and come back when all doors are open."""
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(START_TIMEOUT), "the sidecar did not start"
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop gracefully."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_TIMEOUT)
            assert not self._thread.is_alive(), "the sidecar did not stop"

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def __enter__(self) -> RunningSidecar:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            await serve(self.settings, self._engine, self._directory, self._stop, self._started)

        try:
            asyncio.run(main())
        except BaseException as exc:
            self._error = exc
        finally:
            self._ready.set()

    def _started(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self._ready.set()


class SidecarProcess:
    """A sidecar in a process of its own."""

    def __init__(self, settings: ServeSettings) -> None:
        words = {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fix_serve", json.dumps(words)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """End it with no chance to say goodbye."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(START_TIMEOUT)
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Place:
    """A database, the transport it has, and how a sidecar serves it."""

    kind: str
    dsn: str
    serve: ServeSettings
    settings: dict[str, Any] = field(default_factory=dict)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A session of the owner."""
        return psycopg.connect(self.dsn, autocommit=True, **options)

    def sidecar(self, **options: Any) -> RunningSidecar:
        """A sidecar for this database."""
        return RunningSidecar(self.serve, **options)

    def process(self) -> SidecarProcess:
        """A sidecar that can be killed."""
        return SidecarProcess(self.serve)


@dataclass(frozen=True)
class Failure:
    """An error of a call."""

    code: str
    message: str
    hint: str | None


def request(
    texts: list[str], *, model: ModelSpec = FAKE, kind: str = "query", timeout: float = 10.0, **other: Any
) -> dict[str, Any]:
    """A request as `embed._ask` makes it."""
    spec = {"name": model.name, "family": model.family, "options": dict(model.options)}
    asked = {"v": 1, "id": str(uuid.uuid4()), "op": "embed", "model": spec, "space_id": None}
    return {**asked, "kind": kind, "texts": texts, "timeout": timeout, **other}


def call(connection: psycopg.Connection[Any], asked: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
    """What the transport brings: the decoded answer, or the error that `embed._ask` would raise."""
    row = connection.execute(
        "SELECT embed._call(%s::jsonb::text, %s)", (json.dumps(asked, ensure_ascii=False), timeout)
    ).fetchone()
    assert row is not None
    answer: dict[str, Any] = json.loads(row[0])
    return answer


def failure(connection: psycopg.Connection[Any], asked: dict[str, Any], timeout: float = 10.0) -> Failure:
    """The error that the transport raises, or brings."""
    try:
        told = call(connection, asked, timeout).get("error")
    except psycopg.Error as error:
        return Failure(error.sqlstate or "", error.diag.message_primary or "", error.diag.message_hint)
    assert told is not None, "there was no error"
    return Failure(told["code"], told["message"], told["hint"])


@contextmanager
def with_transport(place: Place) -> Iterator[Place]:
    """The database with its transport set up."""
    with place.connect() as connection:
        transports.set_up(connection, place.kind, place.settings)
    try:
        yield place
    finally:
        with place.connect() as connection:
            transports.take_down(connection)


@pytest.fixture
def serve_folder() -> Iterator[Path]:
    """A folder for sockets, tokens and spools that the servers' user can reach."""
    with temporary_folder() as folder:
        yield folder


def spool_place(dsn: str, folder: Path) -> Place:
    """By files."""
    spool = folder / "spool"
    spool.mkdir(mode=0o700)
    choose_account(folder / "nowhere").own(spool)
    return Place("spool", dsn, ServeSettings(spool=spool), {"directory": spool})


def unix_place(dsn: str, folder: Path) -> Place:
    """By PL/Python and a Unix socket."""
    path = folder / "sidecar.sock"
    return Place("plpython", dsn, ServeSettings(socket=path, socket_mode=0o666), {"socket": path})


def tcp_place(dsn: str, folder: Path, port: int) -> Place:
    """By PL/Python and TCP with a token."""
    token = folder / "token"
    token.write_text("a secret\n", encoding="ascii")
    token.chmod(0o644)
    serve = ServeSettings(tcp_port=port, tcp_token_file=token)
    return Place("plpython", dsn, serve, {"host": "127.0.0.1", "port": port, "token_file": token})


def dblink_place(dsn: str) -> Place:
    """By the mailbox."""
    return Place("dblink", dsn, ServeSettings(mailbox_dsn=dsn))


@pytest.fixture
def make_role15_bare() -> Iterator[Callable[[str], Role]]:
    """`make_role` for a database with nothing installed."""
    with ExitStack() as stack:
        yield lambda dsn: stack.enter_context(role_maker(dsn))()


PLACES = [
    "spool",
    pytest.param("unix", marks=pytest.mark.plpython),
    pytest.param("tcp", marks=pytest.mark.plpython),
    pytest.param("dblink", marks=pytest.mark.dblink),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, serve_folder: Path) -> Iterator[Place]:
    """A database for each transport."""
    found = _place(request, serve_folder)
    with with_transport(found):
        yield found


def _place(request: pytest.FixtureRequest, folder: Path) -> Place:
    if request.param == "spool":
        return spool_place(request.getfixturevalue("dsn"), folder)
    dsn = request.getfixturevalue("dsn15")
    if request.param == "unix":
        return unix_place(dsn, folder)
    if request.param == "tcp":
        from tests.fix_second_server import free_port

        return tcp_place(dsn, folder, free_port())
    return dblink_place(dsn)


def short_grace(settings: ServeSettings, grace: float) -> ServeSettings:
    """The same doors, closed faster."""
    return replace(settings, grace=grace)


def main(words: dict[str, Any]) -> None:
    """What a `SidecarProcess` runs."""
    paths = {"socket", "spool", "tcp_token_file", "http_token_file"}
    settings = ServeSettings(
        **{name: Path(value) if name in paths and value else value for name, value in words.items()}
    )

    def started(_: Sidecar) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    uvloop.run(serve(settings, EngineSettings(), None, asyncio.Event(), started))


if __name__ == "__main__":
    os.setpgrp()
    main(json.loads(sys.argv[1]))
