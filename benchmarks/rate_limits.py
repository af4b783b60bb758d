"""Three worker processes on one database, and a provider that allows so much in a sliding window.

Whatever is beyond the limit is answered 429, as providers do. The window is shorter than a minute, so that a
run is; calls that come late then weigh more than they do at a provider, and calls are made smaller so that
each is the same part of a window as it would be of a minute. Counted are what the provider allowed
over what it would have allowed at most, and its 429s. `python -m benchmarks.rate_limits [--window 10]
[--windows 3] [--workers 3] [--json]`
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import orjson
import psycopg
import uvloop

from benchmarks import ours
from benchmarks.common import Report, arguments, at_least, at_most
from benchmarks.openai_server import Endpoint, embeddings
from benchmarks.postgres import Server, create_table, free_port, postgres
from pg_embed.jobs.limits import CALLS_PER_MINUTE

REQUESTS = 60  # in a window
TOKENS = 100_000  # in a window
DIMENSIONS = 8
START_TIMEOUT = 60.0  # seconds


class Limiter:
    """A log of what was allowed: nothing may bring the sum of any window over the limit."""

    def __init__(self, limit: int, window: float, counts_tokens: bool) -> None:
        self.limit = limit
        self.window = window
        self.counts_tokens = counts_tokens
        self.allowed: list[tuple[float, int]] = []
        self.refused = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._used = 0

    def admit(self, texts: list[str]) -> float | None:
        """None, or the seconds to wait."""
        now = time.monotonic()
        cost = sum(map(len, texts)) // 4 if self.counts_tokens else 1
        while self._recent and self._recent[0][0] <= now - self.window:
            self._used -= self._recent.popleft()[1]
        if self._used + cost > self.limit:
            self.refused += 1
            return self._recent[0][0] + self.window - now
        self._recent.append((now, cost))
        self._used += cost
        self.allowed.append((now, cost))
        return None

    def share(self, windows: int) -> float:
        """What was allowed in so many windows from the first call on, over the most that could be."""
        end = self.allowed[0][0] + windows * self.window
        return sum(cost for at, cost in self.allowed if at < end) / (self.limit * windows)


class LimitedEndpoint(Endpoint):
    """OpenAI's contract behind the limiter; an answer takes 50 ms."""

    limiter: Limiter

    def answer(self, path: bytes, body: bytes) -> None:
        request = orjson.loads(body)
        wait = self.limiter.admit(request["input"])
        if wait is None:
            answer = embeddings(body)
            asyncio.get_running_loop().call_later(0.05, self.send, b"200 OK", answer)
            return
        told = orjson.dumps({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
        self.send(b"429 Too Many Requests\r\nretry-after: %.3f" % wait, told)


@contextmanager
def provider(limiter: Limiter) -> Iterator[str]:
    """The server in a thread; yields its base_url."""
    port, started, stop = free_port(), threading.Event(), asyncio.Event()
    kind = type("Limited", (LimitedEndpoint,), {"limiter": limiter})
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with await asyncio.get_running_loop().create_server(kind, "127.0.0.1", port):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=uvloop.run, args=(serve(),))
    thread.start()
    started.wait(START_TIMEOUT)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


def measure(
    server: Server, limiter: Limiter, limits: Mapping[str, int], windows: int, workers: int, **options: Any
) -> None:
    """A backfill that is larger than what the limits allow in the time; it is stopped after that."""
    dsn = server.create_database("limits")
    ours.install(dsn)
    with ExitStack() as stack:
        base_url = stack.enter_context(provider(limiter))
        chosen = {"model": "bench", "dimensions": DIMENSIONS, "base_url": base_url, **options}
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        ours.create_model(connection, "model", "openai", chosen)
        connection.execute(
            "SELECT embed.limit_model('model', requests_per_minute => %s, tokens_per_minute => %s)",
            [limits.get("requests"), limits.get("tokens")],
        )
        create_table(connection, "docs", 20_000)
        for _ in range(workers):
            stack.enter_context(ours.worker(dsn))
        time.sleep(3)  # all of them are connected before there is work
        ours.vectorize(connection, "docs", "model")
        deadline = time.monotonic() + START_TIMEOUT
        while not limiter.allowed:
            if time.monotonic() > deadline:
                raise TimeoutError("no call came")
            time.sleep(0.01)
        time.sleep(windows * limiter.window)


def main() -> None:
    options = arguments("Limits shared by workers", window=10, windows=3, workers=3).parse_args()
    scale = 60 / options.window
    with postgres() as server:
        report = Report(
            "A provider's limit, used by several workers",
            {**server.conditions(), "window": f"{options.window} s, sliding", "workers": options.workers},
        )
        for name, counts_tokens, limit, chosen in (
            ("requests", False, REQUESTS, {"max_batch_items": 16}),
            ("tokens", True, TOKENS, {"max_batch_tokens": TOKENS // CALLS_PER_MINUTE}),
        ):
            limiter = Limiter(limit, options.window, counts_tokens)
            measure(server, limiter, {name: round(limit * scale)}, options.windows, options.workers, **chosen)
            share = limiter.share(options.windows)
            report.figure(f"{name}: {limit:,} a window, used", [share], "of the limit", at_least(0.95))
            report.figure(f"{name}: answered 429", [float(limiter.refused)], "calls", at_most(0))
        report.finish(options.json)


if __name__ == "__main__":
    main()
