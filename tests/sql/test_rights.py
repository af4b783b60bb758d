"""The three roles: a reader writes nothing, an owner only its own, a worker only what it needs."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.fix_pg import MakeRole, Role
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import queued, refused, value

READER_MAY = {
    "embed", "embed_document", "embed_sparse", "embed_multi", "rerank", "rerank_scores",
    "status", "failures", "why", "wait", "indexes", "index_plan", "recall",
    # what those call with the reader's rights
    "_column_model_v1", "_check_stays",
    "_vectors_v1", "_asked_model_v1", "_given_model_v1", "_give_vectors_v1", "_memo_key", "_search_asks_v1",
    "_vector", "_rerankers_v1", "_why_v1", "_why_queued_v1", "_why_failed_v1", "_waiting_v1", "_workers",
    "_lacks_worker", "_here",
    "_fail", "_column_name", "_source_name", "_key_text", "_key_is_whole", "_key_value", "_key_match",
    "_render",
    "_input", "_source_row", "_hash", "_holdup",
    "explain_search", "_search_explain_v1", "_search_explained", "_search_told",
    "search", "similar", "_search_own", "_search_v1", "_search_plan", "_search_legs_v1", "_search_leg",
    "_search_estimate", "_search_statement", "_search_settings", "_sparse_leg", "_dense_leg",
    "_dense_depth", "_nearness", "_serves", "_sparse_near_v1", "_standard_score",
    "_sparse_spread_v1", "_sparse_having_v1",
    "_search_extended", "_search_ending", "_search_given", "_search_turns", "_boost_expression",
    "_boost_column", "_single_leg", "_dense_score", "_dense_vector", "_sparse_vector", "_weight",
    "_late_score",
    "_filter_condition", "_filter_column", "_filter_term", "_filter_value", "_base_type",
    "_number_setting",
    "_output_names", "_vector_type", "_column_number",
    "search_chunks", "_search_chunks", "_search_chunks_v1", "_leg_own", "_leg_best", "_sparse_mean",
    "_leg_vector", "_leg_row", "_leg_input", "_chunk_leg", "_chunk_words",
    "_check_index", "_vectorizer_id_v1", "_vector_schema", "_index_tree", "_index_look_v1", "_index_estimate",
    "_rows_by_statistics", "_count_rows", "_recall_target_v1", "_index_recalled_v1",
    "_search_forms", "_timed", "_hits",
    "switches", "_hold",
    "_sparse_top_v1", "_sparse_ids_v1", "_sparse_query_v1", "_sparse_terms", "_shares", "_posting_counts_v1",
    "_posting_source_v1", "_reads_all_v1", "_seen_ids_v1", "_seen_keys_v1", "_vector_operator",
}  # fmt: skip


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` of the superuser's, with a secret column, two rows and a vectorizer."""
    create_fake_model(db)
    create_docs(db, "one", "two")
    db.execute("ALTER TABLE docs ADD COLUMN secret text DEFAULT 'secret', ADD COLUMN flag int DEFAULT 1")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', filter => 'flag = 1')")
    return db


