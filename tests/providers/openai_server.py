"""A local server with OpenAI's published contract for embeddings, and faults that a text's words ask for.

Vectors are those of the family "fake". Run it by hand: `python -m tests.providers.openai_server --port 8080`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import orjson

from pg_embed.models.hashing import FakeEmbedder, FakeOptions

MAX_ITEMS = 2_048
MAX_TOKENS = 300_000
MAX_TEXT_TOKENS = 8_192
NATIVE_DIMENSIONS = {"text-embedding-3-small": 1_536, "text-embedding-3-large": 3_072}
HANG_LIMIT = 60.0  # seconds; a hanging call ends at the latest when the server is closed


@dataclass(frozen=True)
class Fault:
    """An answer instead of vectors."""

    status: int
    message: str = "told to fail"
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


BY_WORD = {
    "POISON": Fault(400, "the input is not acceptable", code="invalid_input", param="input"),
    "UNPROCESSABLE": Fault(422, "the input cannot be processed"),
    "TOO_LARGE": Fault(413, "the batch is too large"),
    "UNAUTHORIZED": Fault(401, "Incorrect API key provided: sk-wrong12345678", code="invalid_api_key"),
    "FORBIDDEN": Fault(403, "not for you"),
    "NO_MODEL": Fault(404, "there is no such model", code="model_not_found", param="model"),
    "QUOTA": Fault(429, "You exceeded your current quota", code="insufficient_quota"),
    "RATE_LIMIT": Fault(429, "slow down", code="rate_limit_exceeded", headers={"Retry-After": "7"}),
    "RATE_MS": Fault(429, "slow down", headers={"retry-after-ms": "1500", "Retry-After": "9"}),
    "SERVER_ERROR": Fault(500, "something broke"),
    "UNAVAILABLE": Fault(503, "not now", headers={"Retry-After": "3"}),
}
SHAPES = ("SHORT", "SHUFFLE", "NAN", "WIDE", "DOUBLED", "RAGGED", "HTML", "NOT_OPENAI", "CUT", "HANG")


class OpenAIServer:
    """Listens on 127.0.0.1 until closed; remembers every request; `faults` are answered first, one a call."""

    def __init__(
        self, *, port: int = 0, dimensions: int = 8, key: str | None = None, delay: float = 0.0
    ) -> None:
        self.dimensions = dimensions
        self.key = key
        self.delay = delay
        self.requests: list[dict[str, Any]] = []
        self.faults: deque[Fault] = deque()
        self.base64 = True  # answer base64 when asked; some servers only know lists
        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (Handler,), {"owner": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        """What a client's base_url must be."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        """Let hanging calls go, and stop."""
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: OpenAIServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        """Check as OpenAI does, then answer, or fail as told."""
        request = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.requests.append(request)
        if self.owner.delay:
            self.owner.released.wait(self.owner.delay)
        texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
        fault = self._fault(request, texts)
        if fault is not None:
            self._send(fault.status, _error(fault), fault.headers)
        else:
            self._answer(request, texts)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _fault(self, request: dict[str, Any], texts: list[str]) -> Fault | None:
        if self.owner.faults:
            return self.owner.faults.popleft()
        if self.path != "/v1/embeddings":
            return Fault(404, f"Invalid URL (POST {self.path})")
        if self.owner.key and self.headers["Authorization"] != f"Bearer {self.owner.key}":
            return Fault(
                401, f"Incorrect API key provided: {self.headers['Authorization']}", "invalid_api_key"
            )
        joined = "\n".join(texts)
        told = next((fault for word, fault in BY_WORD.items() if word in joined), None)
        return told or _against_contract(request, texts)

    def _answer(self, request: dict[str, Any], texts: list[str]) -> None:
        joined = "\n".join(texts)
        shape = next((word for word in SHAPES if word in joined), None)
        if shape == "HANG":
            self.owner.released.wait(HANG_LIMIT)
        if shape == "HTML":
            self._send(200, b"<html><body>Welcome to the hotel's network</body></html>")
        elif shape == "NOT_OPENAI":
            self._send(200, b'{"object":"list"}')
        else:
            self._send(200, self._vectors(request, texts, shape), cut=shape == "CUT")

    def _vectors(self, request: dict[str, Any], texts: list[str], shape: str | None) -> bytes:
        dimensions = request.get("dimensions") or NATIVE_DIMENSIONS.get(
            request["model"], self.owner.dimensions
        )
        embedder = FakeEmbedder(FakeOptions(dimensions=dimensions + (shape == "WIDE")))
        dense = embedder.embed(texts, "document").dense
        if shape == "NAN":
            dense[-1, 0] = np.nan
        as_base64 = self.owner.base64 and request.get("encoding_format") == "base64"
        rows = [base64.b64encode(row).decode() for row in dense] if as_base64 else dense.tolist()
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        tokens = sum(embedder.count_tokens(texts))
        answer = {
            "object": "list",
            "data": _misshapen(data, shape),
            "model": request["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return orjson.dumps(answer)

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


def _misshapen(data: list[dict[str, Any]], shape: str | None) -> list[dict[str, Any]]:
    match shape:
        case "SHORT":
            return data[:-1]
        case "SHUFFLE":
            return data[::-1]
        case "DOUBLED":
            return [{**item, "index": 0} for item in data]
        case "RAGGED":
            return [*data[:-1], {**data[-1], "embedding": data[-1]["embedding"][:4]}]
        case _:
            return data


def _against_contract(request: dict[str, Any], texts: list[str]) -> Fault | None:
    estimates = [len(text) // 4 for text in texts]
    if not texts or len(texts) > MAX_ITEMS:
        return Fault(400, f"'input' must have 1 to {MAX_ITEMS} items", param="input")
    if not all(texts):
        return Fault(400, "'input' has an empty string", param="input")
    if max(estimates) > MAX_TEXT_TOKENS:
        return Fault(400, f"maximum context length is {MAX_TEXT_TOKENS} tokens", param="input")
    if sum(estimates) > MAX_TOKENS:
        return Fault(400, f"at most {MAX_TOKENS} tokens per request", "max_tokens_per_request", "input")
    if request["model"] == "text-embedding-ada-002" and "dimensions" in request:
        return Fault(400, "this model does not support specifying dimensions", param="dimensions")
    return None


def _error(fault: Fault) -> bytes:
    kind = "invalid_request_error" if fault.status < 429 else "server_error"
    return orjson.dumps(
        {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}}
    )


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[OpenAIServer]:
    """A server for the time of a `with` block."""
    server = OpenAIServer(**settings)
    try:
        yield server
    finally:
        server.close()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dimensions", type=int, default=8)
    parser.add_argument("--delay", type=float, default=0.0)
    with serving(**vars(parser.parse_args())) as server, contextlib.suppress(KeyboardInterrupt):
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
