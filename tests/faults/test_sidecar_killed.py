"""The sidecar is killed fifty times while sessions call embed(): each is right, or an error in good time."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from pg_embed.models.registry import default_registry
from tests.faults.nursery import nursery
from tests.faults.tables import MODEL, POISON, set_up
from tests.faults.writers import new_seed
from tests.fix_serve import Place

KILLS = 50
SESSIONS = 6
LONGEST_LIFE = 0.4  # seconds between a start and the next kill, at most
LONGEST_ABSENCE = 0.1  # seconds between a kill and the next start, at most
TIMEOUT = 1.0  # seconds that a session gives embed()
AFTER_AN_ERROR = 0.01  # seconds
SLACK = 10.0  # seconds more, on a busy machine, before a call counts as hanging
ABSENT, LATE, FAILED, REJECTED = "PE010", "PE011", "PE020", "PE021"


class Session(threading.Thread):
    """Asks for vectors until it is stopped, and notes what is not as it should be."""

    def __init__(self, place: Place, seed: str) -> None:
        super().__init__(daemon=True)
        self.wrong: list[str] = []
        self.answers: Counter[str] = Counter()
        self._place = place
        self._random = random.Random(seed)
        self._embedder = default_registry().load(MODEL)
        self._ending = threading.Event()

    def run(self) -> None:
        """Ask."""
        try:
            with self._place.connect(options=f"-c statement_timeout={TIMEOUT + SLACK}s") as connection:
                connection.execute("SELECT set_config('embed.timeout', %s, false)", (str(TIMEOUT),))
                while not self._ending.is_set():
                    self._ask(connection)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        """Ask no more."""
        self._ending.set()
        self.join(TIMEOUT + 2 * SLACK)
        if self.is_alive():
            self.wrong.append("a call hangs")

    def _ask(self, connection: psycopg.Connection[Any]) -> None:
        text = f"{'' if self._random.random() > 0.05 else POISON} {self._random.random()}"
        try:
            row = connection.execute("SELECT embed.embed(%s, %s)::text", (text, MODEL.name)).fetchone()
        except psycopg.Error as error:
            code = error.sqlstate or type(error).__name__
            self.answers[code] += 1
            allowed = {ABSENT, LATE, FAILED} | ({REJECTED} if POISON in text else set())
            if code not in allowed or (not error.diag.message_hint and code != REJECTED):
                self.wrong.append(f"{code}: {error}")
            self._ending.wait(AFTER_AN_ERROR)
            return
        assert row is not None
        vector = np.array(str(row[0]).strip("[]").split(","), np.float32)
        self.answers["vectors"] += 1
        if POISON in text or not np.array_equal(vector, self._embedder.embed([text], "query").dense[0]):
            self.wrong.append(f"{text!r} got {row[0]}")


@pytest.mark.timeout(240)
def test_a_call_is_right_or_an_error_when_the_sidecar_is_killed(place: Place, tmp_path: Path) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    with place.connect() as db:
        set_up(db, [], models=[MODEL])
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in asdict(place.serve).items()
    }
    sessions = [Session(place, f"{seed}/{number}") for number in range(SESSIONS)]
    with nursery(tmp_path / "sidecars.log") as processes:
        sidecar = processes.sidecar(settings)
        for session in sessions:
            session.start()
        for _ in range(KILLS):
            time.sleep(rng.uniform(0, LONGEST_LIFE))
            processes.kill(sidecar)
            time.sleep(rng.uniform(0, LONGEST_ABSENCE))
            sidecar = processes.sidecar(settings)
        for session in sessions:
            session.end()
        print(dict(sum((session.answers for session in sessions), Counter())))
        assert [wrong for session in sessions for wrong in session.wrong] == []
        assert sum(session.answers["vectors"] for session in sessions) > KILLS
        with place.connect() as db:
            assert db.execute("SELECT embed.embed('at last', %s) IS NOT NULL", (MODEL.name,)).fetchone() == (
                True,
            )
        assert processes.stop(sidecar) == 0
