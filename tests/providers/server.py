"""A local server with a provider's published contract, and faults that a text's words ask for.

Vectors are those of the family "fake". A contract says what is refused, and how answers and errors are spelt.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import numpy as np
import orjson

from pg_embed.models.hashing import FakeEmbedder, FakeOptions

HANG_LIMIT = 60.0  # seconds; a hanging call ends at the latest when the server is closed


@dataclass(frozen=True)
class Fault:
    """An answer instead of vectors."""

    status: int
    message: str = "told to fail"
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Vectors:
    """What is answered: a row for each text, as the contract spells it."""

    rows: list[Any]
    indexes: list[int]
    tokens: int


BY_WORD = {
    "POISON": Fault(400, "the input is not acceptable", code="invalid_input", param="input"),
    "UNPROCESSABLE": Fault(422, "the input cannot be processed"),
    "TOO_LARGE": Fault(413, "the batch is too large"),
    "UNAUTHORIZED": Fault(401, "Incorrect API key provided: sk-wrong12345678", code="invalid_api_key"),
    "PAYMENT": Fault(402, "please pay"),
    "FORBIDDEN": Fault(403, "not for you"),
    "NO_MODEL": Fault(404, "there is no such model", code="model_not_found", param="model"),
    "QUOTA": Fault(429, "You exceeded your current quota", code="insufficient_quota"),
    "RATE_LIMIT": Fault(429, "slow down", code="rate_limit_exceeded", headers={"Retry-After": "7"}),
    "RATE_MS": Fault(429, "slow down", headers={"retry-after-ms": "1500", "Retry-After": "9"}),
    "RATE_BARE": Fault(429, "slow down"),
    "SERVER_ERROR": Fault(500, "something broke"),
    "UNAVAILABLE": Fault(503, "not now", headers={"Retry-After": "3"}),
}
SHAPES = ("SHORT", "SHUFFLE", "NAN", "WIDE", "DOUBLED", "RAGGED", "HTML", "NO_VECTORS", "CUT", "HANG", "GONE")


class Contract(Protocol):
    """What is a provider's own; `native` are the dimensions of models that are not its."""

    path: str
    headers: dict[str, str]  # with every answer that has vectors

    def texts(self, request: dict[str, Any]) -> list[str]:
        """The texts of a request."""

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Why the provider refuses a request, None if it does not."""

    def dimensions(self, request: dict[str, Any], native: int) -> int:
        """The vectors' size."""

    def wants_base64(self, request: dict[str, Any]) -> bool:
        """Whether base64 is asked for."""

    def answer(self, request: dict[str, Any], vectors: Vectors) -> dict[str, Any]:
        """The body of an answer."""

    def error(self, fault: Fault) -> dict[str, Any]:
        """The body of an error."""


