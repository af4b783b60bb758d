"""4,096 dimensions, more than HNSW indexes as they are: the index that `auto` builds, over exact search.

The vectors are made: of unit length, normally distributed in a space of `latent` dimensions that is turned
into 4,096, with noise in all of these. Those of trained models lie in few dimensions likewise; of noise alone
no index finds the nearest.
"""

from __future__ import annotations

import statistics
import struct
from collections.abc import Iterator

import numpy as np
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from benchmarks.common import Report, arguments, at_least, stopwatch
from benchmarks.postgres import postgres
from pg_embed.install import install
from pg_embed.jobs import IndexBuild
from pg_embed.models.hashing import FakeEmbedder, FakeOptions

DIMENSIONS, NOISE = 4_096, 0.5
CHUNK = 1_000  # rows
HEAD = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)  # PostgreSQL, COPY in binary format
SIMILAR = b"SELECT (hit).id FROM embed.similar(NULL::docs, %s)"
TAIL = struct.pack(">h", -1)


def copied(rows: int, latent: int, seed: int = 0) -> Iterator[bytes]:
    """Rows of a key and a vector, as COPY reads them."""
    random = np.random.default_rng(seed)
    turned = random.standard_normal((latent, DIMENSIONS)).astype(np.float32) / latent**0.5
    yield HEAD
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        made = random.standard_normal((count, latent)).astype(np.float32) @ turned
        made += NOISE * random.standard_normal(made.shape).astype(np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        vector = struct.pack(">ihh", 4 + 4 * DIMENSIONS, DIMENSIONS, 0)
        yield b"".join(
            struct.pack(">hiq", 2, 8, first + place) + vector + row.astype(">f4").tobytes()
            for place, row in enumerate(made)
        )
    yield TAIL


def fill(connection: psycopg.Connection[dict[str, object]], rows: int, latent: int) -> None:
    """A table with vectors, and a vectorizer that keeps them."""
    options = {"dimensions": DIMENSIONS}
    card = FakeEmbedder(FakeOptions(**options)).card.as_dict()
    connection.execute(
        "SELECT embed.create_model('fake', 'fake', %s, card => %s)", [Jsonb(options), Jsonb(card)]
    )
    connection.execute(
        f"CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), body text)".encode()
    )
    statement = "COPY docs (id, embedding) FROM STDIN (FORMAT binary)"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for data in copied(rows, latent):
            copy.write(data)
    connection.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    connection.execute("VACUUM ANALYZE docs")


def similar(
    connection: psycopg.Connection[dict[str, object]], rows: int, samples: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of embed.similar in one exact pass and by the index, in turn, and what share it finds."""
    times: dict[int, list[float]] = {10**9: [], 0: []}
    recalls = []
    for number in range(samples):
        found = []
        for exact_rows, spent in times.items():
            connection.execute(f"SET embed.exact_rows = {exact_rows}".encode())
            key = str(number * rows // samples)
            for _ in range(2):  # the first fills the cache
                with stopwatch() as seconds:
                    hits = connection.execute(SIMILAR, [key]).fetchall()
            spent.append(seconds() * 1000)
            found.append({hit["id"] for hit in hits})
        recalls.append(len(found[0] & found[1]) / len(found[0]))
    return times[10**9], times[0], recalls


def main() -> None:
    options = arguments(
        "4,096 dimensions", rows=50_000, latent=32, samples=100, seconds=240, searches=20
    ).parse_args()
    with postgres(shared_buffers="2GB", maintenance_work_mem="1GB") as server:
        dsn = server.create_database()
        install(dsn)
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            fill(connection, options.rows, options.latent)
            connection.execute("SELECT embed.create_index('docs')")
            plan = connection.execute("SELECT * FROM embed.index_plan('docs')").fetchone()
            with stopwatch() as spent:
                assert IndexBuild(dsn, "docs").run(), "nothing was built"
            built = connection.execute("SELECT * FROM embed.indexes").fetchone()
            found = connection.execute(
                "SELECT * FROM embed.recall('docs', 10, %s, %s)", [options.samples, options.seconds]
            ).fetchone()
            exact_ms, index_ms, recalls = similar(connection, options.rows, options.searches)
        assert plan is not None
        assert built is not None
        assert found is not None
        report = Report(
            f"{options.rows:,} rows of {DIMENSIONS} d: index of `auto` ({built['kind']}) over exact",
            {
                **server.conditions(),
                "vectors": f"normal in {options.latent} dimensions, noise of {NOISE} in all",
                "recall by hnsw.ef_search": str(found["tried"]),
                "searches": found["sampled"],
                "remarks": found["remarks"],
            },
        )
        report.figure("recall@10", [float(found["recall"])], "", at_least(0.97))
        for quantile in ("p50", "p95"):
            exact, by_index = float(found[f"exact_{quantile}_ms"]), float(found[f"index_{quantile}_ms"])
            goal = at_least(50) if quantile == "p50" else None
            report.ratio(f"{quantile} of a search", ("exact", [exact]), ("index", [by_index]), "ms", goal)
        report.figure("recall@10 of embed.similar", [statistics.mean(recalls)], "", at_least(0.97))
        report.ratio("embed.similar", ("exact", exact_ms), ("by the index", index_ms), "ms", at_least(50))
        report.ratio("build", ("took", [spent()]), ("planned", [float(plan["seconds"])]), "s")
        size = [float(built["bytes"]) / 2**20], [float(plan["index_bytes"]) / 2**20]
        report.ratio("size", ("is", size[0]), ("planned", size[1]), "MiB")
    report.finish(options.json)


if __name__ == "__main__":
    main()
