"""A proxy between clients and Postgres whose connections are cut, or made to wait."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")
CHUNK = 65_536  # bytes
OPENING = 1.0  # seconds


class Link:
    """A client's connection and ours to the server."""

    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self._writers = writers
        self._flows = asyncio.Event()
        self._flows.set()
        self._left: int | None = None  # bytes until it is cut

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, until one side ends or the link is cut."""
        try:
            while data := await reader.read(CHUNK):
                await self._flows.wait()
                if self._left is not None and self._left <= len(data):
                    writer.write(data[: self._left])
                    await writer.drain()
                    break
                if self._left is not None:
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.cut()

    def cut(self) -> None:
        """End both connections at once, whatever is under way."""
        self._flows.set()
        for writer in self._writers:
            writer.transport.abort()

    def cut_after(self, count: int) -> None:
        """End them after so many more bytes, in the middle of a message most likely."""
        self._left = count

    def stall(self) -> None:
        """Pass on nothing more, as a network that loses every packet."""
        self._flows.clear()

    def flow(self) -> None:
        """Go on."""
        self._flows.set()


class Proxy:
    """Listens on 127.0.0.1 in a thread of its own and passes all on to a Unix socket."""

    def __init__(self, path: str) -> None:
        self.port = 0
        self._path = path
        self._links: list[Link] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="proxy")
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def links(self) -> int:
        """How many connections there are."""
        return self._do(lambda: len(self._links))

    def cut(self, rng: random.Random, share: float) -> int:
        """Cut such a share of the connections, one at least; how many."""
        return self._some(rng, share, Link.cut)

    def cut_after(self, rng: random.Random, share: float, count: int) -> int:
        """Cut some after so many bytes more; how many."""
        return self._some(rng, share, lambda link: link.cut_after(count))

    def stall(self, rng: random.Random, share: float) -> int:
        """Let some pass on nothing; how many."""
        return self._some(rng, share, Link.stall)

    def flow(self) -> None:
        """Let all go on."""
        self._do(lambda: [link.flow() for link in self._links])

    def lead(self, path: str) -> None:
        """Lead those who connect from now on to another socket."""
        self._path = path

    def close(self) -> None:
        """Cut all, and listen no more."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _some(self, rng: random.Random, share: float, harm: Callable[[Link], None]) -> int:
        def choose() -> int:
            count = min(len(self._links), max(1, round(share * len(self._links))))
            for link in rng.sample(self._links, count):
                harm(link)
            return count

        return self._do(choose)

    def _do(self, task: Callable[[], T]) -> T:
        async def run() -> T:
            return task()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for link in self._links:
            link.cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            opening = asyncio.open_unix_connection(self._path)
            other_reader, other_writer = await asyncio.wait_for(opening, OPENING)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        link = Link([writer, other_writer])
        self._links.append(link)
        try:
            await asyncio.gather(link.pump(reader, other_writer), link.pump(other_reader, writer))
        finally:
            self._links.remove(link)


@contextmanager
def proxy(path: str) -> Iterator[Proxy]:
    """A proxy to a Unix socket for a block."""
    opened = Proxy(path)
    try:
        yield opened
    finally:
        opened.close()
