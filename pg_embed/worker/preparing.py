"""Hooks that make texts of rows: found by names that the catalog has, called row by row with a time limit.

A hook is `prepare(row)`: `row` maps the input columns to Python values, `bytes` for bytea, numbers, booleans
and JSON as such, all others as Postgres writes them, None for NULL. It returns a text, or None where there is
nothing to embed. The catalog holds its name only; what that means is said by an entry point of an installed
package or by the worker's own settings.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured
from pg_embed.jobs import Dead

ENTRY_POINTS = "pg_embed.prepare"  # packages name their hooks here: html = "package.module:function"
MOST_HUNG = 4  # threads whose call never returned, before nothing more is given to hooks

Hook = Callable[[Mapping[str, Any]], str | None]
Prepared = str | None | Dead


class Hooks:
    """Hooks by name, each loaded when it is first called for."""

    def __init__(self, told: str = "", timeout: float = 60.0) -> None:
        """Read `told` ("html=package.module:function, pdf=…") and the entry points; `told` goes first."""
        self._places = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)} | read(told)
        self._timeout = timeout  # seconds for one row
        self._loaded: dict[str, Hook] = {}
        self._hung: list[threading.Thread] = []

    def problem(self, name: str) -> str | None:
        """Why this worker cannot call a hook; None when it can."""
        if name not in self._places:
            known = ", ".join(sorted(self._places)) or "none"
            return (
                f"this worker has no hook {name!r} to prepare rows (it has: {known}); install the package"
                f" that has it, or set PG_EMBED_WORKER_PREPARE={name}=module:function"
            )
        if name not in self._loaded:
            try:
                hook = EntryPoint(name, self._places[name], ENTRY_POINTS).load()
            except Exception as exc:  # whatever a module does when it is imported
                return (
                    f"the hook {name!r} ({self._places[name]}) cannot be loaded: {type(exc).__name__}: {exc}"
                )
            if not callable(hook):
                return f"the hook {name!r} ({self._places[name]}) is no function"
            self._loaded[name] = hook
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        if len(self._hung) >= MOST_HUNG:
            return (
                f"the hooks of this worker hang: {len(self._hung)} calls never returned; mend and restart it"
            )
        return None

    async def prepare(self, name: str, sources: Sequence[str]) -> list[Prepared]:
        """What the hook makes of each row: a text, None, or the row is dead.

        `sources` are JSON objects as `embed._source_row` writes them. Raises `ModelMisconfigured` where the
        hook cannot be called at all; then no row is to blame.
        """
        return [await self._call(name, place, source) for place, source in enumerate(sources)]

    async def _call(self, name: str, place: int, source: str) -> Prepared:
        if problem := self.problem(name):
            raise ModelMisconfigured(problem)
        loop, hook = asyncio.get_running_loop(), self._loaded[name]
        answer: asyncio.Future[Prepared] = loop.create_future()

        def tell(found: Prepared) -> None:
            if not answer.done():
                answer.set_result(found)

        def work() -> None:
            found = _prepared(hook, name, place, source)
            with suppress(RuntimeError):  # the loop was closed: the worker has ended
                loop.call_soon_threadsafe(tell, found)

        # no pool: a call that hangs would keep a place in it for ever, and the process from its end
        thread = threading.Thread(target=work, name=f"prepare {name}", daemon=True)
        thread.start()
        try:
            return await asyncio.wait_for(answer, self._timeout)
        except TimeoutError:
            self._hung.append(thread)
            return _dead(name, place, f"it took longer than {self._timeout:g} s")


def read(told: str) -> dict[str, str]:
    """The places of hooks, as "html=package.module:function, pdf=…" names them."""
    places = dict[str, str]()
    for part in filter(None, (part.strip() for part in told.split(","))):
        name, _, place = (word.strip() for word in part.partition("="))
        module, _, function = place.partition(":")
        if not (name and module and function):
            raise InvalidArgument(
                f"{part!r} names no hook", hint="write PG_EMBED_WORKER_PREPARE=html=package.module:function"
            )
        places[name] = place
    return places


def decode(source: str) -> dict[str, Any]:
    """A row as hooks get it."""
    found = json.loads(source)
    row: dict[str, Any] = found["row"]
    for column in found["bytes"]:
        if row[column] is not None:
            row[column] = bytes.fromhex(row[column])
    return row


def _prepared(hook: Callable[..., object], name: str, place: int, source: str) -> Prepared:
    try:
        text = hook(decode(source))
        if text is None:
            return None
        if not isinstance(text, str):
            return _dead(name, place, f"it returned {type(text).__name__}, and not a text or None")
        text.encode()  # no text of Postgres holds half a surrogate pair
    except Exception as exc:
        return _dead(name, place, f"{type(exc).__name__}: {exc}")
    return text.replace("\0", "")


def _dead(name: str, place: int, why: str) -> Dead:
    return Dead(place, InputRejected.sqlstate, f"the hook {name!r} failed on this row: {why}")
