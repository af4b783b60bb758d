"""Which index suits a column, what stands in its way, and how well it finds; without a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pg_embed.jobs import IndexBuild
from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_fake_model
from tests.plans.test_query_plans import COUNTING_CALL, NEAREST, plan
from tests.sql.helpers import refused, value

CARD = {"metric": "cosine", "space_id": "plans", "max_tokens": 100}


def fill(
    db: Connection, dimensions: int, rows: int, metric: str = "cosine", table: str = "docs", **options: Any
) -> None:
    """A table with random vectors of unit length, and a vectorizer without backfill that keeps them."""
    db.execute(COUNTING_CALL)
    card = {**CARD, "dimensions": dimensions, "metric": metric}
    db.execute("SELECT embed.create_model('fake', 'fake', card => %s)", [Jsonb(card)])
    if table == "docs":
        db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    arguments = "".join(f", {name} => {given!r}" for name, given in options.items())
    db.execute(f"SELECT embed.create_vectorizer('{table}', 'body', backfill => false{arguments})".encode())
    add_rows(db, dimensions, rows, table=table)


def add_rows(db: Connection, dimensions: int, rows: int, table: str = "docs") -> None:
    """Further rows with vectors; what the triggers queue is forgotten."""
    kind = value(db, "SELECT column_type FROM embed.vectorizers")
    statement = (
        f"INSERT INTO {table} (id, embedding) SELECT (SELECT coalesce(max(id), 0) FROM {table}) + g,"
        f" l2_normalize((SELECT array_agg(random() - 0.5) FROM generate_series(1, {dimensions}) WHERE g > 0)"
        f"::vector)::{kind} FROM generate_series(1, {rows}) AS g"
    )
    db.execute("SELECT setseed(0.5)")
    db.execute(statement.encode())
    db.execute("DELETE FROM embed._queue")
    db.execute(f"VACUUM ANALYZE {table}".encode())


def row(db: Connection, statement: str, *parameters: Any) -> dict[str, Any]:
    """The one row of a statement, by name."""
    with db.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement.encode(), parameters or None)
        (found,) = cursor.fetchall()
        return found


def state(db: Connection) -> dict[str, Any]:
    return row(db, "SELECT * FROM embed.indexes")


def hnsw_indexes(db: Connection) -> list[str]:
    found = db.execute(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'docs' AND indexdef LIKE '% hnsw %'"
        " ORDER BY indexname"
    )
    return [definition for (definition,) in found.fetchall()]


@pytest.mark.parametrize(
    ("dimensions", "metric", "column_type", "kind", "expression"),
    [
        (8, "cosine", "halfvec", "hnsw", "(embedding public.halfvec_cosine_ops)"),
        (8, "ip", "halfvec", "hnsw", "(embedding public.halfvec_ip_ops)"),
        (8, "l2", "vector", "hnsw", "(embedding public.vector_l2_ops)"),
        (384, "cosine", "vector", "hnsw", "(embedding public.vector_cosine_ops)"),
        (2500, "cosine", "halfvec", "hnsw", "(embedding public.halfvec_cosine_ops)"),
        (2500, "ip", "vector", "hnsw", "((embedding::public.halfvec(2500)) public.halfvec_ip_ops)"),
        (
            4096,
            "cosine",
            "vector",
            "binary",
            "((public.binary_quantize(embedding)::bit(4096)) public.bit_hamming_ops)",
        ),
    ],
)
def test_auto_chooses_by_dimensions_and_metric_and_builds_what_it_planned(
    db: Connection, dsn: str, dimensions: int, metric: str, column_type: str, kind: str, expression: str
) -> None:
    fill(db, dimensions, 120, metric, column_type=column_type)
    planned = row(db, "SELECT * FROM embed.index_plan('docs', min_rows => 100)")
    create = (
        f"CREATE INDEX CONCURRENTLY docs_embedding_{kind} ON public.docs USING hnsw {expression}"
        f" WITH (m = {32 if kind == 'binary' else 16}, ef_construction = {128 if kind == 'binary' else 64})"
    )
    assert planned["chosen"] == kind
    assert planned["ddl"].splitlines()[0] == f"{create};"
    assert planned["rows"] == 120
    assert planned["seconds"] > 0
    assert hnsw_indexes(db) == []
    db.execute("SELECT embed.create_index('docs', min_rows => 100)")
    assert state(db)["state"] == "planned"
    assert IndexBuild(dsn, "docs").run()
    built = state(db)
    assert (built["state"], built["kind"], built["index_name"]) == ("valid", kind, f"docs_embedding_{kind}")
    assert built["bytes"] > 0
    assert not IndexBuild(dsn, "docs").run()
    assert len(hnsw_indexes(db)) == 1
    found = row(db, "SELECT * FROM embed.recall('docs', 5, 10)")
    assert found["index_name"] == f"docs_embedding_{kind}"
    assert found["sampled"] == 10
    assert found["recall"] >= 0.9  # 120 rows, 40 candidates or more
    assert found["index_p50_ms"] > 0
    assert found["exact_p95_ms"] >= found["exact_p50_ms"] > 0


def test_few_rows_get_no_index(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    told = value(db, "SELECT embed.create_index('docs')")
    assert told == "none: exact search is fast below 10000 rows"
    assert not IndexBuild(dsn, "docs").run()
    planned = row(db, "SELECT * FROM embed.index_plan('docs')")
    assert (planned["chosen"], planned["ddl"], planned["rows"]) == ("none", None, 50)


def test_a_table_that_grows_past_the_bound_gets_one(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    db.execute("SELECT embed.create_index('docs', min_rows => 100)")
    assert not IndexBuild(dsn, "docs").run()
    add_rows(db, 8, 60)
    assert state(db)["state"] == "planned"
    assert IndexBuild(dsn, "docs").run()
    db.execute("DELETE FROM docs WHERE id > 20")
    db.execute("VACUUM ANALYZE docs")
    assert state(db)["state"] == "valid"


def test_rows_are_counted_where_the_table_was_never_analyzed(db: Connection, dsn: str) -> None:
    fill(db, 8, 0)
    db.execute(
        "CREATE TABLE fresh (id bigint PRIMARY KEY, body text, embedding halfvec(8))"
        " WITH (autovacuum_enabled = off)"  # which would analyze it
    )
    db.execute("INSERT INTO fresh SELECT g, NULL, '[1,2,3,4,5,6,7,8]' FROM generate_series(1, 30) AS g")
    db.execute("INSERT INTO fresh SELECT g FROM generate_series(100, 120) AS g")
    db.execute("SELECT embed.create_vectorizer('fresh', 'body', backfill => false)")
    told = value(db, "SELECT embed.create_index('fresh', min_rows => 10)")
    assert told == "planned: the rows were not counted yet; a worker does, or ANALYZE"
    assert row(db, "SELECT * FROM embed.index_plan('fresh')")["rows"] == 51
    assert IndexBuild(dsn, "fresh").run()
    assert state_of(db, "fresh") == "valid"


def state_of(db: Connection, vectorizer: str) -> str:
    return str(value(db, "SELECT state FROM embed.indexes(%s)", vectorizer))


def test_an_index_waits_for_the_backfill(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    db.execute("SELECT embed.backfill('docs')")
    assert (state(db)["state"], state(db)["explanation"]) == ("planned", "after the backfill")
    assert not IndexBuild(dsn, "docs").run()
    db.execute("DELETE FROM embed._backfill")
    assert IndexBuild(dsn, "docs").run()


def test_a_vectorizer_may_ask_for_it(db: Connection) -> None:
    fill(db, 8, 50, index="hnsw")
    assert state(db)["wanted"] == "hnsw"
    assert state(db)["state"] == "planned"
    assert db.execute("SELECT kind FROM embed._index").fetchall() == [("hnsw",)]


def test_without_a_wish_there_is_no_index(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    assert (state(db)["wanted"], state(db)["state"]) == ("none", "none")
    assert "embed.create_index('docs_embedding')" in state(db)["explanation"]
    assert not IndexBuild(dsn, "docs").run()


def test_an_index_of_the_user_s_own_is_taken(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    db.execute("CREATE INDEX mine ON docs USING hnsw (embedding halfvec_cosine_ops)")
    assert state(db)["state"] == "valid"
    assert value(db, "SELECT embed.create_index('docs', min_rows => 10)").startswith("valid")
    assert not IndexBuild(dsn, "docs").run()
    assert state(db)["index_name"] == "mine"


@pytest.mark.parametrize(
    "other",
    [
        "CREATE INDEX mine ON docs USING hnsw (embedding halfvec_l2_ops)",
        "CREATE INDEX mine ON docs USING hnsw (embedding halfvec_cosine_ops) WHERE id > 10",
        "CREATE INDEX mine ON docs USING ivfflat (embedding halfvec_cosine_ops) WITH (lists = 1)",
    ],
)
def test_an_index_that_does_not_serve_is_not_taken(db: Connection, dsn: str, other: str) -> None:
    fill(db, 8, 50)
    db.execute(other.encode())
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    assert IndexBuild(dsn, "docs").run()
    assert state(db)["index_name"] == "docs_embedding_hnsw"


def test_other_parameters_make_it_stale_and_it_is_replaced(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    assert IndexBuild(dsn, "docs").run()
    told = value(db, "SELECT embed.create_index('docs', 'hnsw', m => 8, ef_construction => 40)")
    assert told.startswith("stale: m = 8, ef_construction = 40 were asked for, and the index has 16 and 64")
    assert IndexBuild(dsn, "docs").run()
    (left,) = hnsw_indexes(db)
    assert "docs_embedding_hnsw_2" in left
    assert "m='8'" in left
    assert state(db)["state"] == "valid"


def test_another_kind_replaces_the_one_of_ours_and_leaves_the_user_s(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    db.execute("CREATE INDEX mine ON docs USING hnsw (embedding halfvec_cosine_ops) WITH (m = 4)")
    db.execute("SELECT embed.create_index('docs', 'hnsw', m => 5)")
    assert IndexBuild(dsn, "docs").run()
    db.execute("SELECT embed.create_index('docs', 'binary')")
    assert state(db)["state"] == "stale"
    assert IndexBuild(dsn, "docs").run()
    assert [definition.split()[2] for definition in hnsw_indexes(db)] == ["docs_embedding_binary", "mine"]
    assert (state(db)["kind"], state(db)["state"]) == ("binary", "valid")


def test_a_table_that_outgrows_its_index_is_stale_and_only_auto_builds_anew(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    for kind, builds in (("hnsw", False), ("auto", True)):
        db.execute("UPDATE pg_class SET reltuples = 50 WHERE relname = 'docs'")
        db.execute("SELECT embed.create_index('docs', %s, min_rows => 10)", [kind])
        IndexBuild(dsn, "docs").run()
        db.execute("UPDATE pg_class SET reltuples = 390000 WHERE relname = 'docs'")
        assert state(db)["state"] == "valid"
        db.execute("UPDATE pg_class SET reltuples = 450000 WHERE relname = 'docs'")
        assert state(db)["state"] == "stale"
        assert "has grown to about 450000 rows" in state(db)["explanation"]
        assert ("pg-embed index docs_embedding" in state(db)["explanation"]) is not builds
        assert IndexBuild(dsn, "docs").run() is builds
    assert "ef_construction='128'" in hnsw_indexes(db)[0]


def test_status_tells_of_the_index(db: Connection, dsn: str) -> None:
    status = "SELECT index_kind, index_state, index_rows, index_error FROM embed.status"
    fill(db, 8, 60)
    assert db.execute(status).fetchone() == ("none", "none", None, None)
    db.execute("SELECT embed.create_index('docs', min_rows => 50)")
    assert db.execute(status).fetchone() == ("hnsw", "planned", None, None)
    assert IndexBuild(dsn, "docs").run()
    assert db.execute(status).fetchone() == ("hnsw", "valid", 60, None)
    add_rows(db, 8, 40)
    assert db.execute(status).fetchone() == ("hnsw", "valid", 60, None)
    number = value(db, "SELECT id FROM embed._vectorizer")
    db.execute("SELECT embed.create_index('docs', 'binary')")
    db.execute("SELECT embed._index_done_v1(%s, 'no room left', false)", [number])
    assert db.execute(status).fetchone() == ("binary", "stale", 60, "no room left")


def test_searches_look_as_far_as_recall_says(db: Connection, dsn: str) -> None:
    leg = "embed._search_legs_v1('docs'::regclass, NULL, 'dense', false) #> '{legs,dense,0,indexed}'"
    depth = f"SELECT seen FROM embed._dense_depth({leg}, 10, 1)"
    fill(db, 64, 2_000)
    db.execute("SELECT embed.create_index('docs', 'binary')")
    assert IndexBuild(dsn, "docs").run()
    assert value(db, depth) == 320
    tried = row(db, "SELECT * FROM embed.recall('docs', 10, 20)")["tried"]
    good = [int(ef) for ef, found in tried.items() if found >= 0.97]
    noted = value(db, "SELECT ef_search FROM embed._index")
    assert noted == (min(good) if good else None)
    assert value(db, depth) == (min(good) if good else 320)
    db.execute("UPDATE embed._index SET ef_search = 40")
    assert value(db, depth) == 40
    db.execute("UPDATE embed._index SET ef_search = 640")
    assert value(db, depth) == 640


def test_none_stops_looking_after_it(db: Connection, dsn: str) -> None:
    fill(db, 8, 50)
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    assert IndexBuild(dsn, "docs").run()
    assert value(db, "SELECT embed.create_index('docs', 'none')") == "valid: nobody asked to look after it"
    db.execute("SELECT embed.drop_vectorizer('docs')")
    assert len(hnsw_indexes(db)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'ivf'", "there is no kind of index 'ivf'"),
        ("NULL", "there is no kind of index NULL"),
        ("'hnsw', m => 1", "m is 1"),
        ("'hnsw', ef_construction => 10", "ef_construction is 10"),
        ("'hnsw', m => 64, ef_construction => 100", "ef_construction is 100"),
        ("'auto', min_rows => -1", "min_rows is -1"),
        ("'auto', memory => '2 apples'", "memory is '2 apples'"),
        ("'auto', memory => '1kB'", "memory is '1kB'"),
        ("'auto', parallel_workers => -1", "parallel_workers is -1"),
    ],
)
def test_what_cannot_be_is_refused(db: Connection, arguments: str, message: str) -> None:
    fill(db, 8, 1)
    code, told, hint = refused(db, f"SELECT embed.create_index('docs', {arguments})")
    assert (code, told) == ("PE003", message)
    assert hint


def test_hnsw_over_4000_dimensions_is_refused_with_the_way_out(db: Connection) -> None:
    fill(db, 4096, 1)
    code, told, hint = refused(db, "SELECT embed.create_index('docs', 'hnsw')")
    assert (code, told) == ("PE003", "pgvector indexes 4000 dimensions at most, and embedding has 4096")
    assert hint == "use 'binary' or 'auto'"
    assert refused(db, "SELECT embed.index_plan('docs', 'hnsw')")[1] == told


def test_a_vectorizer_without_dense_vectors_has_none(db: Connection) -> None:
    create_fake_model(db, dimensions=8, sparse_dimensions=100)
    db.execute("CREATE TABLE words (id bigint PRIMARY KEY, body text)")
    made = "SELECT embed.create_vectorizer('words', 'body', column_name => NULL, sparse_column => 's'{})"
    assert "no column of dense vectors" in refused(db, made.format(", index => 'auto'"))[1]
    db.execute(made.format("").encode())
    assert "no column of dense vectors" in refused(db, "SELECT embed.create_index('words')")[1]
    assert "no column of dense vectors" in refused(db, "SELECT embed.index_plan('words')")[1]
    assert "no column of dense vectors" in refused(db, "SELECT embed.recall('words')")[1]
    assert db.execute("SELECT * FROM embed.indexes").fetchall() == []


def test_the_plan_tells_of_memory_and_processes(db: Connection) -> None:
    fill(db, 384, 20)
    db.execute("UPDATE pg_class SET reltuples = 1000000 WHERE relname = 'docs'")
    db.execute("SET maintenance_work_mem = '64MB'")
    spills = row(db, "SELECT * FROM embed.index_plan('docs')")
    assert (spills["rows"], spills["index_bytes"]) == (1_000_000, 8192 // 7 * 1_000_000)
    assert (
        spills["memory_bytes"] == (160 + 34 * 24 + 8 + 768) * 1_000_000 if "m = 24" in spills["ddl"] else True
    )
    assert "maintenance_work_mem is 64 MB and the graph needs" in spills["remarks"]
    assert "one process" in spills["remarks"]
    db.execute("SELECT embed.create_index('docs', memory => '4GB', parallel_workers => 3)")
    db.execute("ALTER TABLE docs SET (parallel_workers = 3)")
    fits = row(db, "SELECT * FROM embed.index_plan('docs')")
    assert "4 processes" in fits["remarks"]
    assert "spills" not in fits["remarks"]
    assert fits["seconds"] < spills["seconds"] / 5
    assert fits["ddl"].splitlines()[:2] == [
        "SET maintenance_work_mem = '4194304kB';",
        "SET max_parallel_maintenance_workers = 3;",
    ]


def test_a_build_has_the_memory_and_the_workers_that_were_given(
    db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db, 8, 20)
    db.execute("SELECT embed.create_index('docs', 'hnsw', memory => '77MB', parallel_workers => 0)")
    seen: list[tuple[Any, ...]] = []
    builds = IndexBuild._build

    def spy(self: IndexBuild, connection: psycopg.Connection[dict[str, Any]], job: Any) -> None:
        builds(self, connection, job)
        found = connection.execute(
            "SELECT current_setting('maintenance_work_mem') AS m, current_setting('statement_timeout') AS t,"
            " current_setting('max_parallel_maintenance_workers') AS w"
        ).fetchone()
        seen.append(tuple((found or {}).values()))

    monkeypatch.setattr(IndexBuild, "_build", spy)
    assert IndexBuild(f"{dsn} options='-c statement_timeout=10000'", "docs").run()
    assert seen == [("77MB", "0", "0")]


def test_an_estimate_of_bytes_is_what_pgvector_takes(db: Connection, dsn: str) -> None:
    fill(db, 384, 1_500)
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    planned = row(db, "SELECT * FROM embed.index_plan('docs')")
    assert IndexBuild(dsn, "docs").run()
    assert abs(state(db)["bytes"] / planned["index_bytes"] - 1) < 0.05


def test_order_by_embed_uses_the_index_of_auto(db: Connection, dsn: str) -> None:
    fill(db, 3, 5_000)
    assert "hnsw" not in plan(db, NEAREST)
    db.execute("SELECT embed.create_index('docs', min_rows => 1000)")
    assert IndexBuild(dsn, "docs").run()
    assert "docs_embedding_hnsw" in plan(db, NEAREST)
    assert len(db.execute(NEAREST).fetchall()) == 5


@pytest.mark.parametrize(("dimensions", "column_type"), [(2500, "vector"), (4096, "vector")])
def test_the_form_of_a_search_uses_an_index_over_an_expression(
    db: Connection, dsn: str, dimensions: int, column_type: str
) -> None:
    fill(db, dimensions, 300, column_type=column_type)
    db.execute("SELECT embed.create_index('docs', min_rows => 100)")
    assert IndexBuild(dsn, "docs").run()
    best = value(
        db,
        "SELECT f.best FROM embed._recall_target_v1('docs') AS t,"
        " embed._search_forms(t.source, t.attnum, t.metric, t.kind, '$1') AS f",
    )
    query = value(db, "SELECT embedding::text FROM docs WHERE id = 7")
    written = best.replace("$1", f"'{query}'").replace("$2", "1").replace("$3", "16")
    db.execute("SET enable_seqscan = off")  # so few rows
    assert "docs_embedding" in plan(db, written)
    assert value(db, written) == pytest.approx(0, abs=1e-6)


def test_recall_is_one_where_searches_are_exact(db: Connection) -> None:
    fill(db, 8, 60)
    found = row(db, "SELECT * FROM embed.recall('docs', 10, 5)")
    assert (found["recall"], found["index_name"], found["sampled"]) == (1, None, 5)
    assert found["exact_p50_ms"] > 0
    assert found["remarks"] == "no index over the vectors is used: every search is exact"


def test_recall_finds_an_index_that_finds_little_and_suggests_more(db: Connection, dsn: str) -> None:
    fill(db, 32, 4_000)
    db.execute("SELECT embed.create_index('docs', 'hnsw', m => 2, ef_construction => 4)")
    assert IndexBuild(dsn, "docs").run()
    db.execute("SET hnsw.ef_search = 12")
    found = row(db, "SELECT * FROM embed.recall('docs', 10, 100)")
    assert found["ef_search"] == 12
    assert found["recall"] < 0.6
    assert found["tried"]["1000"] > found["tried"]["40"] > float(found["recall"])
    reached = [int(ef) for ef, share in found["tried"].items() if share >= 0.95]
    assert found["ef_search_95"] == (min(reached) if reached else None)
    assert value(db, "SHOW hnsw.ef_search") == "12"
    assert value(db, "SHOW enable_seqscan") == "on"


def test_recall_measures_what_a_second_way_measures(db: Connection, dsn: str) -> None:
    fill(db, 16, 1_500)
    db.execute("SELECT embed.create_index('docs', 'hnsw', m => 4, ef_construction => 16)")
    assert IndexBuild(dsn, "docs").run()
    found = row(db, "SELECT * FROM embed.recall('docs', 10, 1500, seconds => 100)")

    def nearest(setting: str) -> dict[int, set[int]]:
        db.execute(setting)
        rows = db.execute(
            "SELECT q.id, n.id FROM docs AS q, LATERAL (SELECT r.id FROM docs AS r"
            " ORDER BY r.embedding <=> q.embedding LIMIT 11) AS n WHERE n.id <> q.id"
        ).fetchall()
        grouped: dict[int, set[int]] = {}
        for query, neighbour in rows:
            grouped.setdefault(query, set()).add(neighbour)
        return grouped

    db.execute("SET hnsw.ef_search = 40")
    exact = nearest("SET enable_indexscan = off")
    by_index = nearest("SET enable_indexscan = on; SET enable_seqscan = off; SET enable_sort = off")
    shares = [len(by_index.get(query, set()) & exact[query]) / 10 for query in exact]
    assert float(found["recall"]) == pytest.approx(sum(shares) / len(shares), abs=0.01)


def test_recall_is_bounded_in_time(db: Connection, dsn: str) -> None:
    fill(db, 64, 3_000)
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    assert IndexBuild(dsn, "docs").run()
    found = row(db, "SELECT * FROM embed.recall('docs', 10, 3000, seconds => 0.1)")
    assert 1 <= found["sampled"] < 1_000
    assert "the time was over" in found["remarks"] or found["ef_search_99"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("k => 0", "k is 0"),
        ("samples => 0", "samples is 0"),
        ("seconds => 0", "seconds is 0"),
        ("k => NULL", "k is "),
    ],
)
def test_recall_refuses_what_cannot_be(db: Connection, arguments: str, message: str) -> None:
    fill(db, 8, 1)
    assert refused(db, f"SELECT * FROM embed.recall('docs', {arguments})")[:2] == ("PE003", message)


def test_recall_of_no_vectors_says_so(db: Connection) -> None:
    fill(db, 8, 0)
    assert refused(db, "SELECT * FROM embed.recall('docs')")[1] == "no row of public.docs has a vector yet"


@pytest.fixture
def parts(db: Connection) -> Connection:
    """`parts`, partitioned on two levels; in one partition the columns stand in another order."""
    db.execute("CREATE TABLE parts (id bigint PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (101) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE parts_a_1 PARTITION OF parts_a FOR VALUES FROM (0) TO (51)")
    db.execute("CREATE TABLE parts_a_2 PARTITION OF parts_a DEFAULT")
    fill(db, 8, 0, table="parts")
    db.execute('CREATE TABLE "Parts b" (embedding halfvec(8), body text, id bigint NOT NULL PRIMARY KEY)')
    db.execute('ALTER TABLE parts ATTACH PARTITION "Parts b" DEFAULT')
    add_rows(db, 8, 400, table="parts")
    db.execute("UPDATE embed._vectorizer SET partitions = (SELECT array_agg(clone ORDER BY clone)"
               " FROM embed._partitions(id, source))")  # fmt: skip
    return db


def test_a_partitioned_table_is_indexed_part_by_part(parts: Connection, dsn: str) -> None:
    parts.execute("SELECT embed.create_index('parts', min_rows => 100)")
    planned = row(parts, "SELECT * FROM embed.index_plan('parts')")
    assert planned["rows"] == 400
    lines = planned["ddl"].splitlines()
    assert sum(line.startswith("CREATE INDEX CONCURRENTLY") for line in lines) == 3
    assert sum(" ON ONLY " in line for line in lines) == 2
    assert sum("ATTACH PARTITION" in line for line in lines) == 4
    assert IndexBuild(dsn, "parts").run()
    assert (state(parts)["state"], state(parts)["index_name"]) == ("valid", "parts_embedding_hnsw")
    assert state(parts)["bytes"] > 3 * 8192
    assert not value(parts, "SELECT bool_or(NOT indisvalid) FROM pg_index")
    parts.execute("CREATE TABLE parts_c PARTITION OF parts FOR VALUES FROM (1000) TO (2000)")
    assert state(parts)["state"] == "valid"
    assert row(parts, "SELECT * FROM embed.recall('parts', 5, 10)")["recall"] >= 0.9


def test_a_build_over_partitions_goes_on_where_it_stopped(parts: Connection, dsn: str) -> None:
    parts.execute("SELECT embed.create_index('parts', 'hnsw')")
    steps = value(parts, "SELECT statements FROM embed._index_todo()")
    for step in steps[:4]:
        parts.execute(step.encode())
    assert state(parts)["state"] == "planned"
    left = value(parts, "SELECT statements FROM embed._index_todo()")
    assert left == steps[4:]
    assert IndexBuild(dsn, "parts").run()
    assert state(parts)["state"] == "valid"
    parts.execute("SELECT embed.create_index('parts', 'hnsw', m => 8)")
    assert IndexBuild(dsn, "parts").run()
    assert (state(parts)["state"], state(parts)["index_name"]) == ("valid", "parts_embedding_hnsw_2")
    assert (
        value(parts, "SELECT count(*) FROM pg_class WHERE relkind IN ('i', 'I') AND relname LIKE '%_hnsw'")
        == 0
    )


@pytest.fixture
def reader(db: Connection, make_role: MakeRole) -> Iterator[Connection]:
    """A connection of a role that is only embed_reader."""
    with psycopg.connect(make_role("embed_reader").dsn, autocommit=True) as connection:
        yield connection


def test_a_reader_sees_indexes_and_measures_only_what_it_may_read(
    db: Connection, dsn: str, reader: Connection
) -> None:
    fill(db, 8, 60)
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    assert IndexBuild(dsn, "docs").run()
    assert state(reader)["state"] == "valid"
    assert row(reader, "SELECT * FROM embed.index_plan('docs')")["state"] == "valid"
    assert refused(reader, "SELECT * FROM embed.recall('docs')")[0] == "42501"
    db.execute("GRANT SELECT (embedding) ON docs TO embed_reader")
    assert row(reader, "SELECT * FROM embed.recall('docs', 5, 5)")["recall"] >= 0.9


def test_names_are_quoted(db: Connection, dsn: str) -> None:
    fill(db, 8, 0)
    db.execute('CREATE SCHEMA "my s"')
    db.execute('CREATE TABLE "my s"."A ""b" (id bigint PRIMARY KEY, body text, "e E(" halfvec(8))')
    db.execute(
        """INSERT INTO "my s"."A ""b" SELECT g, NULL, '[1,2,3,4,5,6,7,8]' FROM generate_series(1, 9) AS g"""
    )
    db.execute(
        """SELECT embed.create_vectorizer('"my s"."A ""b"', 'body', column_name => 'e E(', name => 'o''dd',"""
        " backfill => false, index => 'hnsw')"
    )
    assert IndexBuild(dsn, "o'dd").run()
    assert state_of(db, "o'dd") == "valid"
