"""Sessions that embed queries and search, and note what is neither right nor an error in good time."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import psycopg
from psycopg import errors

from pg_embed.models.registry import default_registry
from pg_embed.worker.dispatcher import is_passing
from tests.faults.tables import MODEL, POISON, random_text

TIMEOUT = 1.0  # seconds that a session gives embed()
SLACK = 20.0  # seconds more, on a busy machine, before a call counts as hanging
PAUSE = 0.05  # seconds between two calls
AWAY = {"PE010", "PE011", "PE012", "PE020"}  # codes of a sidecar that is not there, late, busy or failing
REJECTED = "PE021"
DISK = (errors.IoError, errors.DiskFull)
SEARCHES = [
    f"SELECT (hit).id, (hit).body, score FROM embed.search(NULL::{table}, %s, k => 5)"
    for table in ("notes", "pair")
]


class Searcher(threading.Thread):
    """Asks until it is stopped; a lost connection is made again."""

    def __init__(self, dsn: str, seed: str) -> None:
        super().__init__(daemon=True, name=f"searcher {seed}")
        self.wrong: list[str] = []
        self.answers: Counter[str] = Counter()
        self._dsn = dsn
        self._random = random.Random(seed)
        self._embedder = default_registry().load(MODEL)
        self._ending = threading.Event()

    def run(self) -> None:
        """Ask."""
        options = f"-c statement_timeout={TIMEOUT + SLACK}s -c log_min_messages=panic"
        while not self._ending.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, options=options) as connection:
                    connection.execute("SELECT set_config('embed.timeout', %s, false)", (str(TIMEOUT),))
                    while not self._ending.wait(PAUSE):
                        self._ask(connection)
            except psycopg.OperationalError as error:
                self.answers["lost connections"] += 1
                if not is_passing(error) and not isinstance(error, DISK):
                    self.wrong.append(f"{error.sqlstate}: {error}")
                self._ending.wait(PAUSE)
            except BaseException as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                return

    def end(self) -> None:
        """Ask no more."""
        self._ending.set()
        self.join(TIMEOUT + 2 * SLACK)
        if self.is_alive():
            self.wrong.append("a call hangs")

    def _ask(self, connection: psycopg.Connection[Any]) -> None:
        text = f"{random_text(self._random)} {self._random.random()}"  # no session remembers it
        started = time.monotonic()
        try:
            if self._random.random() < 0.5:
                self._embed(connection, text)
            else:
                self._search(connection, text)
        except psycopg.Error as error:
            code = error.sqlstate or ""
            if isinstance(error, errors.QueryCanceled) and time.monotonic() - started < TIMEOUT + SLACK:
                code = "canceled"  # by a fault
            elif code not in AWAY and not (code == REJECTED and POISON in text):
                raise
            self.answers[code] += 1

    def _embed(self, connection: psycopg.Connection[Any], text: str) -> None:
        row = connection.execute("SELECT embed.embed(%s, %s)::text", (text, MODEL.name)).fetchone()
        assert row is not None
        vector = np.array(str(row[0]).strip("[]").split(","), np.float32)
        self.answers["vectors"] += 1
        if POISON in text or not np.array_equal(vector, self._embedder.embed([text], "query").dense[0]):
            self.wrong.append(f"{text!r} got {row[0]}")

    def _search(self, connection: psycopg.Connection[Any], text: str) -> None:
        hits = connection.execute(self._random.choice(SEARCHES), (text,)).fetchall()
        self.answers["searches"] += 1
        scores = [score for *_, score in hits]
        if scores != sorted(scores, reverse=True) or len({key for key, *_ in hits}) != len(hits):
            self.wrong.append(f"a search for {text!r} gave {hits}")
