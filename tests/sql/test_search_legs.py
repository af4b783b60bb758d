"""The legs of embed.search by every kind of index find what an exact pass finds, whatever is filtered."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.fix_pg import MakeRole
from tests.fix_search import answer, create_docs, fill, play_sidecar, texts, vectorize
from tests.fix_worker import Connection
from tests.sql.helpers import refused, value

QUERY = "quick red fox 7"
COUNT = 300
INDEXES = {
    "hnsw": "hnsw (embedding vector_cosine_ops)",
    "ivfflat": "ivfflat (embedding vector_cosine_ops) WITH (lists = 1)",
    "halfvec": "hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)",
    "binary": "hnsw ((binary_quantize(embedding)::bit(8)) bit_hamming_ops)",
    "partial": "hnsw (embedding vector_cosine_ops) WHERE embedding IS NOT NULL",
}
# every second row, every twentieth, two of them, none; and what chance has nothing to do with
FILTERS = (
    "NULL",
    """'{"year": {">=": 2012}}'""",
    """'{"tags": {"contains": ["t3", "t6"]}}'""",
    """'{"id": {"in": [3, 299]}}'""",
    """'{"year": 1}'""",
    """'{"body": {"like": "%lazy%"}}'""",
)
KIND = "SELECT embed._leg_index('docs'::regclass, attnum, %s) ->> 'kind' FROM pg_attribute" + (
    " WHERE attrelid = 'docs'::regclass AND attname = 'embedding'"
)
SCANS = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'by_vector'"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 300 rows, both their vectors, and postings."""
    create_docs(db, COUNT)
    answer(db, QUERY)
    db.execute("SELECT embed.create_postings('docs')")
    db.execute("ANALYZE docs")
    return db


def search(db: Connection, mode: str, filter: str, k: int = 10, exact: bool = False) -> list[Any]:
    """Ids and scores, in one exact pass or by the indexes."""
    db.execute(f"SET embed.exact_rows = {10**9 if exact else 0}".encode())
    statement = (
        "SELECT (hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score"
        f" FROM embed.search(NULL::docs, '{QUERY}', mode => '{mode}', k => {k}, filter => {filter})"
    )
    return db.execute(statement.encode()).fetchall()


def same(found: list[Any], right: list[Any]) -> bool:
    """Whether rows and scores are the same, but for the last digits."""
    return [row[0] for row in found] == [row[0] for row in right] and all(
        one == pytest.approx(other, abs=1e-5)
        for new, old in zip(found, right, strict=True)
        for one, other in zip(new[1:], old[1:], strict=True)
    )


def scans(db: Connection) -> int:
    db.execute("SELECT pg_stat_force_next_flush()")
    return int(value(db, SCANS))


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
@pytest.mark.parametrize("index", INDEXES)
def test_every_kind_of_index_finds_the_exact_answer(docs: Connection, index: str, mode: str) -> None:
    docs.execute(f"CREATE INDEX by_vector ON docs USING {INDEXES[index]}".encode())
    for filter in FILTERS:
        for k in (10,) if index == "binary" else (10, 40):  # eight signs tell little
            before = scans(docs)
            found = search(docs, mode, filter, k)
            # once more with the condition, where too few of the nearest meet it
            assert (scans(docs) > before) == (mode != "sparse")
            assert same(found, search(docs, mode, filter, k, exact=True)), (filter, k)


