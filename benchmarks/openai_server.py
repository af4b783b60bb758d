"""A fast local server of OpenAI's /v1/embeddings, so that the endpoint is not what is measured.

The path chooses the delay: http://127.0.0.1:PORT/50/v1 waits 50 ms before each answer. Vectors come from a
precomputed pool by a hash of the text. `python -m benchmarks.openai_server --port 8099` runs it alone;
`--measure` says how many rows a second it gives.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.client import HTTPConnection
from typing import cast
from zlib import crc32

import numpy as np
import orjson
import uvloop

from benchmarks.postgres import free_port

POOL = 1024  # different vectors of one length
MAX_BODY = 64 * 1024 * 1024  # bytes
DEFAULT_DIMENSIONS = 1536
READY_TIMEOUT = 10.0  # seconds


@cache
def fragments(dimensions: int, encoding: str) -> list[bytes]:
    """The JSON of every vector of the pool."""
    vectors = np.random.default_rng(dimensions).standard_normal((POOL, dimensions), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if encoding == "base64":
        return [b'"' + base64.b64encode(vector.tobytes()) + b'"' for vector in vectors]
    return [orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY) for vector in vectors]


def embeddings(body: bytes) -> bytes:
    """The answer to one request."""
    request = orjson.loads(body)
    texts = request["input"]
    texts = [texts] if isinstance(texts, str) else texts
    pool = fragments(
        request.get("dimensions") or DEFAULT_DIMENSIONS, request.get("encoding_format") or "float"
    )
    data = b",".join(
        [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, pool[crc32(text.encode()) % POOL])
            for index, text in enumerate(texts)
        ]
    )
    tokens = sum(map(len, texts)) // 4
    model = orjson.dumps(request.get("model", ""))
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        data,
        model,
        tokens,
        tokens,
    )


class Endpoint(asyncio.Protocol):
    """As much HTTP/1.1 as clients that keep their connection need."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).split(b"\r\n")
            fields = dict(line.lower().split(b":", 1) for line in head[1:])
            length = int(fields.get(b"content-length", b"0"))
            if length > MAX_BODY:
                self.send(b"413 Content Too Large", b"{}")
                return
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4 : end + 4 + length])
            del self.buffer[: end + 4 + length]
            self.answer(head[0].split(b" ")[1], body)

    def answer(self, path: bytes, body: bytes) -> None:
        if not path.endswith(b"/embeddings"):
            self.send(b"200 OK", b"{}")
            return
        delay = int(path.split(b"/")[1]) / 1000
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = embeddings(body)
        if delay:
            loop.call_at(began + delay, self.send, b"200 OK", answer)
        else:
            self.send(b"200 OK", answer)

    def send(self, status: bytes, body: bytes) -> None:
        if self.transport is not None:
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
                status,
                len(body),
            )
            self.transport.write(head + body)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def run(port: int) -> None:
    """Serve until stopped."""
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(port))


@contextmanager
def endpoint() -> Iterator[str]:
    """The server in its own process; yields `http://127.0.0.1:PORT`."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.openai_server", "--port", str(port)])
    try:
        deadline = time.monotonic() + READY_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def measure(batch: int = 512, calls: int = 60) -> None:
    """Print rows a second over one connection, for each dimension and encoding."""
    from benchmarks.texts import rows

    with endpoint() as base:
        connection = HTTPConnection(base.removeprefix("http://"), timeout=30)
        for dimensions in (384, 1536):
            for encoding in ("base64", "float"):
                request = {
                    "input": rows(batch),
                    "model": "x",
                    "dimensions": dimensions,
                    "encoding_format": encoding,
                }
                body = orjson.dumps(request)
                start = 0.0
                for call in range(calls + 1):
                    if call == 1:
                        start = time.perf_counter()
                    connection.request("POST", "/0/v1/embeddings", body)
                    connection.getresponse().read()
                rate = batch * calls / (time.perf_counter() - start)
                print(f"{dimensions} d, {encoding}: {rate:,.0f} rows/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    if options.measure:
        measure()
    else:
        run(options.port)