@pytest.fixture
def reader(docs: Connection, make_role: MakeRole) -> Iterator[Connection]:
    """A connection of a role that is only embed_reader."""
    with psycopg.connect(make_role("embed_reader").dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def worker_role(docs: Connection, make_role: MakeRole) -> Role:
    """A login role that is only embed_worker."""
    return make_role("embed_worker")


@pytest.fixture
def owner(db: Connection, make_role: MakeRole) -> Role:
    """A member of embed_owner that may make tables in its schema `mine`."""
    role = make_role("embed_owner")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{role.name}"')
    return role


@pytest.fixture
def owned(docs: Connection, owner: Role) -> Iterator[Connection]:
    """A connection of that owner, who has a table with a vectorizer."""
    with psycopg.connect(owner.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine.notes (id int PRIMARY KEY, body text)")
        connection.execute("SELECT embed.create_vectorizer('mine.notes', 'body')")
        yield connection


def test_a_reader_may_look(reader: Connection, docs: Connection) -> None:
    for view in ("models", "limits", "vectorizers", "status", "failures", "indexes", "switches"):
        reader.execute(f"SELECT * FROM embed.{view}")
    reader.execute("SELECT * FROM embed.status('docs_embedding')")
    reader.execute("SELECT * FROM embed.failures('docs_embedding')")
    assert refused(reader, "SELECT embed('x')")[0] == "PE013"
    docs.execute("GRANT SELECT ON docs TO embed_reader")
    try:
        assert value(reader, "SELECT state FROM embed.why('docs', 1)") == "pending"
        assert refused(reader, "SELECT embed.wait('docs', '0')")[0] == "PE040"
    finally:
        docs.execute("REVOKE SELECT ON docs FROM embed_reader")


def test_a_reader_can_execute_what_it_needs_and_nothing_else(reader: Connection) -> None:
    found = reader.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'embed'::regnamespace"
        " AND has_function_privilege(oid, 'EXECUTE')"
    ).fetchall()
    assert {row[0] for row in found} == READER_MAY


def test_a_reader_has_no_right_to_write_to_any_table_of_ours(reader: Connection) -> None:
    found = reader.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'embed'::regnamespace AND"
        " relkind IN ('r', 'v', 'p', 'S')"
        " AND (has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES') OR"
        " (left(relname, 1) = '_' AND relname <> '_schema_version' AND has_table_privilege(oid, 'SELECT')))"
    ).fetchall()
    assert found == []
    assert not value(reader, "SELECT has_schema_privilege('embed', 'CREATE')")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT embed.create_model('m', 'fake', card => '{}')",
        "SELECT embed.drop_model('fake')",
        "SELECT embed.limit_model('fake', 5)",
        "SELECT embed.price_model('fake', 5)",
        "SELECT embed.set_budget('docs', 5)",
        "SELECT * FROM embed.usage",
        "SELECT * FROM embed.budgets",
        "SELECT embed._reserve_v1(1, 1, 1, 1)",
        "SELECT embed._use_v1('[]')",
        "SELECT embed._refuse_v1('fake', 'no')",
        "SELECT embed.create_vectorizer('docs', 'body')",
        "SELECT embed.alter_vectorizer('docs', 'title')",
        "SELECT embed.drop_vectorizer('docs')",
        "SELECT embed.backfill('docs')",
        "SELECT embed.retry()",
        "SELECT embed.pause('docs')",
        "SELECT embed.resume('docs')",
        "SELECT embed.create_index('docs')",
        "SELECT embed.switch_model('docs', 'fake')",
        "SELECT embed.finish_switch('docs')",
        "SELECT embed.rollback_switch('docs')",
        "SELECT embed._count_swap_v1()",
        "SELECT embed._switch_compared_v1(1, 1, 1)",
        "SELECT embed._index_done_v1(1, 'x', false)",
        "SELECT * FROM embed._work_v1()",
        "SELECT * FROM embed._claim_v1(1, 1, 1, 10, '1 second')",
        "SELECT * FROM embed._take_v1(1, 1, 1, 10, '1 second', 10)",
        "SELECT embed._put_back_v1(1, '{}', '{}')",
        "SELECT embed._again_v1('{1}', '{1}')",
        "SELECT embed._bury_v1(1, '1', 'x', 'x', 1)",
        "SELECT embed._give_up_v1(1, '1', 1, 'x', 'x', 1)",
        "SELECT embed._settle_v1(1, 1, '{}', '{}', '{}', '{}', now(), '[]')",
        "SELECT embed._postpone_v1(1, '{}', '0', '', false)",
        "SELECT embed._tend_v1()",
        "SELECT embed._ask('{}')",
        "SELECT embed._call('{}', 1)",
        "SELECT embed._build_trigger_function(1)",
        "INSERT INTO embed._queue (vectorizer_id, ids, n) VALUES (1, '{1}', 1)",
        "DELETE FROM embed._failure",
        "UPDATE embed._model SET options = '{}'",
        "UPDATE embed.models SET options = '{}'",
        "UPDATE embed._transport SET settings = '{}'",
        "SELECT * FROM embed._transport",
        "SELECT * FROM embed._mailbox",
        "UPDATE docs SET body = 'x'",
        "SELECT * FROM docs",
    ],
)
def test_a_reader_cannot(reader: Connection, statement: str) -> None:
    assert refused(reader, statement)[0] == "42501"


