"""The latest query vectors of one model, and the calls under way for more: equal texts make one call."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from pg_embed.records import Embeddings, Kind, join

MAX_TEXTS = 16  # a request with more texts is no query that comes again
MAX_CHARACTERS = 2_000  # nor is a text as long as this

Key = tuple[Kind, str]
Submit = Callable[[Sequence[str], Kind], "asyncio.Future[Embeddings]"]


class Call:
    """A call that several callers may wait for; given up when the last of them goes."""

    def __init__(self, future: asyncio.Future[Embeddings], texts: Sequence[str]) -> None:
        self.future = future
        self.texts = texts
        self.waiting = 0

    async def join(self) -> Embeddings:
        """Wait for the vectors, without taking the call along when cancelled."""
        return await asyncio.shield(self.future)

    def leave(self) -> None:
        """One caller less."""
        self.waiting -= 1
        if not self.waiting and not self.future.done():
            self.future.cancel()


class Memo:
    """Remembers up to `size` vectors, the least recently used go first."""

    def __init__(self, size: int, submit: Submit) -> None:
        self._size = size
        self._submit = submit
        self._vectors: OrderedDict[Key, Embeddings] = OrderedDict()  # of one row, without tokens
        self._calls: dict[Key, Call] = {}

    @staticmethod
    def suits(texts: Sequence[str]) -> bool:
        """Whether such a request is remembered at all."""
        return len(texts) <= MAX_TEXTS and all(len(text) <= MAX_CHARACTERS for text in texts)

    def recall(self, texts: Sequence[str], kind: Kind) -> Embeddings | None:
        """The vectors, if all are known."""
        keys: list[Key] = [(kind, text) for text in texts]
        if not all(key in self._vectors for key in keys):
            return None
        for key in keys:
            self._vectors.move_to_end(key)
        return join([self._vectors[key] for key in keys])

    async def embed(self, texts: Sequence[str], kind: Kind) -> Embeddings:
        """Wait for what is not known; each text is computed once, whoever asks for it meanwhile."""
        found = {text: self._vectors[kind, text] for text in texts if (kind, text) in self._vectors}
        shared = {text: call for text in texts if text not in found and (call := self._running(text, kind))}
        missing = [text for text in dict.fromkeys(texts) if text not in found and text not in shared]
        own = self._start(missing, kind) if missing else None
        calls = {*shared.values(), own} if own is not None else set(shared.values())
        for call in calls:
            call.waiting += 1
        try:
            for call in calls:
                computed = await call.join()
                found.update((text, computed.cut(row, row + 1)) for row, text in enumerate(call.texts))
        finally:
            for call in calls:
                call.leave()
        used = None if own is None else own.future.result()
        tokens, requests = (used.tokens, used.requests) if used is not None else (0, 0)
        return replace(join([found[text] for text in texts]), tokens=tokens, requests=requests)

    def _running(self, text: str, kind: Kind) -> Call | None:
        call = self._calls.get((kind, text))
        return None if call is None or call.future.cancelled() else call

    def _start(self, texts: list[str], kind: Kind) -> Call:
        call = Call(self._submit(texts, kind), texts)
        if len(texts) == 1:  # a call for several may fail for a text that is not the joining caller's
            self._calls[kind, texts[0]] = call
        call.future.add_done_callback(lambda _: self._finish(call, kind))
        return call

    def _finish(self, call: Call, kind: Kind) -> None:
        for text in call.texts:
            if self._calls.get((kind, text)) is call:
                del self._calls[kind, text]
        if not call.future.cancelled() and call.future.exception() is None:
            for row, text in enumerate(call.texts):
                self._vectors[kind, text] = call.future.result().take([row])
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