@pytest.mark.parametrize("index", ["hnsw", "halfvec", "binary"])
def test_the_statement_reads_by_the_index(docs: Connection, index: str) -> None:
    docs.execute(f"CREATE INDEX by_vector ON docs USING {INDEXES[index]}".encode())
    plan = value(
        docs,
        "SELECT embed._search_plan('docs'::regtype, 10, 'dense', NULL, 'convex', NULL, 100, NULL, NULL,"
        " NULL)",
    )
    statement = value(docs, "SELECT embed._search_statement(%s::jsonb, false)", Jsonb(plan))
    docs.execute("SET enable_sort = off; SET plan_cache_mode = force_custom_plan")
    types = "text, text, text[], int, int, float8[], float8, text, text, int, text[]"
    docs.execute(f"PREPARE s ({types}) AS {statement}".encode())
    call = "EXPLAIN EXECUTE s ('[1,2,3,4,5,6,7,8]', NULL, '{}', 10, 10, '{1,1}', NULL, NULL, NULL, 10, NULL)"
    lines = [line for (line,) in docs.execute(call.encode())]
    assert any("Index Scan using by_vector on docs" in line for line in lines)


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_other_metrics_have_their_indexes(docs: Connection, metric: str) -> None:
    docs.execute("UPDATE embed._model SET metric = %s", [metric])
    for index in ("hnsw", "halfvec", "binary"):
        made = INDEXES[index].replace("cosine", metric)
        docs.execute("DROP INDEX IF EXISTS by_vector")
        docs.execute(f"CREATE INDEX by_vector ON docs USING {made}".encode())
        assert value(docs, KIND, metric) is not None
        assert same(search(docs, "dense", "NULL"), search(docs, "dense", "NULL", exact=True))


@pytest.mark.parametrize(
    "index",
    [
        "hnsw (embedding vector_l2_ops)",
        "hnsw ((embedding::halfvec(8)) halfvec_l2_ops)",
        "hnsw ((subvector(embedding, 1, 4)::vector(4)) vector_cosine_ops)",
        "hnsw ((binary_quantize(embedding)::bit(8)) bit_jaccard_ops)",
        "hnsw ((binary_quantize(- embedding)::bit(8)) bit_hamming_ops)",
    ],
)
def test_an_index_of_something_else_is_not_counted_on(docs: Connection, index: str) -> None:
    if "- embedding" in index:
        docs.execute(
            "CREATE OPERATOR - (RIGHTARG = vector, FUNCTION = l2_normalize)"
        )  # any that makes another vector of it
    docs.execute(f"CREATE INDEX by_vector ON docs USING {index}".encode())
    assert value(docs, KIND, "cosine") is None
    before = scans(docs)
    assert same(search(docs, "dense", "NULL"), search(docs, "dense", "NULL", exact=True))
    assert scans(docs) == before


def test_the_index_that_holds_most_of_a_vector_is_taken(docs: Connection) -> None:
    for index, kind in (
        ("binary", "binary"),
        ("halfvec", "halfvec"),
        ("partial", "halfvec"),
        ("hnsw", "column"),
    ):
        docs.execute(f"CREATE INDEX ON docs USING {INDEXES[index]}".encode())
        assert value(docs, KIND, "cosine") == kind


@pytest.mark.parametrize("index", ["hnsw", "halfvec", "binary"])
def test_a_partial_index_is_used_where_it_holds_all_that_is_wanted(docs: Connection, index: str) -> None:
    docs.execute(f"CREATE INDEX by_vector ON docs USING {INDEXES[index]} WHERE lang = 'en'".encode())
    for filter, used in (
        ("""'{"lang": "en"}'""", 1),
        ("""'{"lang": "en", "year": {">": 2010}}'""", 1),
        ("""'{"lang": "de"}'""", 0),
        ("""'{"lang": ["en", "de"]}'""", 0),
        ("NULL", 0),
    ):
        for mode in ("dense", "hybrid"):
            before = scans(docs)
            found = search(docs, mode, filter)
            assert (scans(docs) > before) == used
            assert same(found, search(docs, mode, filter, exact=True))