def test_somebody_without_a_role_can_do_nothing(docs: Connection, make_role: MakeRole) -> None:
    with psycopg.connect(make_role().dsn, autocommit=True) as connection:
        for statement in ("SELECT embed('x')", "SELECT embed.embed('x')", "SELECT * FROM embed.models"):
            assert refused(connection, statement)[0] == "42501"


def test_somebody_without_a_role_may_write_to_a_table_with_a_vectorizer(
    docs: Connection, make_role: MakeRole
) -> None:
    role = make_role()
    docs.execute(f'GRANT SELECT, INSERT, UPDATE ON docs TO "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO docs (id, body) VALUES (9, 'nine')")
        connection.execute("UPDATE docs SET body = 'changed' WHERE id = 1")
        connection.execute("UPDATE docs SET flag = 0 WHERE id = 2")
    assert queued(docs) == ["9", "1", "2"]


def test_a_worker_s_columns_are_exactly_those_it_reads_and_writes(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'title', column_name => 'other')")

    def columns(privilege: str) -> set[str]:
        found = docs.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attnum"
            " > 0 AND NOT attisdropped"
            " AND has_column_privilege('embed_worker', attrelid, attnum, %s)",
            [privilege],
        ).fetchall()
        return {row[0] for row in found}

    assert columns("SELECT") == {"id", "body", "flag", "title", "embedding", "other"}
    assert columns("UPDATE") == {"embedding", "other"}
    assert columns("INSERT") == columns("REFERENCES") == set()
    assert not value(docs, "SELECT has_table_privilege('embed_worker', 'docs', 'DELETE, TRUNCATE, TRIGGER')")
    docs.execute("SELECT embed.alter_vectorizer('docs_embedding', 'title', filter => '')")
    assert columns("SELECT") == {"id", "title", "embedding", "other"}
    docs.execute("SELECT embed.drop_vectorizer('docs_other')")
    assert columns("SELECT") == {"id", "title", "embedding"}
    assert columns("UPDATE") == {"embedding"}
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    assert columns("SELECT") == columns("UPDATE") == set()


def test_a_worker_can_do_the_whole_job(
    docs: Connection, worker_role: Role, start_worker: StartWorker
) -> None:
    start_worker(worker_role.dsn, tend_every=0.05, page_rows=1)
    docs.execute("SELECT embed.wait('docs')")
    insert_docs(docs, "three", None)
    docs.execute("UPDATE docs SET body = 'changed' WHERE id = 1; UPDATE docs SET flag = 0 WHERE id = 2")
    docs.execute("DELETE FROM docs WHERE id = 3")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="CASE WHEN flag = 1 THEN body END") == []
    docs.execute("ALTER TABLE docs RENAME id TO number; INSERT INTO docs (number, body) VALUES (8, 'x')")
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(embedding) FROM docs") == 2


def test_a_worker_can_do_the_whole_job_in_a_schema_of_an_owner_s(
    owned: Connection, docs: Connection, worker_role: Role, start_worker: StartWorker
) -> None:
    owned.execute("INSERT INTO mine.notes VALUES (1, 'one')")
    start_worker(worker_role.dsn)
    owned.execute("SELECT embed.wait('mine.notes')")
    assert broken_rows(docs, "mine.notes", vectorizer="notes_embedding") == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT secret FROM docs",
        "SELECT * FROM docs",
        "UPDATE docs SET body = 'x'",
        "UPDATE docs SET secret = 'x'",
        "DELETE FROM docs",
        "INSERT INTO docs (id) VALUES (9)",
        "TRUNCATE docs",
        "SELECT embed.create_vectorizer('docs', 'title', column_name => 'x')",
        "SELECT embed.drop_vectorizer('docs')",
        "SELECT embed.alter_vectorizer('docs', 'secret')",
        "SELECT embed.create_model('m', 'fake', card => '{}')",
        "SELECT embed.limit_model('fake', 5)",
        "SELECT embed.price_model('fake', 5)",
        "SELECT embed.set_budget('docs', 5)",
        "SELECT * FROM embed.usage",
        "SELECT * FROM embed._usage",
        "UPDATE embed._limit SET refusal = NULL",
        "UPDATE embed._vectorizer SET template = '[4]'",
        "SELECT * FROM embed._queue",
        "UPDATE embed._transport SET settings = '{}'",
        "SELECT embed._call('{}', 1)",
        "SELECT embed._build_trigger_function(1)",
    ],
)
def test_a_worker_cannot(worker_role: Role, statement: str) -> None:
    with psycopg.connect(worker_role.dsn, autocommit=True) as connection:
        assert refused(connection, statement)[0] == "42501"


