"""A soak: faults of every kind, one after the other, while writers, workers and searchers are busy.

`make soak`, with SOAK_FAULTS (10,000), SOAK_SEED, SOAK_MINUTES (60) and SOAK_PAUSE (0.1, mean seconds between
two faults) in the environment. The seed gives the plan of faults and of writes; how they meet is chance.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from tests.faults.injecting import Planned, plan
from tests.faults.scene import Scene, scene

TAIL = 60  # faults that a violation shows
ROUND = 500  # faults between two checks, about
ROUNDS = 3  # checks, at least
TELL_EVERY = 20.0  # seconds between two lines of progress
LOG_TAIL = 12_000  # characters
HANGING = 900.0  # seconds after its time is over when the soak itself must hang
GROWTH = 24.0  # MiB that the watched worker may grow by; what the first round needs is not growth
FILES = 16  # descriptors that it may have more than after the first round


@dataclass
class Report:
    """What was done, and what was found."""

    seed: int
    faults: dict[str, int] = field(default_factory=dict)  # those that hit something, by kind
    missed: int = 0  # those that met nothing to harm
    cost: dict[str, float] = field(
        default_factory=dict
    )  # seconds spent, by kind; waits are the pauses, and restarts that fall into them
    writes: dict[str, int] = field(default_factory=dict)
    searches: dict[str, int] = field(default_factory=dict)  # answers, and errors by SQLSTATE
    embedded: int = 0  # texts
    checks: int = 0
    memory: list[float] = field(default_factory=list)  # MiB of the watched worker, at each check
    files: list[int] = field(default_factory=list)  # its descriptors
    seconds: float = 0.0
    violations: int = 0

    @property
    def injected(self) -> int:
        """All faults that hit something."""
        return sum(self.faults.values())


class SoakFailed(AssertionError):
    """something did not hold; the message has the seed, the last faults and the rows"""


class Soak:
    """One run over a scene."""

    def __init__(self, stage: Scene, seed: int, faults: int, pause: float, seconds: float) -> None:
        self.report = Report(seed)
        self._scene = stage
        self._wanted = faults
        self._plan = plan(seed, pause)
        self._tried = 0
        self._cost: Counter[str] = Counter()
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._started = time.monotonic()
        self._deadline = self._started + seconds
        self._number = count(1)
        self._next_word = self._started + TELL_EVERY

    def run(self) -> Report:
        """Harm and check in turn, until so many faults were injected or the time is over."""
        size = max(1, min(ROUND, self._wanted // ROUNDS))
        self._check()
        while self.report.injected < self._wanted and time.monotonic() < self._deadline:
            before = self._scene.embedded
            left = self._wanted - self.report.injected
            aim = self.report.injected + (left if left < 2 * size else size)
            while self._scene.injected.total() < aim and time.monotonic() < self._deadline:
                self._harm(next(self._plan))
                if time.monotonic() > self._next_word:
                    self._tell()
            self._check()
            if not self._scene.embedded_more_than(before):
                self._fail([("no progress", f"{before} texts embedded, and none more")])
        if behind := self._scene.end():
            self._fail(behind)
        self._tell()
        return self.report

    def _harm(self, planned: Planned) -> None:
        self._tried += 1
        with self._counted(planned.name):
            hit = planned.harm(self._scene, random.Random(planned.seed))
        if hit:
            self._scene.hit(planned.name)
        told = "hit" if hit else "put up or missed"
        elapsed = time.monotonic() - self._started
        self._tail.append(f"{elapsed:8.2f} s  {next(self._number)} {planned.name} {planned.seed}: {told}")
        with self._counted("waits"):
            self._scene.wait(planned.pause)

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._cost[name] += time.monotonic() - started

    def _check(self) -> None:
        with self._counted("heal"):
            ill = self._scene.heal()
        if ill:
            self._fail(ill)
        with self._counted("check"):
            found = self._scene.check()
        memory, files = self._scene.memory()
        self.report.memory.append(round(memory, 1))
        self.report.files.append(files)
        self.report.checks += 1
        self._tell()
        if found:
            self._fail(found)
        base = self.report.memory[:2][-1], max(self.report.files[:2])
        if memory > base[0] + GROWTH or files > base[1] + FILES:
            self._fail([("a leak", f"{self.report.memory} MiB, {self.report.files} files")])

    def _tell(self) -> None:
        report, stage = self.report, self._scene
        report.faults = dict(stage.injected.most_common())
        report.missed = self._tried - report.injected
        report.cost = {name: round(seconds, 1) for name, seconds in self._cost.most_common()}
        report.writes = dict(sum((writer.done for writer in stage.writers), Counter()))
        report.searches = dict(sum((searcher.answers for searcher in stage.searchers), Counter()))
        report.embedded = max(report.embedded, stage.embedded)
        report.seconds = round(time.monotonic() - self._started, 1)
        self._next_word = time.monotonic() + TELL_EVERY
        print(
            f"{report.seconds:7.1f} s: {report.injected} faults, {sum(report.writes.values())} writes,"
            f" {report.embedded} texts embedded, {report.memory[-1]} MiB",
            flush=True,
        )

    def _fail(self, rows: list[tuple[Any, ...]]) -> None:
        self.report.violations = len(rows)
        log = self._scene.processes.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
        parts = [
            f"SOAK_SEED={self.report.seed}: {len(rows)} violations",
            *("  " + " | ".join(str(part) for part in row) for row in rows[:20]),
            f"the last {len(self._tail)} faults:",
            *self._tail,
            "the end of the processes' log:",
            log,
            json.dumps(asdict(self.report)),
        ]
        raise SoakFailed("\n".join(parts))


def soak(seed: int, *, faults: int, pause: float, seconds: float) -> Report:
    """Soak a scene of its own; raises `SoakFailed`."""
    with scene(seed) as stage:
        return Soak(stage, seed, faults, pause, seconds).run()


def main() -> int:
    """Run as the environment says; a summary in JSON at the end."""
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(2**32))
    faults = int(os.environ.get("SOAK_FAULTS") or 10_000)
    seconds = 60 * float(os.environ.get("SOAK_MINUTES") or 60)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # by the way that ends what was started
    faulthandler.dump_traceback_later(seconds + HANGING, exit=True)
    print(f"SOAK_SEED={seed} SOAK_FAULTS={faults}", flush=True)
    try:
        report = soak(seed, faults=faults, pause=float(os.environ.get("SOAK_PAUSE") or 0.1), seconds=seconds)
    except SoakFailed as error:
        print(error)
        return 1
    print(json.dumps(asdict(report), indent=2))
    return 0 if report.injected >= faults else 2


if __name__ == "__main__":
    sys.exit(main())
