"""Postings equal the column, whoever writes it and however; searches equal the operator."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from psycopg import sql

from pg_embed.install import install, uninstall
from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_fake_model
from tests.sql.helpers import refused, value

DIMENSIONS = 50
TABLES = {
    "whole": "CREATE TABLE docs (id int PRIMARY KEY, body text)",
    "text": "CREATE TABLE docs (id text PRIMARY KEY, body text)",
    "two columns": "CREATE TABLE docs (id int, day date DEFAULT '2026-01-31', body text,"
    " PRIMARY KEY (day, id))",
    "partitioned": "CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)",
}
PARTS = """
    CREATE TABLE docs_low PARTITION OF docs FOR VALUES FROM (0) TO (100);
    CREATE TABLE docs_high (body text, gone int, id int NOT NULL);
    ALTER TABLE docs_high DROP COLUMN gone;
    ALTER TABLE docs ATTACH PARTITION docs_high FOR VALUES FROM (100) TO (10000);
"""
# what stands in one of them and not in the other, whatever the key
DIFFERENCE = """
    WITH kept AS (SELECT p.term, {key} AS key, p.weight FROM embed.{postings} AS p {join}),
    due AS (
        SELECT t.term, {document} AS key, t.weight
        FROM {table} AS d CROSS JOIN LATERAL (
            SELECT * FROM embed._sparse_terms(d.{column}::text) UNION ALL SELECT 0, 0::real
        ) AS t WHERE d.{column} IS NOT NULL
    )
    SELECT count(*) FROM (
        (SELECT * FROM kept EXCEPT ALL SELECT * FROM due)
        UNION ALL (SELECT * FROM due EXCEPT ALL SELECT * FROM kept)
    ) AS different
