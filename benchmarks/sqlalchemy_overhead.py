"""`search()` of SQLAlchemy, by the Core and by a session of the ORM, over `embed.search` sent by psycopg.

All read the same columns of the ten best rows, in a transaction each, each way over a connection of its own
that prepares statements as psycopg does; where rows come with their vectors, psycopg reads these, too.
The processor time is the client's alone; the server is another process.
`python -m benchmarks.sqlalchemy_overhead [--rows 20000] [--rounds 300] [--json]`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import psycopg
from pgvector import SparseVector
from pgvector.psycopg import register_vector
from sqlalchemy import Engine, Select, bindparam, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks import ours
from benchmarks.common import Report, arguments, at_most
from benchmarks.postgres import Connection, postgres
from benchmarks.search_overhead import DIMENSIONS, PER_ROW, WORDS, Query, fill
from pg_embed.sqlalchemy import embedded, search

GOAL = 1.05
RAW, CORE, ORM = "psycopg", "Core", "ORM"
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

    return {RAW: raw, CORE: core, ORM: orm, ONCE[CORE]: core_once, ONCE[ORM]: orm_once}


def measure(
    report: Report, asks: dict[str, Ask], queries: list[Query], mode: str, what: str, rounds: int
) -> None:
    """Rounds of all ways in turn, after some that warm them up."""
    wall: dict[str, list[float]] = {name: [] for name in asks}
    used: dict[str, list[float]] = {name: [] for name in asks}
    order = list(asks)
    for number in range(-2 * len(queries), rounds):
        found = []
        for name in order:
            start, processor = time.perf_counter(), time.process_time()
            found.append(asks[name](queries[number % len(queries)]["text"], mode))
            if number >= 0:
                used[name].append((time.process_time() - processor) * 1000)
                wall[name].append((time.perf_counter() - start) * 1000)
        if any(ids != found[0] for ids in found):
            raise RuntimeError(f"the ways find different rows: {found}")
        order = order[1:] + order[:1]
    for name in [name for name in asks if name != RAW]:
        report.ratio(f"{mode}, {what}: {name}", (name, wall[name]), (RAW, wall[RAW]), "ms", at_most(GOAL))
    for name in asks:
        report.figure(f"{mode}, {what}: client's processor time, {name}", used[name], "ms")


def main() -> None:
    parser = arguments("SQLAlchemy's search over psycopg's", rows=20_000, rounds=300)
    options = parser.parse_args()
    report = Report(
        f"search() of SQLAlchemy over psycopg, {options.rows:,} rows, {DIMENSIONS} d, {PER_ROW} words a row"
    )
    with postgres() as server:
        report.conditions.update(server.conditions())
        dsn = server.create_database()
        ours.install(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            queries = fill(connection, options.rows)
        engines = {
            name: create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), pool_size=1)
            for name in (CORE, ORM, *ONCE.values())
        }
        with psycopg.connect(dsn) as connection:
            register_vector(connection)
            for what, (entity, vectors) in ROWS.items():
                asks = sides(connection, engines, entity, vectors)
                for mode in ("dense", "hybrid"):
                    measure(report, asks, queries, mode, what, options.rounds)
        for engine in engines.values():
            engine.dispose()
    report.finish(options.json)


if __name__ == "__main__":
    main()
