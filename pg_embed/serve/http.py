"""The HTTP door: OpenAI's embeddings and Cohere's reranking for any client, and what operators look at."""

from __future__ import annotations

import asyncio
import hmac
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pg_embed.errors import BadRequest, InvalidArgument, ModelUnavailable, PgEmbedError, SidecarTimeout
from pg_embed.records import Embeddings, ModelSpec, Outputs, Priority
from pg_embed.serve import cohere, doors, openai
from pg_embed.serve.directory import ModelDirectory
from pg_embed.serve.frames import BACKLOG, endpoint, listen
from pg_embed.serve.metrics import Metrics
from pg_embed.serve.requests import PRIORITIES, Engine, log_failure

MAX_BODY = 64 * 1024 * 1024  # bytes
DENSE: Outputs = frozenset({"dense"})
KEEP_ALIVE = 75  # seconds that an idle connection is kept
HEAD_TIMEOUT = 30.0  # seconds in which a new connection must have asked for something
CLIENT_CLOSED = 499  # a status for the log: nobody is there to read it

Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]


class Application:
    """The routes."""

    def __init__(
        self,
        engine: Engine,
        directory: ModelDirectory,
        metrics: Metrics,
        *,
        token: str | None,
        timeout: float,
        is_ready: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._metrics = metrics
        self._token = token
        self._timeout = timeout
        self._is_ready = is_ready
        self.asgi = Starlette(
            routes=[
                Route("/v1/embeddings", self._guarded(self.embeddings), methods=["POST"]),
                Route("/v1/rerank", self._guarded(self.rerank), methods=["POST"]),
                Route("/metrics", self._guarded(self.show_metrics)),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
            ]
        )

    async def embeddings(self, request: Request) -> Response:
        """Vectors for texts, as OpenAI gives them."""
        asked = openai.parse(await self._body(request))
        async with self._in_time(SidecarTimeout("the models of the database could not be read in time")):
            spec = await (self._directory.find(asked.model) if asked.model else self._directory.default())
        result = await _unless_gone(request, self._embed(spec, asked))
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        return Response(openai.spell(asked, spec.name, result), media_type="application/json")

    async def _embed(self, spec: ModelSpec, asked: openai.EmbeddingsRequest) -> Embeddings:
        card = await self._engine.card(spec, self._timeout)
        if asked.dimensions not in (None, card.dimensions):
            raise BadRequest(f"the model {spec.name} has {card.dimensions} dimensions, and no others")
        priority = PRIORITIES[asked.kind]
        return await self._engine.embed(spec, asked.texts, asked.kind, priority, self._timeout, DENSE)

    async def rerank(self, request: Request) -> Response:
        """Texts by how well they answer a query, as Cohere and Jina give them."""
        asked = cohere.parse(await self._body(request))
        async with self._in_time(SidecarTimeout("the models of the database could not be read in time")):
            spec = await (self._directory.find(asked.model) if asked.model else self._directory.reranker())
        work = self._engine.rerank(spec, asked.query, asked.texts, Priority.QUERY, self._timeout)
        result = await _unless_gone(request, work)
        if result is None:
            return Response(status_code=CLIENT_CLOSED)
        return Response(cohere.spell(asked, spec.name, result), media_type="application/json")

    async def show_metrics(self, request: Request) -> Response:
        """All metrics, for Prometheus."""
        return Response(self._metrics.render(), media_type=self._metrics.CONTENT_TYPE)

    async def healthz(self, request: Request) -> Response:
        """The process lives."""
        return Response("ok\n", media_type="text/plain")

    async def readyz(self, request: Request) -> Response:
        """All doors are open."""
        ready = self._is_ready()
        return Response("ready\n" if ready else "not ready\n", 200 if ready else 503, media_type="text/plain")

    def _guarded(self, handler: Handler) -> Handler:
        async def guard(request: Request) -> Response:
            with self._metrics.timed("http") as outcome:
                try:
                    if not self._may_enter(request):
                        outcome.code = "PE023"
                        return _error(401, BadRequest("the bearer token is missing or wrong"))
                    response = await handler(request)
                except PgEmbedError as exc:
                    outcome.code = exc.sqlstate
                    return _error(openai.status(exc), exc)
                except ClientDisconnect:
                    response = Response(status_code=CLIENT_CLOSED)
                except Exception as exc:
                    log_failure(exc)
                    outcome.code = "PE020"
                    return _error(500, ModelUnavailable("the sidecar failed unexpectedly"))
                if response.status_code == CLIENT_CLOSED:
                    outcome.code = "gone"
                return response

        return guard

    async def _body(self, request: Request) -> bytes:
        async with self._in_time(BadRequest(f"the request did not come within {self._timeout:g} seconds")):
            return await _read(request)

    @asynccontextmanager
    async def _in_time(self, late: PgEmbedError) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise late from None

    def _may_enter(self, request: Request) -> bool:
        if self._token is None:
            return True
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode(), self._token.encode())
        return is_right and scheme.lower() == "bearer"  # in whatever case (RFC 9110, 11.1)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise BadRequest(f"a request may have {MAX_BODY} bytes")
    return bytes(body)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The work's result; None, and the work given up, when the client goes away before."""
    task = asyncio.create_task(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        await doors.stop(gone)
        await doors.stop(task)


def _error(status: int, error: PgEmbedError) -> Response:
    asked = error.retry_after if isinstance(error, ModelUnavailable) else None
    headers = {"Retry-After": str(max(1, math.ceil(asked or 0)))} if status in (429, 503) else None
    return Response(openai.spell_error(error), status, headers, media_type="application/json")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: who runs the sidecar stops it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


def _impatient(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which would keep a connection for ever that never asks for anything."""

    class Impatient(protocol):  # type: ignore[valid-type, misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._looking = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._look, transport)

        def connection_lost(self, exc: Exception | None) -> None:
            self._looking.cancel()
            super().connection_lost(exc)

        def _look(self, transport: asyncio.Transport) -> None:
            if self.cycle is None:  # no request had all its headers
                transport.close()

    return Impatient


class HttpDoor:
    """Listens on a TCP port."""

    def __init__(self, application: Application, host: str, port: int, *, max_connections: int) -> None:
        self.address = ""
        self._application = application
        self._host = host
        self._port = port
        self._max_connections = max_connections
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen."""
        sock = listen(self._host, self._port)
        self.address = f"http://{endpoint(*sock.getsockname()[:2])}"
        config = uvicorn.Config(
            self._application.asgi,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            limit_concurrency=self._max_connections,
            backlog=BACKLOG,
        )
        config.load()
        config.http_protocol_class = _impatient(config.http_protocol_class)
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([sock]))
        up = asyncio.create_task(self._server.is_up.wait())
        await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        await doors.stop(up)
        if not self._server.is_up.is_set():
            raise InvalidArgument(f"cannot serve HTTP on {endpoint(self._host, self._port)}")

    async def close(self, grace: float) -> None:
        """Stop listening, answer what is in hand."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await asyncio.wait({self._task}, timeout=grace + 0.5)
        self._server.force_exit = True
        await asyncio.wait({self._task}, timeout=1.0)
        await doors.stop(self._task)