def test_an_owner_makes_vectorizers_on_its_own_tables(owned: Connection) -> None:
    assert (
        value(owned, "SELECT embed.alter_vectorizer('notes_embedding', max_attempts => 2)")
        == "notes_embedding"
    )
    owned.execute(
        "SELECT embed.alter_vectorizer('notes_embedding', template => '{id} {body}', filter => 'id > 0')"
    )
    owned.execute("SELECT embed.pause('mine.notes'), embed.resume('mine.notes'), embed.retry('mine.notes')")
    owned.execute("SELECT embed.backfill('mine.notes')")
    owned.execute("INSERT INTO mine.notes VALUES (1, 'one')")
    assert value(owned, "SELECT state FROM embed.why('mine.notes', 1)") == "pending"
    assert value(owned, "SELECT embed.drop_vectorizer('notes_embedding', drop_column => true) IS NOT NULL")
    assert value(owned, "SELECT count(*) FROM embed.vectorizers") == 1


def test_a_member_of_the_table_s_owner_may_do_as_the_owner_does(
    docs: Connection, owner: Role, make_role: MakeRole
) -> None:
    docs.execute("CREATE TABLE mine.notes (id int PRIMARY KEY, body text)")
    docs.execute(f'ALTER TABLE mine.notes OWNER TO "{owner.name}"')
    member = make_role("embed_owner", owner.name)
    with psycopg.connect(member.dsn, autocommit=True) as connection:
        connection.execute("SELECT embed.create_vectorizer('mine.notes', 'body')")
        connection.execute("INSERT INTO mine.notes VALUES (1, 'one')")
        connection.execute("SELECT embed.drop_vectorizer('mine.notes')")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT embed.alter_vectorizer('docs_embedding', 'title')",
        "SELECT embed.alter_vectorizer('docs_embedding', rename_to => 'x')",
        "SELECT embed.drop_vectorizer('docs_embedding')",
        "SELECT embed.pause('docs_embedding')",
        "SELECT embed.resume('docs_embedding')",
        "SELECT embed.backfill('docs_embedding')",
        "SELECT embed.retry('docs_embedding')",
        "SELECT embed.set_budget('docs_embedding', 5)",
        "SELECT embed.create_vectorizer('docs', 'title', column_name => 'x')",
    ],
)
def test_an_owner_cannot_touch_the_vectorizers_of_others(owned: Connection, statement: str) -> None:
    state, message, hint = refused(owned, statement)
    assert state == "42501"
    assert "own" in message
    assert "postgres" in hint