class ProviderServer:
    """Listens on 127.0.0.1 until closed; remembers every request; `faults` are answered first, one a call.

    An answer has the next of `shapes`, as if a text had asked for it; where both wait, the more go first.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        port: int = 0,
        dimensions: int = 8,
        key: str | None = None,
        delay: float = 0.0,
    ) -> None:
        self.contract = contract
        self.dimensions = dimensions
        self.key = key
        self.delay = delay
        self.refusal = 401  # the status that a wrong key has
        self.requests: list[dict[str, Any]] = []
        self.faults: deque[Fault] = deque()
        self.shapes: deque[str] = deque()
        self.hang_limit = HANG_LIMIT
        self.base64 = True  # answer base64 when asked; some servers only know lists
        self.released = threading.Event()
        self._http = Listener(("127.0.0.1", port), type("Handler", (Handler,), {"owner": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def origin(self) -> str:
        """Where the server is, without a path."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def base_url(self) -> str:
        """What a client's base_url must be."""
        return self.origin + self.contract.path.rpartition("/")[0]

    def respond(self, request: dict[str, Any], shape: str | None) -> Any:
        """The answer to a request that nothing is wrong with, out of shape if that is said."""
        texts = self.contract.texts(request)
        size = self.contract.dimensions(request, self.dimensions)
        embedder = FakeEmbedder(FakeOptions(dimensions=size + (shape == "WIDE")))
        dense = embedder.embed(texts, "document").dense
        if shape == "NAN":
            dense[-1, 0] = np.nan
        spell = in_base64 if self.base64 and self.contract.wants_base64(request) else np.ndarray.tolist
        vectors = Vectors(
            [spell(row) for row in dense], list(range(len(texts))), sum(embedder.count_tokens(texts))
        )
        return self.contract.answer(request, _misshapen(vectors, shape))

    def close(self) -> None:
        """Let hanging calls go, and stop."""
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Listener(ThreadingHTTPServer):
    """A server whose clients may go away in the middle of a call."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless the client is gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: ProviderServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        """Check as the provider does, then answer, or fail as told."""
        request = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.requests.append(request)
        if self.owner.delay:
            self.owner.released.wait(self.owner.delay)
        fault = self._fault(request)
        if fault is not None:
            self._refuse(fault)
        else:
            self._answer(request)

    def do_GET(self) -> None:
        """What the contract tells of the server, if it tells anything."""
        told = getattr(self.owner.contract, "info", {}).get(self.path)
        if self.owner.faults:
            self._refuse(self.owner.faults.popleft())
        elif told is None:
            self._refuse(Fault(404, f"there is no {self.path}"))
        elif refused := self._refused_key():
            self._refuse(refused)
        else:
            self._send(200, orjson.dumps(told))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _fault(self, request: dict[str, Any]) -> Fault | None:
        if self.owner.faults and len(self.owner.faults) >= len(self.owner.shapes):
            return self.owner.faults.popleft()
        if self.path != self.owner.contract.path:
            return Fault(404, f"Invalid URL (POST {self.path})")
        if refused := self._refused_key():
            return refused
        joined = "\n".join(self.owner.contract.texts(request))
        told = next((fault for word, fault in BY_WORD.items() if word in joined), None)
        return told or self.owner.contract.refusal(request)

    def _refused_key(self) -> Fault | None:
        given = self.headers["Authorization"]
        if not self.owner.key or given == f"Bearer {self.owner.key}":
            return None
        return Fault(self.owner.refusal, f"Incorrect API key provided: {given}", "invalid_api_key")

    def _refuse(self, fault: Fault) -> None:
        self._send(fault.status, orjson.dumps(self.owner.contract.error(fault)), fault.headers)

    def _answer(self, request: dict[str, Any]) -> None:
        joined = "\n".join(self.owner.contract.texts(request))
        shape = next((word for word in SHAPES if word in joined), None)
        with contextlib.suppress(IndexError):
            shape = self.owner.shapes.popleft()
        if shape == "HANG":
            self.owner.released.wait(self.owner.hang_limit)
        if shape == "GONE":
            self.close_connection = True
        elif shape == "HTML":
            self._send(200, b"<html><body>Welcome to the hotel's network</body></html>")
        elif shape == "NO_VECTORS":
            self._send(200, b'{"object":"list"}')
        else:
            told = self.owner.respond(request, shape)
            self._send(200, orjson.dumps(told), self.owner.contract.headers, cut=shape == "CUT")

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if body.startswith(b"<") else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut


def in_base64(vector: np.ndarray[Any, Any]) -> str:
    """The bytes of little-endian float32."""
    return base64.b64encode(vector.astype("<f4")).decode()


def _misshapen(vectors: Vectors, shape: str | None) -> Vectors:
    rows, indexes = vectors.rows, vectors.indexes
    match shape:
        case "SHORT":
            rows, indexes = rows[:-1], indexes[:-1]
        case "SHUFFLE":
            rows, indexes = rows[::-1], indexes[::-1]
        case "DOUBLED":
            indexes = [0] * len(indexes)
        case "RAGGED":
            rows = [*rows[:-1], rows[-1][: len(rows[-1]) // 8 * 4]]
    return Vectors(rows, indexes, vectors.tokens)


def listed(vectors: Vectors) -> list[dict[str, Any]]:
    """The items that OpenAI, Voyage and Jina answer."""
    return [
        {"object": "embedding", "index": index, "embedding": row}
        for index, row in zip(vectors.indexes, vectors.rows, strict=True)
    ]


def too_much(texts: Sequence[str], *, items: int, tokens: int, text_tokens: int | None = None) -> str | None:
    """What of a provider's limits the texts break, with four characters a token."""
    estimates = [len(text) // 4 for text in texts]
    if not texts or len(texts) > items:
        return f"1 to {items} texts are allowed"
    if not all(texts):
        return "there is an empty text"
    if sum(estimates) > tokens:
        return f"at most {tokens} tokens are allowed"
    if text_tokens is not None and max(estimates) > text_tokens:
        return f"maximum context length is {text_tokens} tokens"
    return None


@contextlib.contextmanager
def serving(make: Callable[..., ProviderServer], **settings: Any) -> Iterator[ProviderServer]:
    """A server for the time of a `with` block."""
    server = make(**settings)
    try:
        yield server
    finally:
        server.close()


def run(make: Callable[..., ProviderServer]) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dimensions", type=int, default=8)
    parser.add_argument("--delay", type=float, default=0.0)
    with serving(make, **vars(parser.parse_args())) as server, contextlib.suppress(KeyboardInterrupt):
        print(server.base_url, flush=True)
        threading.Event().wait()