def test_partitions_have_indexes_over_expressions_too(db: Connection) -> None:
    play_sidecar(db)
    answer(db, QUERY)
    db.execute("CREATE TABLE docs (id bigint, body text, year int, PRIMARY KEY (id)) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE docs_low PARTITION OF docs FOR VALUES FROM (0) TO (150)")
    db.execute("CREATE TABLE docs_high PARTITION OF docs FOR VALUES FROM (150) TO (1000)")
    vectorize(db, "docs")
    db.cursor().executemany(
        "INSERT INTO docs (id, body, year) VALUES (%s, %s, %s)",
        [(number, text, 2000 + number % 25) for number, text in enumerate(texts(COUNT))],
    )
    fill(db, "docs")
    db.execute("SELECT embed.create_postings('docs')")
    db.execute(f"CREATE INDEX ON docs USING {INDEXES['binary']}".encode())
    db.execute("ANALYZE docs")
    assert value(db, KIND, "cosine") == "binary"
    for mode in ("dense", "sparse", "hybrid"):
        for filter in ("NULL", """'{"year": {">=": 2012}}'"""):
            assert same(search(db, mode, filter), search(db, mode, filter, exact=True))


@pytest.mark.parametrize("key", ["text", "two columns"])
def test_postings_of_any_key_are_filtered(db: Connection, key: str) -> None:
    play_sidecar(db)
    answer(db, QUERY)
    columns = {
        "text": "id text PRIMARY KEY",
        "two columns": "id text, no int DEFAULT 7, PRIMARY KEY (id, no)",
    }
    db.execute(f"CREATE TABLE docs ({columns[key]}, body text, year int)".encode())
    vectorize(db, "docs")
    db.cursor().executemany(
        "INSERT INTO docs (id, body, year) VALUES (%s, %s, %s)",
        [(f"'{number:03}", text, number % 20) for number, text in enumerate(texts(COUNT))],
    )
    fill(db, "docs")
    db.execute("SELECT embed.create_postings('docs')")
    db.execute("ANALYZE docs")
    for filter in ("NULL", """'{"year": 3}'""", """'{"year": {">": 9}}'"""):
        assert same(search(db, "sparse", filter), search(db, "sparse", filter, exact=True))


def test_deleted_and_changed_rows_are_made_up_for(docs: Connection) -> None:
    docs.execute(f"CREATE INDEX by_vector ON docs USING {INDEXES['hnsw']}".encode())
    docs.execute("ALTER TABLE docs SET (autovacuum_enabled = off)")
    docs.execute("DELETE FROM docs WHERE id % 3 = 0")
    docs.execute("UPDATE docs SET year = 1 WHERE id % 3 = 1")
    for mode in ("dense", "sparse", "hybrid"):
        for k in (10, 90):
            assert same(search(docs, mode, "NULL", k), search(docs, mode, "NULL", k, exact=True))


def test_postings_show_a_role_the_rows_that_it_may_see(docs: Connection, make_role: MakeRole) -> None:
    docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs.execute("CREATE POLICY few ON docs FOR SELECT USING (id % 20 = 7)")
    role = make_role("embed_reader")
    docs.execute(f'GRANT SELECT ON docs TO "{role.name}"')
    docs.execute(f"CREATE INDEX by_vector ON docs USING {INDEXES['halfvec']}".encode())
    with psycopg.connect(role.dsn, autocommit=True) as reader:
        for mode in ("dense", "sparse", "hybrid"):
            for filter in FILTERS:
                found = search(reader, mode, filter, 20)
                assert same(found, search(reader, mode, filter, 20, exact=True))
                assert all(row[0] % 20 == 7 for row in found)
        assert len(search(reader, "dense", "NULL", 20)) == COUNT // 20


def test_a_row_like_another_is_found_by_the_same_indexes(docs: Connection) -> None:
    docs.execute(f"CREATE INDEX by_vector ON docs USING {INDEXES['binary']}".encode())
    statement = "SELECT (hit).id, score FROM embed.similar(NULL::docs, '7', filter => '{\"lang\": \"en\"}')"
    docs.execute("SET embed.exact_rows = 0")
    before = scans(docs)
    found = docs.execute(statement.encode()).fetchall()
    assert 1 <= scans(docs) - before <= 2
    docs.execute("SET embed.exact_rows = 1000000")
    assert found == docs.execute(statement.encode()).fetchall()