"""


def vectorizer(db: Connection) -> int:
    return int(value(db, "SELECT id FROM embed._vectorizer"))


def difference(db: Connection, table: str = "docs", column: str = "words") -> int:
    """How many postings are too many or too few."""
    where = "FROM embed._vectorizer WHERE source = %s::regclass"
    number = value(db, f"SELECT id {where}", table)
    name = f"_postings_{number}"
    has_keys = value(db, "SELECT to_regclass(%s) IS NOT NULL", f"embed.{name}_key")
    names = {
        "postings": sql.Identifier(name),
        "key": sql.SQL("k.key" if has_keys else "p.id::text"),
        "join": sql.SQL("JOIN embed.{} AS k ON k.id = p.id").format(sql.Identifier(f"{name}_key"))
        if has_keys
        else sql.SQL(""),
        "document": sql.SQL(value(db, f"SELECT embed._key_text(source, key_columns, 'd') {where}", table)),
        "table": sql.SQL(table),
        "column": sql.Identifier(column),
    }
    row = db.execute(sql.SQL(DIFFERENCE).format(**names)).fetchone()
    return int(row[0]) if row else -1


def spelled(random: np.random.Generator) -> str:
    """A random sparse vector as pgvector reads it; small terms are frequent."""
    terms = np.unique(np.minimum(random.geometric(0.15, 8), DIMENSIONS))
    weights = random.choice([0.25, 0.5, 1.0, 1.7, 2.3], len(terms))
    return "{" + ",".join(f"{t}:{w}" for t, w in zip(terms, weights, strict=True)) + f"}}/{DIMENSIONS}"


def fill(db: Connection, count: int = 30, first: int = 0, seed: int = 1) -> None:
    random = np.random.default_rng(seed)
    with db.cursor().copy("COPY docs (id, body, words) FROM STDIN") as copy:
        for number in range(first, first + count):
            copy.write_row([number, "text", spelled(random) if number % 7 else None])


def make(db: Connection, table: str = "whole") -> None:
    db.execute(TABLES[table])
    if table == "partitioned":
        db.execute(PARTS)
    create_fake_model(db, sparse_dimensions=DIMENSIONS)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', sparse_column => 'words')")


@pytest.fixture(params=list(TABLES))
def docs(db: Connection, request: pytest.FixtureRequest) -> Connection:
    """A table with sparse vectors and postings, by the kind of its key."""
    make(db, request.param)
    fill(db)
    db.execute("SELECT embed.create_postings('docs')")
    return db


@pytest.fixture
def whole(db: Connection) -> Connection:
    """The same, of a key that is a whole number."""
    make(db)
    fill(db)
    db.execute("SELECT embed.create_postings('docs')")
    return db


def test_rows_that_were_there_have_postings(docs: Connection) -> None:
    assert difference(docs) == 0
    assert value(docs, f"SELECT count(*) FROM embed._postings_{vectorizer(docs)}") > 30


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE docs SET words = '{{2:0.5,9:3}}/{DIMENSIONS}'",
        "UPDATE docs SET words = NULL WHERE id::text > '2'",
        f"UPDATE docs SET words = '{{}}/{DIMENSIONS}' WHERE id::text < '2'",
        f"UPDATE docs SET words = '{{5:1}}/{DIMENSIONS}' WHERE words IS NULL",
        "UPDATE docs SET body = 'another'",
        "UPDATE docs SET id = (id::int + 1000)::text::varchar::int::text::{type}",
        "DELETE FROM docs WHERE id::text LIKE '1%'",
        "DELETE FROM docs",
        "TRUNCATE docs",
        "BEGIN; DELETE FROM docs; ROLLBACK",
        "BEGIN; TRUNCATE docs; ROLLBACK",
    ],
)
def test_postings_follow_every_change(docs: Connection, change: str) -> None:
    kind = value(
        docs,
        "SELECT data_type FROM information_schema.columns WHERE table_name = 'docs' AND column_name = 'id'",
    )
    docs.execute(change.replace("{type}", kind))
    assert difference(docs) == 0


def test_postings_follow_a_copy_an_upsert_and_a_savepoint(docs: Connection) -> None:
    fill(docs, 20, first=50, seed=2)
    assert difference(docs) == 0
    docs.execute(
        f"MERGE INTO docs AS d USING (VALUES (1), (99)) AS n(id) ON d.id::text = n.id::text"
        f" WHEN MATCHED THEN UPDATE SET words = '{{1:1}}/{DIMENSIONS}'"
        f" WHEN NOT MATCHED THEN INSERT (id, words) VALUES (n.id, '{{2:2}}/{DIMENSIONS}')"
    )
    assert difference(docs) == 0
    with docs.transaction():
        docs.execute("UPDATE docs SET words = NULL WHERE id::text = '1'")
        with docs.transaction() as inner:
            docs.execute("DELETE FROM docs WHERE id::text < '3'")
            raise psycopg.Rollback(inner)
    assert difference(docs) == 0


def test_a_row_that_moves_to_another_partition_takes_its_postings_along(db: Connection) -> None:
    make(db, "partitioned")
    db.execute("SELECT embed.create_postings('docs')")
    fill(db)
    db.execute("UPDATE docs SET id = id + 500 WHERE id > 20")
    assert value(db, "SELECT count(*) FROM docs_high") > 5
    assert difference(db) == 0


@pytest.mark.parametrize("key", ["int", "text"])
def test_postings_of_partitions_that_came_or_went_are_mended_by_a_worker(
    db: Connection, make_role: MakeRole, key: str
) -> None:
    db.execute(f"CREATE TABLE docs (id {key} PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    for first, last in (("0", "2"), ("2", "4")):
        db.execute(f"CREATE TABLE docs_{first} PARTITION OF docs FOR VALUES FROM ('{first}') TO ('{last}')")
    create_fake_model(db, sparse_dimensions=DIMENSIONS)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', sparse_column => 'words')")
    db.execute("SELECT embed.create_postings('docs')")
    db.execute(
        f"INSERT INTO docs (id, words) SELECT n, '{{1:1,2:1}}/{DIMENSIONS}' FROM generate_series(0, 3) AS n"
    )
    db.execute("CREATE TABLE docs_5 (LIKE docs INCLUDING INDEXES)")
    db.execute(f"INSERT INTO docs_5 (id, words) VALUES ('5', '{{3:1}}/{DIMENSIONS}'), ('6', NULL)")
    db.execute("ALTER TABLE docs ATTACH PARTITION docs_5 FOR VALUES FROM ('5') TO ('7')")
    db.execute("DROP TABLE docs_2")
    assert difference(db) == 8  # 3 of each of two rows that went, 2 of one that came
    number = vectorizer(db)
    with psycopg.connect(make_role("embed_worker").dsn, autocommit=True) as worker:
        assert not value(worker, "SELECT embed._mend_postings_v1(%s)", number)
        worker.execute("SELECT embed._tend_v1()")
        assert value(worker, "SELECT embed._mend_postings_v1(%s)", number)
        assert difference(db) == 0
        assert not value(worker, "SELECT embed._mend_postings_v1(%s)", number)


def test_a_renamed_column_neither_stops_writers_nor_loses_postings(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs RENAME COLUMN words TO lost")
    docs.execute("ALTER TABLE docs RENAME COLUMN body TO words")
    docs.execute(f"UPDATE docs SET lost = '{{3:1}}/{DIMENSIONS}' WHERE id::text > '2'")
    docs.execute("DELETE FROM docs WHERE id::text = '4'")
    docs.execute("ALTER TABLE docs RENAME COLUMN words TO body")
    docs.execute("ALTER TABLE docs RENAME COLUMN lost TO words")
    assert difference(docs) == 0


def test_maintenance_writes_their_trigger_anew(docs: Connection) -> None:
    """After a rename, and in a restored database, where the types of pgvector have other numbers."""
    stale = f"SELECT embed._posting_is_stale({vectorizer(docs)})"
    function = f"embed._post_{vectorizer(docs)}()"
    sparsevec = value(docs, "SELECT 'sparsevec'::regtype::oid")
    assert not value(docs, stale)
    for _ in range(2):
        if value(docs, "SELECT count(*) FROM pg_attribute WHERE attname = 'words'"):
            docs.execute("ALTER TABLE docs RENAME COLUMN words TO lost")
        else:
            body = value(docs, "SELECT pg_get_functiondef(%s::regprocedure)", function)
            docs.execute(body.replace(f"'lost', {sparsevec})", "'lost', 1)"))
        assert value(docs, stale)
        docs.execute(f"UPDATE docs SET lost = '{{3:1}}/{DIMENSIONS}' WHERE id::text > '2'")
        docs.execute("SELECT embed._tend_v1()")
        assert not value(docs, stale)
        docs.execute(f"UPDATE docs SET lost = '{{4:2,9:1}}/{DIMENSIONS}' WHERE id::text < '2'")
        assert difference(docs, column="lost") == 0


def test_made_anew_they_are_the_same_and_dropped_they_leave_nothing(docs: Connection) -> None:
    number = vectorizer(docs)
    docs.execute("SELECT embed.create_postings('docs')")
    assert difference(docs) == 0
    docs.execute("SELECT embed.drop_postings('docs')")
    docs.execute("DELETE FROM docs")
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE %s"
    assert value(docs, left, f"_postings_{number}%") == 0
    docs.execute("SELECT embed.create_postings('docs')")
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    assert value(docs, left, f"_postings_{number}%") == 0
    assert value(docs, "SELECT count(*) FROM pg_proc WHERE proname LIKE '\\_post\\_%'") == 0
    assert value(docs, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%posting%'") == 0


def test_postings_go_with_their_table(whole: Connection) -> None:
    whole.execute("DROP TABLE docs")
    whole.execute("SELECT embed._tend_v1()")
    assert value(whole, "SELECT count(*) FROM pg_class WHERE relname ~ '^_postings_[0-9]'") == 0


def test_a_vectorizer_without_sparse_vectors_has_no_postings(db: Connection) -> None:
    create_fake_model(db)
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    code, message, _ = refused(db, "SELECT embed.create_postings('docs')")
    assert code == "PE003"
    assert "no sparse vectors" in message


TOP = "SELECT key, score::float8 FROM embed._sparse_top_v1(%s, %s, %s)"


def brute(db: Connection, query: str, most: int) -> list[tuple[str, float]]:
    key = value(db, "SELECT embed._key_text(source, key_columns, 'd') FROM embed._vectorizer")
    statement = sql.SQL(
        "SELECT {}, -(d.words <#> %(query)s::sparsevec) AS score FROM docs AS d"
        " WHERE d.words <#> %(query)s::sparsevec < 0 ORDER BY score DESC LIMIT %(most)s"
    ).format(sql.SQL(key))
    return [(str(k), float(score)) for k, score in db.execute(statement, {"query": query, "most": most})]


def same_ranking(found: list[tuple[str, float]], right: list[tuple[str, float]]) -> None:
    """The same scores in the same order; keys may change places where scores are equal."""
    assert np.allclose([score for _, score in found], [score for _, score in right], rtol=1e-5)
    last = right[-1][1] if right else 0
    assert {key for key, score in found if score > last * 1.0001} == {
        key for key, score in right if score > last * 1.0001
    }


@pytest.mark.parametrize("has_postings", [True, False])
def test_the_best_rows_are_those_of_the_operator(docs: Connection, has_postings: bool) -> None:
    fill(docs, 40, first=100, seed=3)
    if not has_postings:
        docs.execute("SELECT embed.drop_postings('docs')")
    random = np.random.default_rng(4)
    for _ in range(10):
        query = spelled(random)
        found = docs.execute(TOP, [vectorizer(docs), query, 10]).fetchall()
        same_ranking([(key, float(score)) for key, score in found], brute(docs, query, 10))


def test_a_budget_that_is_too_small_for_all_postings_still_finds_nearly_the_best(whole: Connection) -> None:
    fill(whole, 3_000, first=1_000, seed=5)
    random = np.random.default_rng(6)
    found = right = 0
    for _ in range(10):
        query = spelled(random)
        best = {key for key, _ in brute(whole, query, 10)}
        rows = whole.execute(
            "SELECT key FROM embed._sparse_ids_v1(%s, %s, 10, budget => 1500)", [vectorizer(whole), query]
        )
        scores = [
            value(whole, "SELECT -(words <#> %s::sparsevec) FROM docs WHERE id = %s", query, row[0])
            for row in rows
        ]
        worst = min(
            value(whole, "SELECT -(words <#> %s::sparsevec) FROM docs WHERE id = %s", query, key)
            for key in best
        )
        found += sum(score >= worst * 0.9999 for score in scores)
        right += len(best)
    assert found >= 0.95 * right


def test_without_its_triggers_an_index_is_not_trusted(whole: Connection) -> None:
    whole.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    whole.execute(f"UPDATE docs SET words = '{{7:1}}/{DIMENSIONS}' WHERE id = 3")
    assert difference(whole) > 0
    found = whole.execute(TOP, [vectorizer(whole), f"{{7:1}}/{DIMENSIONS}", 100]).fetchall()
    same_ranking(found, brute(whole, f"{{7:1}}/{DIMENSIONS}", 100))
    whole.execute("ALTER TABLE docs ENABLE TRIGGER USER")
    whole.execute("SELECT embed.create_postings('docs')")
    assert difference(whole) == 0


def test_an_empty_query_and_no_rows_wanted_find_nothing(whole: Connection) -> None:
    assert whole.execute(TOP, [vectorizer(whole), f"{{}}/{DIMENSIONS}", 10]).fetchall() == []
    assert whole.execute(TOP, [vectorizer(whole), None, 10]).fetchall() == []
    assert whole.execute(TOP, [vectorizer(whole), f"{{1:1}}/{DIMENSIONS}", 0]).fetchall() == []


COUNTS = "SELECT embed._posting_counts_v1(%s, '{0,1,2}')"


def test_counts_follow_at_once_while_terms_are_rare(whole: Connection) -> None:
    number = vectorizer(whole)
    whole.execute("TRUNCATE docs")
    whole.execute(
        f"INSERT INTO docs (id, words) SELECT n, '{{1:1}}/{DIMENSIONS}' FROM generate_series(1, 9) AS n"
    )
    assert value(whole, COUNTS, number) == [9, 9, 0]
    whole.execute(f"UPDATE docs SET words = '{{2:1}}/{DIMENSIONS}' WHERE id < 4")
    assert value(whole, COUNTS, number) == [9, 6, 3]
    whole.execute("DELETE FROM docs WHERE id = 9")
    assert value(whole, COUNTS, number) == [8, 5, 3]


def test_frequent_terms_are_counted_anew_when_much_has_changed(whole: Connection) -> None:
    number = vectorizer(whole)
    whole.execute(
        f"INSERT INTO docs (id, words) SELECT n, '{{1:1}}/{DIMENSIONS}' FROM generate_series(100, 9999) AS n"
    )
    whole.execute("SELECT pg_stat_force_next_flush()")
    assert value(whole, "SELECT embed._count_postings_v1(%s)", number)
    before = value(whole, COUNTS, number)
    assert before[1] > 9_000
    whole.execute("DELETE FROM docs WHERE id > 5000")
    assert value(whole, COUNTS, number) == before  # as they were last counted
    whole.execute("SELECT pg_stat_force_next_flush()")
    assert value(whole, "SELECT embed._count_postings_v1(%s)", number)
    assert value(whole, COUNTS, number)[0] == value(whole, "SELECT count(words) FROM docs")
    assert not value(whole, "SELECT embed._count_postings_v1(%s)", number)


@pytest.mark.parametrize("table", ["whole", "text"])
def test_a_reader_finds_only_the_rows_that_he_may_see(
    db: Connection, make_role: MakeRole, table: str
) -> None:
    make(db, table)
    fill(db)
    db.execute("SELECT embed.create_postings('docs')")
    role = make_role("embed_reader")
    number = vectorizer(db)
    postings = f"SELECT count(*) FROM embed._postings_{number}"
    with psycopg.connect(role.dsn, autocommit=True) as reader:
        assert refused(reader, TOP, number, f"{{1:1}}/{DIMENSIONS}", 10)[0] == "42501"
        assert refused(reader, postings)[0] == "42501"
        db.execute(sql.SQL("GRANT SELECT ON docs TO {}").format(sql.Identifier(role.name)))
        assert reader.execute(postings).fetchone() == db.execute(postings).fetchone()
        everything = reader.execute(TOP, [number, f"{{1:1,2:1}}/{DIMENSIONS}", 100]).fetchall()
        assert len(everything) > 10
        db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        db.execute("CREATE POLICY few ON docs FOR SELECT USING (id::text LIKE '1%%')".replace("%%", "%"))
        seen = reader.execute(TOP, [number, f"{{1:1,2:1}}/{DIMENSIONS}", 100]).fetchall()
        assert seen == [row for row in everything if row[0].startswith("1")]
        visible = value(reader, "SELECT count(words) FROM docs")
        assert value(reader, COUNTS, number)[0] == visible
        assert value(reader, f"SELECT count(*) FROM embed._postings_{number} WHERE term = 0") == visible
        assert value(reader, f"SELECT count(*) FROM embed._postings_{number}_count") == 0
        for writing in (
            f"DELETE FROM embed._postings_{number}",
            f"INSERT INTO embed._postings_{number} VALUES (1, 1, 1)",
        ):
            assert refused(reader, writing)[0] == "42501"


def test_an_owner_makes_and_drops_his_own_postings_alone(db: Connection, make_role: MakeRole) -> None:
    role, other = make_role("embed_owner"), make_role("embed_owner")
    db.execute(sql.SQL("CREATE SCHEMA mine AUTHORIZATION {}").format(sql.Identifier(role.name)))
    create_fake_model(db, sparse_dimensions=DIMENSIONS)
    with (
        psycopg.connect(role.dsn, autocommit=True) as owner,
        psycopg.connect(other.dsn, autocommit=True) as stranger,
    ):
        owner.execute("SET search_path = mine, public")
        owner.execute("CREATE TABLE docs (id text PRIMARY KEY, body text)")
        owner.execute("SELECT embed.create_vectorizer('docs', 'body', sparse_column => 'words')")
        fill(owner)
        owner.execute("SELECT embed.create_postings('docs')")
        owner.execute("DELETE FROM docs WHERE id = '3'")
        db.execute("SET search_path = mine, public")
        assert difference(db) == 0
        number = vectorizer(db)
        for statement in (
            "SELECT embed.create_postings('docs')",
            "SELECT embed.drop_postings('docs')",
            "SELECT embed.refresh_postings('docs')",
            f"SELECT embed._clear_postings({number})",
            f"SELECT embed._build_postings({number})",
        ):
            assert refused(stranger, statement)[0] == "42501"
        assert refused(owner, f"INSERT INTO embed._postings_{number} VALUES (1, 1, 1)")[0] == "42501"
        assert value(owner, "SELECT embed.refresh_postings('docs')")
        owner.execute("SELECT embed.drop_postings('docs')")
        assert not value(owner, "SELECT embed.refresh_postings('docs')")
        owner.execute("SELECT embed.create_postings('docs')")
        owner.execute("SELECT embed.drop_vectorizer('docs')")


def test_the_function_of_the_triggers_serves_no_other_table(whole: Connection) -> None:
    function = f"embed._post_{vectorizer(whole)}()"
    whole.execute("CREATE TABLE other (id int PRIMARY KEY, words sparsevec(50))")
    whole.execute(f"CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION {function}")
    assert refused(whole, "INSERT INTO other VALUES (1, '{1:1}/50')")[0] == "42501"


def test_unrelated_updates_touch_no_posting(whole: Connection) -> None:
    places = f"SELECT array_agg(ctid::text ORDER BY ctid) FROM embed._postings_{vectorizer(whole)}"
    before = value(whole, places)
    whole.execute("UPDATE docs SET body = body || '!', words = words")
    assert value(whole, places) == before


def test_an_upgrade_keeps_them_and_uninstalling_leaves_the_column_alone(whole: Connection, dsn: str) -> None:
    install(dsn)
    assert difference(whole) == 0
    whole.execute("DELETE FROM docs WHERE id < 5")
    assert difference(whole) == 0
    uninstall(dsn)
    whole.execute(f"UPDATE docs SET words = '{{1:1}}/{DIMENSIONS}'")
    assert value(whole, "SELECT to_regnamespace('embed') IS NULL")
    assert value(whole, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pg_embed%'") == 0