def test_the_catalog_itself_guards_the_vectorizers_of_others(owned: Connection, docs: Connection) -> None:
    docs.execute("INSERT INTO embed._failure SELECT id, '1', 'PE021', 'refused', 1 FROM embed._vectorizer")
    for statement in (
        "UPDATE embed._vectorizer SET max_attempts = 1",
        "UPDATE embed._backfill SET mode = 'all'",
        "DELETE FROM embed._budget",
        "DELETE FROM embed._failure",
        "DELETE FROM embed._queue",
        "UPDATE embed._queue SET attempts = 9",
        "DELETE FROM embed._backfill",
    ):
        owned.execute(statement)
    found = docs.execute(
        "SELECT v.max_attempts, b.mode, (SELECT count(*) FROM embed._failure AS f WHERE"
        " f.vectorizer_id = v.id)"
        " FROM embed._vectorizer AS v LEFT JOIN embed._backfill AS b ON b.vectorizer_id = v.id ORDER BY v.id"
    ).fetchall()
    assert found == [(10, "missing", 1), (1, None, 0)]
    foreign = value(docs, "SELECT id FROM embed._vectorizer WHERE name = 'docs_embedding'")
    docs.execute("CREATE VIEW seen AS SELECT * FROM docs")
    for statement in (
        f"INSERT INTO embed._queue (vectorizer_id, ids, n) VALUES ({foreign}, '{{1}}', 1)",
        f"INSERT INTO embed._backfill (vectorizer_id, mode) VALUES ({foreign}, 'all')",
        f"INSERT INTO embed._failure VALUES ({foreign}, '2', 'x', 'x', 1)",
        f"UPDATE embed._failure SET vectorizer_id = {foreign}",
        "UPDATE embed._vectorizer SET source = 'docs' WHERE name = 'notes_embedding'",
        "UPDATE embed._vectorizer SET chunk_view = 'seen' WHERE name = 'notes_embedding'",
        f"UPDATE embed._vectorizer SET shadow_of = {foreign} WHERE name = 'notes_embedding'",
        "INSERT INTO embed._vectorizer (name, source, model_id, key_columns,"
        " input_columns, template, outputs,"
        " target_columns) SELECT 'x', 'docs', model_id, key_columns, input_columns, template,"
        " outputs, '{1}' FROM embed._vectorizer LIMIT 1",
    ):
        docs.execute(
            "INSERT INTO embed._failure SELECT id, '7', 'x', 'x', 1 FROM embed._vectorizer"
            " ON CONFLICT DO NOTHING"
        )
        state = refused(owned, statement)[0]
        assert state == "42501", statement


def test_an_owner_s_retry_without_a_name_is_of_its_own_failures(owned: Connection, docs: Connection) -> None:
    docs.execute("INSERT INTO embed._failure SELECT id, '1', 'PE021', 'refused', 1 FROM embed._vectorizer")
    assert value(owned, "SELECT embed.retry()") == 1
    assert docs.execute("SELECT vectorizer_name FROM embed.failures").fetchall() == [("docs_embedding",)]


def test_an_owner_sees_the_usage_and_the_budgets_of_its_own_tables(
    owned: Connection, docs: Connection
) -> None:
    docs.execute("SELECT embed.set_budget('docs', 9)")
    owned.execute("SELECT embed.set_budget('notes_embedding', 7)")
    ids = [row[0] for row in docs.execute("SELECT id FROM embed._vectorizer ORDER BY name DESC").fetchall()]
    for vectorizer in (*ids, None):
        use = {"model": "fake", "requests": 1, "inputs": 1, "bytes": 1, "tokens": 1}
        docs.execute("SELECT embed._use_v1(%s)", [Jsonb([{**use, "vectorizer": vectorizer}])])
    assert owned.execute("SELECT vectorizer, tokens FROM embed.usage").fetchall() == [("notes_embedding", 1)]
    assert owned.execute("SELECT vectorizer, tokens FROM embed.budgets").fetchall() == [
        ("notes_embedding", 7)
    ]
    assert value(docs, "SELECT count(*) FROM embed.usage") == 3
    assert value(docs, "SELECT count(*) FROM embed.budgets") == 2


def test_an_owner_has_no_say_over_models_and_transports(owned: Connection) -> None:
    for statement in (
        "SELECT embed.create_model('m', 'fake', card => '{}')",
        "SELECT embed.alter_model('fake', options => '{}')",
        "SELECT embed.drop_model('fake')",
        "SELECT embed.limit_model('fake', 5)",
        "SELECT embed.price_model('fake', 5)",
        "SELECT * FROM embed._usage",
        "UPDATE embed._model SET options = '{}'",
        "INSERT INTO embed._transport VALUES (true, 'plpython', '{}')",
        "SELECT embed._transport_set('none', '{}')",
        "SELECT embed._claim_v1(1, 1, 1, 10, '1 second')",
    ):
        assert refused(owned, statement)[0] == "42501", statement


