"""`search()` of SQLAlchemy, by the Core and by a session of the ORM, over `embed.search` sent by psycopg.

All read the same columns of the ten best rows, in a transaction each, each way over a connection of its own
that prepares statements as psycopg does; where rows come with their vectors, psycopg reads these, too.
What any use of SQLAlchemy costs is told by the same SQL sent as its text(): the ratio to that is what the
statement costs. Last, as users ask: a sidecar embeds each question, a new one every time, by MiniLM.
The processor time is the client's alone; the server is another process.
`python -m benchmarks.sqlalchemy_overhead [--rows 20000] [--rounds 300] [--json]`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import count, cycle
from typing import Any

import numpy as np
import psycopg
from pgvector import SparseVector
from pgvector.psycopg import register_vector
from sqlalchemy import Engine, Select, bindparam, create_engine, select, text
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most, log
from benchmarks.postgres import Connection, Server, postgres
from benchmarks.search_overhead import DIMENSIONS, PER_ROW, QUERIES, WORDS, Query, dense, fill
from benchmarks.texts import corpus
from pg_embed.sqlalchemy import embedded, search

GOAL = 1.05
RAW, CORE, ORM = "psycopg", "Core", "ORM"
TEXT = {CORE: "text(), Core", ORM: "text(), ORM"}
ONCE = {CORE: "Core, built once", ORM: "ORM, built once"}
STATEMENT = """
SELECT (hit).id, (hit).body, (hit).part, {}
    score, dense_rank, dense_score, sparse_rank, sparse_score, rerank_score
