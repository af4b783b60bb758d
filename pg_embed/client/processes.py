"""What every process that uses a client opens for itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Something that a fork must make anew, as its parent's sockets and threads are not its own.

    What the parent has is kept untouched: closing it in the child would end it for the parent, too.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made = {os.getpid(): make()}

    def __call__(self) -> T:
        """That of this process."""
        process = os.getpid()
        if process not in self._made:
            self._made.setdefault(process, self._make())  # one, whichever thread comes first
        return self._made[process]