def test_a_revoked_right_stops_one_table_and_not_the_others(
    docs: Connection, worker_role: Role, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('other', 'body')")
    docs.execute("REVOKE ALL ON docs FROM embed_worker")
    docs.execute("INSERT INTO embed._failure SELECT id, '1', 'PE021', 'refused', 1 FROM embed._vectorizer")
    start_worker.expected = "permission denied for table docs"
    start_worker(worker_role.dsn, tend_every=0.05)
    docs.execute("INSERT INTO other VALUES (1, 'one')")
    docs.execute("SELECT embed.wait('other')")
    insert_docs(docs, "three")
    while not start_worker.errors or value(docs, "SELECT reason FROM embed.status('docs_embedding')") is None:
        pass
    docs.execute("INSERT INTO other VALUES (2, 'two')")
    docs.execute("SELECT embed.wait('other')")
    state, _, hint = refused(docs, "SELECT embed.wait('docs', '0.2 seconds')")
    assert state == "PE040"
    assert "permission denied for table docs" in hint
    docs.execute("SELECT embed.alter_vectorizer('docs_embedding', 'body')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="CASE WHEN flag = 1 THEN body END") == []


def test_row_level_security_that_hides_rows_from_the_worker_is_told(
    docs: Connection, worker_role: Role, start_worker: StartWorker
) -> None:
    docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs.execute("CREATE POLICY mine ON docs USING (title = current_user)")
    start_worker.expected = "row-level security"
    start_worker(worker_role.dsn)
    insert_docs(docs, "three")
    while value(docs, "SELECT reason FROM embed.status('docs_embedding')") is None:
        pass
    state, message, hint = refused(docs, "SELECT embed.wait('docs', '0.2 seconds')")
    assert state == "PE040"
    assert "row-level security" in message + hint
    assert queued(docs) + queued(docs, priority=2) != []
    docs.execute(f'ALTER ROLE "{worker_role.name}" BYPASSRLS')
    docs.execute("SELECT embed.retry('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="CASE WHEN flag = 1 THEN body END") == []


def test_a_table_that_is_given_away_goes_on_with_its_new_owner(
    docs: Connection, owner: Role, make_role: MakeRole
) -> None:
    docs.execute(f'SET ROLE "{owner.name}"')
    docs.execute("CREATE TABLE mine.parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    docs.execute("SELECT embed.create_vectorizer('mine.parts', 'body')")
    docs.execute("RESET ROLE")
    heir = make_role("embed_owner")
    docs.execute(f'ALTER TABLE mine.parts OWNER TO "{heir.name}"; ALTER SCHEMA mine OWNER TO "{heir.name}"')
    docs.execute("SELECT embed._tend_v1()")
    with psycopg.connect(heir.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine.parts_1 PARTITION OF mine.parts DEFAULT")
        connection.execute("INSERT INTO mine.parts VALUES (1, 'one')")
    assert queued(docs, "parts_embedding") == ["1"]
    held = "SELECT count(*) FROM pg_shdepend WHERE refobjid = to_regrole(%s)::oid AND deptype = 'a'"
    assert value(docs, held, f'"{owner.name}"') == 0, "nothing is in the way of dropping the role"
    docs.execute("SELECT embed._tend_v1()")
    assert (
        value(docs, "SELECT embed._trigger_is_stale(v) FROM embed._vectorizer AS v ORDER BY id DESC LIMIT 1")
        is False
    )


def test_the_worker_leaves_a_schema_with_its_last_vectorizer(owned: Connection, docs: Connection) -> None:
    may = "SELECT has_schema_privilege('embed_worker', 'mine', 'USAGE')"
    owned.execute("CREATE TABLE mine.parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    owned.execute("SELECT embed.create_vectorizer('mine.parts', 'body')")
    owned.execute("SELECT embed.drop_vectorizer('mine.notes')")
    assert value(docs, may)
    owned.execute("SELECT embed.alter_vectorizer('mine.parts', template => '{body}!')")
    assert value(docs, may)
    owned.execute("SELECT embed.drop_vectorizer('mine.parts')")
    assert not value(docs, may)
    assert not value(docs, "SELECT has_column_privilege('embed_worker', 'mine.parts', 'tableoid', 'SELECT')")