FROM embed.search(NULL::docs, %(text)s, k => 10, mode => %(mode)s)
"""


class Base(DeclarativeBase): ...


class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    part: Mapped[int]


class Other(DeclarativeBase): ...


class DocWithVectors(Other):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    part: Mapped[int]
    embedding: Mapped[list[float] | None] = embedded("{body}", model="two", dimensions=DIMENSIONS)
    words: Mapped[SparseVector | None] = embedded("{body}", model="two", output="sparse", dimensions=WORDS)


ROWS: dict[str, tuple[type[Any], str]] = {
    "rows": (Doc, ""),
    "rows and vectors": (DocWithVectors, "(hit).embedding, (hit).words,"),
}
SCORES = ("score", "dense_rank", "dense_score", "sparse_rank", "sparse_score", "rerank_score")
Ask = Callable[[str, Any], list[int]]  # a text and a mode; the ids that are found


def sides(
    connection: Connection, engines: Mapping[str, Engine], entity: type[Any], vectors: str
) -> dict[str, Ask]:
    """The ways to ask: psycopg's, and SQLAlchemy's with a statement for each query, or one for all."""
    statement = STATEMENT.format(vectors).encode()

    def raw(query: str, mode: Any) -> list[int]:
        found = connection.execute(statement, {"text": query, "mode": mode}).fetchall()
        connection.rollback()
        return [row[0] for row in found]

    def core(query: str, mode: Any) -> list[int]:
        with engines[CORE].connect() as opened:
            return [row[0] for row in opened.execute(search(entity.__table__, query, mode=mode)).all()]

    def orm(query: str, mode: Any) -> list[int]:
        with Session(engines[ORM]) as session:
            return [row[0].id for row in session.execute(search(entity, query, mode=mode)).all()]

    @cache
    def built(of: Any, mode: Any) -> Select[Any]:
        return search(of, bindparam("query"), mode=mode)

    def core_once(query: str, mode: Any) -> list[int]:
        with engines[ONCE[CORE]].connect() as opened:
            return [row[0] for row in opened.execute(built(entity.__table__, mode), {"query": query}).all()]

    def orm_once(query: str, mode: Any) -> list[int]:
        with Session(engines[ONCE[ORM]]) as session:
            return [row[0].id for row in session.execute(built(entity, mode), {"query": query}).all()]

    @cache
    def written(of: Any, mode: Any) -> tuple[Any, dict[str, Any]]:
        """The SQL of a search as a text, and the parameters that are not the question."""
        built = search(of, "", mode=mode)
        compiled = built.compile(dialect=psycopg_dialect(paramstyle="named"))
        sql = str(compiled).replace("::VARCHAR", "")  # behind which text() sees no parameter
        told = text(sql).columns(*built.selected_columns)
        if of is entity:
            told = select(entity, *list(built.selected_columns)[-len(SCORES) :]).from_statement(told)
        return told, {name: value for name, value in compiled.params.items() if value != ""}

    def core_text(query: str, mode: Any) -> list[int]:
        told, parameters = written(entity.__table__, mode)
        with engines[TEXT[CORE]].connect() as opened:
            return [row[0] for row in opened.execute(told, {**parameters, "param_1": query}).all()]

    def orm_text(query: str, mode: Any) -> list[int]:
        told, parameters = written(entity, mode)
        with Session(engines[TEXT[ORM]]) as session:
            return [row[0].id for row in session.execute(told, {**parameters, "param_1": query}).all()]

    return {
        RAW: raw,
        CORE: core,
        ORM: orm,
        ONCE[CORE]: core_once,
        ONCE[ORM]: orm_once,
        TEXT[CORE]: core_text,
        TEXT[ORM]: orm_text,
    }


def measure(
    report: Report, asks: dict[str, Ask], texts: Iterator[str], mode: str, what: str, rounds: int
) -> None:
    """Rounds of all ways in turn, after some that warm them up; each way asks for a text of its own."""
    wall: dict[str, list[float]] = {name: [] for name in asks}
    used: dict[str, list[float]] = {name: [] for name in asks}
    order = list(asks)
    for number in range(-2 * QUERIES, rounds):
        found = {}
        for name in order:
            asked = next(texts)
            start, processor = time.perf_counter(), time.process_time()
            ids = asks[name](asked, mode)
            spent, taken = time.process_time() - processor, time.perf_counter() - start
            if number >= 0:
                used[name].append(spent * 1000)
                wall[name].append(taken * 1000)
            if found.setdefault(asked, ids) != ids:
                raise RuntimeError(f"the ways find different rows: {found[asked]} and {ids}")
        order = order[1:] + order[:1]
    for name in [name for name in asks if name != RAW]:
        report.ratio(f"{mode}, {what}: {name}", (name, wall[name]), (RAW, wall[RAW]), "ms", at_most(GOAL))
    for name, floor in TEXT.items():
        report.ratio(f"{mode}, {what}: {name} over text()", (name, wall[name]), (floor, wall[floor]), "ms")
    for name in asks:
        report.figure(f"{mode}, {what}: client's processor time, {name}", used[name], "ms")


def repeated(queries: list[Query], times: int) -> Iterator[str]:
    """The same queries over and over, each for all ways."""
    return (query["text"] for query in cycle(queries) for _ in range(times))


def new_texts() -> Iterator[str]:
    """Questions of a dozen words, none of them twice."""
    words = corpus().split()
    return (f"question {number} {' '.join(words[12 * number : 12 * number + 10])}" for number in count())


@contextmanager
def opened(dsn: str, names: Iterable[str]) -> Iterator[dict[str, Engine]]:
    """An engine of one connection for each way."""
    engines = {
        name: create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), pool_size=1)
        for name in names
    }
    try:
        yield engines
    finally:
        for engine in engines.values():
            engine.dispose()


def fill_embedded(connection: Connection, rows: int) -> None:
    """A table that MiniLM embeds: its questions truly, while its rows have vectors of chance."""
    ours.create_model(connection, "minilm", "sentence_transformers", ours.MINILM)
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, part int)")
    connection.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'minilm')")
    rng = np.random.default_rng(1)
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY docs (id, body, part, embedding) FROM STDIN") as copy,
    ):
        for number in range(rows):
            copy.write_row((number, f"text {number} " * 30, number % 10, dense(rng)))
    log("building the index")
    connection.execute("SET maintenance_work_mem = '512MB'")
    connection.execute("CREATE INDEX ON docs USING hnsw (embedding halfvec_cosine_ops)")
    connection.execute("VACUUM ANALYZE docs")


def measure_known(report: Report, server: Server, rows: int, rounds: int) -> None:
    """Queries whose vectors the session knows."""
    dsn = server.create_database()
    ours.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        queries = fill(connection, rows)
    with (
        opened(dsn, (CORE, ORM, *ONCE.values(), *TEXT.values())) as engines,
        psycopg.connect(dsn) as connection,
    ):
        register_vector(connection)
        for what, (entity, vectors) in ROWS.items():
            asks = sides(connection, engines, entity, vectors)
            for mode in ("dense", "hybrid"):
                measure(report, asks, repeated(queries, len(asks)), mode, what, rounds)


def measure_embedded(report: Report, server: Server, rows: int, rounds: int) -> None:
    """Queries that a sidecar embeds."""
    dsn = server.create_database()
    with ours.sidecar(server, dsn, "spool"):
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill_embedded(connection, rows)
            connection.execute(f"SET embed.timeout = {ours.TIMEOUT}".encode())
            connection.execute("SELECT embed('the first question loads the model')")
        with opened(dsn, (CORE, ORM, *TEXT.values())) as engines, psycopg.connect(dsn) as connection:
            asks = sides(connection, engines, Doc, "")
            kept = {name: ask for name, ask in asks.items() if name not in ONCE.values()}
            measure(report, kept, new_texts(), "dense", "embedded by MiniLM", rounds)


def main() -> None:
    parser = arguments("SQLAlchemy's search over psycopg's", rows=20_000, rounds=300)
    options = parser.parse_args()
    report = Report(
        f"search() of SQLAlchemy over psycopg, {options.rows:,} rows, {DIMENSIONS} d, {PER_ROW} words a row"
    )
    with postgres() as server:
        report.conditions.update(server.conditions())
        measure_known(report, server, options.rows, options.rounds)
        measure_embedded(report, server, options.rows, options.rounds)
    report.finish(options.json)


if __name__ == "__main__":
    main()