def test_settings_are_those_of_before(docs: Connection) -> None:
    docs.execute(f"CREATE INDEX by_vector ON docs USING {INDEXES['hnsw']}".encode())
    docs.execute("SELECT '[1]'::vector; SET hnsw.max_scan_tuples = 777; SET enable_sort = on")
    with docs.transaction():
        search(docs, "dense", """'{"lang": "en"}'""")
        assert value(docs, "SHOW hnsw.max_scan_tuples") == "777"
        assert value(docs, "SHOW enable_sort") == "on"
        assert value(docs, "SHOW hnsw.iterative_scan") == "off"


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
@pytest.mark.parametrize("condition", ["id > 150", "key > 150", "more", "id > 150 AND year > 2000"])
def test_a_condition_s_columns_need_no_table(docs: Connection, condition: str, mode: str) -> None:
    """As those that SQLAlchemy and Django write: `id` is the key of postings, too."""
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    docs.execute("ALTER TABLE docs ADD key int, ADD more boolean, ADD score real, ADD f int, ADD n int")
    docs.execute("UPDATE docs SET key = id, more = id > 150")
    docs.execute("SET enable_seqscan = off")
    statement = (
        "SELECT (hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score FROM embed._search_v1("
        "NULL::docs, %s, 10, %s, NULL, 'convex', NULL, 100, NULL, NULL, NULL, %s)"
    )
    docs.execute("SET embed.exact_rows = 0")
    found = docs.execute(statement, [QUERY, mode, condition]).fetchall()
    docs.execute("SET embed.exact_rows = 1000000")
    assert same(found, docs.execute(statement, [QUERY, mode, condition]).fetchall())
    assert len(found) == 10
    assert all(row[0] > 150 for row in found)


def test_a_setting_of_pgvector_that_was_made_before_its_first_use_is_no_harm(
    docs: Connection, dsn: str
) -> None:
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    told = "SELECT embed.explain_search(NULL::docs, mode => 'dense') -> 'settings'"
    with psycopg.connect(dsn, autocommit=True) as fresh:
        fresh.execute("SET embed.exact_rows = 0; SET hnsw.ef_search = 77")
        settings = value(fresh, told)
    assert settings["hnsw.ef_search"] == "77"
    assert settings["hnsw.iterative_scan"] == settings["ivfflat.iterative_scan"] == "relaxed_order"


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_a_table_that_has_no_partition_yet_is_an_empty_one(docs: Connection, mode: str) -> None:
    docs.execute("CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    vectorize(docs, "parts")
    docs.execute("CREATE INDEX ON parts USING hnsw (embedding vector_cosine_ops)")
    docs.execute("SELECT embed.create_postings('parts')")
    statement = "SELECT (hit).id FROM embed.search(NULL::parts, %s, mode => %s)"
    assert docs.execute(statement, [QUERY, mode]).fetchall() == []
    told = value(docs, "SELECT embed.explain_search(NULL::parts, mode => %s)", mode)
    assert (told["rows"], told["exact"]) == (0, True)
    docs.execute("CREATE TABLE parts_1 PARTITION OF parts DEFAULT")
    docs.execute("INSERT INTO parts SELECT id, body FROM docs WHERE id < 20")
    fill(docs, "parts")
    assert docs.execute(statement, [QUERY, mode]).fetchall()


def test_a_number_of_rows_that_is_none_is_told(docs: Connection) -> None:
    docs.execute("SET embed.exact_rows = 'few'")
    told = refused(docs, f"SELECT * FROM embed.search(NULL::docs, '{QUERY}')")
    assert told == ("PE003", "embed.exact_rows is 'few'", "set it to a number of rows, without a unit")
