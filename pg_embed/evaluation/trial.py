"""A collection in a table of its own in a database, and all its queries asked of `embed.search`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pg_embed import db, statements
from pg_embed.errors import InvalidArgument, PgEmbedError
from pg_embed.evaluation.collection import Collection
from pg_embed.evaluation.measures import DEEP, SHALLOW

OURS = "documents of pg-embed eval"  # a table that says so is ours
TEMPLATE = "{title} {text}"  # as MTEB and BEIR join them
MODES = ("dense", "sparse", "hybrid")
STEP = 1_000  # documents between two reports of a load
WARMING = 3  # searches before the first that is timed
INTERVAL = 0.25  # seconds between two looks at the worker's progress
LOAD_TIMEOUT = 300.0  # seconds for a search, which may load a model
PATIENCE = 120.0  # seconds without a row in a worker's hands after which something is wrong

Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True)
class Mode:
    """A way to search, as results call it."""

    name: str
    mode: str
    rerank: str | None = None


def chosen_modes(wanted: Sequence[str], rerankers: Sequence[str]) -> tuple[Mode, ...]:
    """The modes that are wanted, by default all, and the hybrid judged again by each reranker."""
    for name in wanted:
        if name not in MODES:
            raise InvalidArgument(f"there is no mode {name!r}", hint=f"the modes are {', '.join(MODES)}")
    plain = (Mode(name, name) for name in MODES if name in (wanted or MODES))
    return (*plain, *(Mode(f"hybrid+{name}", "hybrid", name) for name in rerankers))


@dataclass
class Run:
    """What one mode found for each query, ten and a hundred documents deep, and how long ten took."""

    first: dict[str, list[str]] = field(default_factory=dict)
    deep: dict[str, list[str]] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)


class Trial:
    """The table of one collection and two models, a dense and a sparse one.

    Vectors that an earlier trial kept are used again; a table of the same name that is somebody else's, or
    has other documents or models, is an InvalidArgument.
    """

    def __init__(self, dsn: str, collection: Collection, dense: str, sparse: str) -> None:
        self._dsn = dsn
        self._collection = collection
        self._dense, self._sparse = dense, sparse
        self._sql = statements.load("evaluation")
        self._remark = f"{OURS}: {collection.fingerprint}, {dense}, {sparse}"
        self.vectorizer = ""  # its name, once loaded
        self.table, self._identifier = self._place(f"embed_eval_{collection.name}")

    def load(self) -> Iterator[tuple[int, int]]:
        """Make the table and its vectorizer unless they are there; yields documents done, of how many."""
        documents = self._collection.documents
        with self._connected(autocommit=False) as connection:
            if not self._is_there(connection):
                connection.execute(self._named("create"))
                connection.execute(self._named("comment", remark=sql.Literal(self._remark)))
                with connection.cursor() as cursor, cursor.copy(self._named("copy")) as copy:
                    for number, document in enumerate(documents):
                        copy.write_row(document)
                        if number % STEP == 0:
                            yield number, len(documents)
            self._vectorize(connection)
        yield len(documents), len(documents)

    def embed(self, check: Callable[[], None]) -> Iterator[tuple[int, int]]:
        """How many vectors there are, of how many, until all are; `check` raises if nobody makes them.

        Documents that a model refused are left out of the searches, as in a user's table.
        """
        best, since = -1, time.monotonic()
        with self._connected() as connection:
            while True:
                check()
                count = self._row(connection, "progress", table=self.table)
                done = count["vectors"] + count["failed"]
                yield count["vectors"], count["wanted"]
                if done >= count["wanted"]:
                    break
                if done > best or count["in_flight"]:
                    best, since = done, time.monotonic()
                if time.monotonic() - since > PATIENCE:
                    raise PgEmbedError(f"documents cannot be embedded: {self._trouble(connection)}")
                time.sleep(INTERVAL)
            if not count["vectors"]:
                raise PgEmbedError(f"no document could be embedded: {self._trouble(connection)}")
            connection.execute(self._sql["refresh"], {"vectorizer": self.vectorizer})
            connection.execute(self._named("vacuum"))

    def search(self, mode: Mode, fusion: str, run: Run) -> Iterator[tuple[int, int]]:
        """Ask every query; how many were asked, of how many.

        Timed is a search for 10 rows from the client's sending of the statement to its having the rows, with
        the embedding of the query and the judging by a reranker. Recall needs 100 rows: they are searched for
        once more, untimed, and without the reranker, which changes the order of the best hundred and not
        which they are.
        """
        queries = self._collection.queries
        first, deep = (
            {"mode": mode.mode, "fusion": fusion, "rerank": mode.rerank, "k": SHALLOW},
            {"mode": mode.mode, "fusion": fusion, "rerank": None, "k": DEEP},
        )
        # a session of its own: one remembers the vectors of its last queries
        with self._connected() as connection:
            connection.execute(self._sql["patience"], {"seconds": f"{LOAD_TIMEOUT:g}"})
            for query in [*queries.values()][-WARMING:]:
                self._found(connection, query, first)
            for number, (key, query) in enumerate(queries.items()):
                yield number, len(queries)
                began = time.perf_counter()
                run.first[key] = self._found(connection, query, first)
                run.milliseconds.append((time.perf_counter() - began) * 1_000)
                run.deep[key] = self._found(connection, query, deep)
        yield len(queries), len(queries)

    def drop(self) -> None:
        """Remove the table and its vectorizer, if it is the one of this trial."""
        with self._connected() as connection:
            found = connection.execute(self._sql["remark"], {"table": self.table}).fetchone()
            if found is not None and found["remark"] == self._remark:
                connection.execute(self._sql["forget"], {"table": self.table})
                connection.execute(self._named("drop"))

    def _place(self, name: str) -> tuple[str, sql.Identifier]:
        with self._connected() as connection:
            place = connection.execute(self._sql["place"], {"name": name}).fetchone() or {}
        if place["schema"] is None:
            raise InvalidArgument(
                "no schema of the search_path exists", hint="SET search_path, or create one"
            )
        return str(place["written"]), sql.Identifier(place["schema"], name)

    def _is_there(self, connection: Connection) -> bool:
        found = connection.execute(self._sql["remark"], {"table": self.table}).fetchone()
        if found is None:
            return False
        if found["remark"] == self._remark:
            return True
        if str(found["remark"]).startswith(OURS):
            hint = f"drop it: DROP TABLE {self.table}"
            raise InvalidArgument(f"{self.table} is there already, of other documents or models", hint=hint)
        raise InvalidArgument(
            f"{self.table} is there already, and not of an evaluation", hint="rename it, or the folder"
        )

    def _vectorize(self, connection: Connection) -> None:
        titled = self._collection.has_titles
        parameters = {
            "table": self.table,
            "input": None if titled else ["text"],
            "template": TEMPLATE if titled else None,
            "model": self._dense,
            "sparse": self._sparse,
        }
        made = connection.execute(self._sql["vectorize"], parameters).fetchone() or {}
        self.vectorizer = str(made["vectorizer"])

    def _found(self, connection: Connection, query: str, parameters: dict[str, Any]) -> list[str]:
        rows = connection.execute(self._named("search"), {**parameters, "query": query}).fetchall()
        return [row["key"] for row in rows]

    def _trouble(self, connection: Connection) -> str:
        return self._row(connection, "trouble", table=self.table)["trouble"] or "nothing happens"

    def _row(self, connection: Connection, name: str, **parameters: Any) -> dict[str, Any]:
        return connection.execute(self._named(name), parameters).fetchone() or {}

    def _named(self, name: str, **parts: sql.Composable) -> sql.Composed:
        text: LiteralString = self._sql[name]
        return sql.SQL(text).format(table=self._identifier, **parts)

    @contextmanager
    def _connected(self, *, autocommit: bool = True) -> Iterator[Connection]:
        with (
            db.connect(self._dsn, autocommit=autocommit, row_factory=dict_row) as connection,
            db.translated(),
        ):
            yield connection
