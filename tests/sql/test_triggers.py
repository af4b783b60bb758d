"""sql/functions/30_triggers.sql: which changes are queued, by whatever statement they come."""

from __future__ import annotations

import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import clear_queue, queued, refused, value


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with three rows, a vectorizer on its body, and an empty queue."""
    create_fake_model(db)
    create_docs(db, "one", "two", "three")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    return db


def test_an_insert_of_several_rows_is_one_entry(docs: Connection) -> None:
    insert_docs(docs, "four", "five")
    assert docs.execute("SELECT ids, n, priority FROM embed._queue").fetchall() == [([4, 5], 2, 1)]


def test_many_rows_are_packed_by_240(docs: Connection) -> None:
    docs.execute("INSERT INTO docs (id) SELECT generate_series(1001, 2000)")
    found = docs.execute("SELECT n, cardinality(ids) FROM embed._queue ORDER BY id").fetchall()
    assert found == [(240, 240)] * 4 + [(40, 40)]
    assert value(docs, "SELECT count(DISTINCT i) FROM embed._queue, unnest(ids) AS i") == 1_000


def test_more_rows_than_one_array_holds_are_packed_too(docs: Connection) -> None:
    docs.execute("INSERT INTO docs (id) SELECT generate_series(1000001, 1200050)")
    found = docs.execute(
        "SELECT sum(n), count(DISTINCT i), max(n) FROM embed._queue, unnest(ids) AS i"
    ).fetchall()
    assert value(docs, "SELECT sum(n) FROM embed._queue") == 200_050
    assert found[0][1:] == (200_050, 240)


def test_an_insert_of_no_row_queues_nothing(docs: Connection) -> None:
    docs.execute("INSERT INTO docs (id) SELECT 1 WHERE false")
    assert queued(docs) == []


def test_copy_queues_its_rows(docs: Connection) -> None:
    with docs.cursor() as cursor, cursor.copy("COPY docs (id, title, body) FROM STDIN") as copy:
        for number in range(10, 13):
            copy.write_row((number, None, "text"))
    assert queued(docs) == ["10", "11", "12"]


def test_an_update_of_the_text_queues_the_row(docs: Connection) -> None:
    docs.execute("UPDATE docs SET body = upper(body) WHERE id > 1")
    assert queued(docs) == ["2", "3"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE docs SET title = 'new'",
        "UPDATE docs SET body = body",
        "UPDATE docs SET embedding = '[1,2,3,4]'",
        "UPDATE docs SET body = body || ''",
        "DELETE FROM docs",
        "TRUNCATE docs",
        "INSERT INTO docs (id, body) VALUES (1, 'x') ON CONFLICT DO NOTHING",
        "INSERT INTO docs (id, body) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET title = 'y'",
        "ALTER TABLE docs ADD COLUMN more text DEFAULT 'x'",
    ],
)
def test_what_changes_no_text_queues_nothing(docs: Connection, statement: str) -> None:
    docs.execute(statement)
    assert queued(docs) == []


def test_numbers_that_are_equal_but_written_otherwise_are_another_text(docs: Connection) -> None:
    docs.execute("CREATE TABLE prices (id int PRIMARY KEY, body numeric)")
    docs.execute("SELECT embed.create_vectorizer('prices', 'body')")
    docs.execute("INSERT INTO prices VALUES (1, 1.0)")
    clear_queue(docs)
    docs.execute("UPDATE prices SET body = 1.00")
    assert queued(docs, "prices_embedding") == ["1"]


@pytest.mark.parametrize("kind", ["double precision", "real[]"])
def test_floats_that_a_session_writes_alike_are_different_texts(docs: Connection, kind: str) -> None:
    docs.execute(f"CREATE TABLE prices (id int PRIMARY KEY, body {kind}, note text)")
    docs.execute("SELECT embed.create_vectorizer('prices', 'body', backfill => false)")
    number = "0.1::float8" if kind == "double precision" else "ARRAY[0.1::real]"
    other = "0.1::float8 + 1e-17 * 2" if kind == "double precision" else "ARRAY[0.1::real + 1e-8::real]"
    docs.execute(f"INSERT INTO prices VALUES (1, {number})")
    clear_queue(docs)
    docs.execute("SET extra_float_digits = 0")
    docs.execute(f"UPDATE prices SET body = {other}")
    docs.execute("UPDATE prices SET note = 'x'")
    assert queued(docs, "prices_embedding") == ["1"]


@pytest.mark.parametrize("kind", ["timestamptz", "timestamptz[]", "tstzrange"])
def test_moments_that_a_session_writes_alike_are_different_texts(docs: Connection, kind: str) -> None:
    docs.execute(f"CREATE TABLE visits (id int PRIMARY KEY, at {kind})")
    docs.execute("SELECT embed.create_vectorizer('visits', 'at', backfill => false)")
    form = {"timestamptz": "{0}", "timestamptz[]": "ARRAY[{0}]", "tstzrange": "tstzrange({0}, NULL)"}[kind]
    before, after = (form.format(f"timestamptz '2014-10-25 {hour}:30Z'") for hour in (21, 22))
    docs.execute(f"INSERT INTO visits VALUES (1, {before})")
    clear_queue(docs)
    docs.execute("SET DateStyle = 'SQL'; SET TimeZone = 'Europe/Moscow'")
    assert value(docs, f"SELECT ({before})::text = ({after})::text"), "01:30 MSK came twice that night"
    docs.execute(f"UPDATE visits SET at = {after}")
    assert queued(docs, "visits_embedding") == ["1"]


def test_a_session_may_go_without_the_notification(docs: Connection, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as idle:
        idle.execute("SELECT pg_advisory_lock(1885695330, 1)")
        idle.execute("LISTEN pg_embed_work")
        docs.execute("SET embed.notify = 'off'; UPDATE docs SET body = 'new' WHERE id = 1")
        assert list(idle.notifies(timeout=0.1)) == []
        docs.execute("RESET embed.notify; UPDATE docs SET body = 'new' WHERE id = 2")
        assert len(list(idle.notifies(timeout=10, stop_after=1))) == 1
    assert queued(docs) == ["1", "2"]


def test_insert_on_conflict_queues_what_it_inserts_and_what_it_changes(docs: Connection) -> None:
    docs.execute(
        "INSERT INTO docs (id, body) VALUES (1, 'changed'), (2, 'two'), (9, 'new')"
        " ON CONFLICT (id) DO UPDATE SET body = excluded.body"
    )
    assert sorted(queued(docs)) == ["1", "9"]


def test_merge_queues_what_it_inserts_and_what_it_changes(docs: Connection) -> None:
    docs.execute(
        "MERGE INTO docs USING (VALUES (1, 'changed'), (2, 'two'), (3, NULL), (9, 'new')) AS s (id, body)"
        " ON docs.id = s.id WHEN MATCHED AND s.body IS NULL THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET body = s.body WHEN NOT MATCHED THEN INSERT (id,"
        " body) VALUES (s.id, s.body)"
    )
    assert sorted(queued(docs)) == ["1", "9"]


def test_a_change_of_the_key_queues_the_new_key(docs: Connection) -> None:
    docs.execute("UPDATE docs SET id = id + 100 WHERE id = 1")
    assert queued(docs) == ["101"]


def test_a_rolled_back_change_queues_nothing(docs: Connection) -> None:
    with docs.transaction(force_rollback=True):
        docs.execute("UPDATE docs SET body = 'new'")
    assert queued(docs) == []
    with docs.transaction():
        with docs.transaction(force_rollback=True):
            docs.execute("UPDATE docs SET body = 'new' WHERE id = 1")
        docs.execute("UPDATE docs SET body = 'new' WHERE id = 2")
    assert queued(docs) == ["2"]


def test_what_a_before_trigger_makes_of_the_text_is_what_counts(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute(
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.body := NEW.title || '!'; RETURN NEW; END $$;"
        "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION stamp()"
    )
    docs.execute("UPDATE docs SET title = 'x' WHERE id = 1")
    assert queued(docs) == ["1"]
    docs.execute("UPDATE docs SET body = 'nothing comes of it' WHERE id = 1")
    assert queued(docs) == ["1"]
    docs.execute("INSERT INTO docs VALUES (9, 'y', 'z')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="CASE WHEN id IN (1, 9) THEN title || '!' END") == []


def test_a_trigger_of_the_user_s_on_the_vector_s_own_write_is_no_loop(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute(
        "ALTER TABLE docs ADD COLUMN changed_at timestamptz;"
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.changed_at := clock_timestamp(); RETURN NEW; END $$;"
        "CREATE TRIGGER stamp BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION stamp()"
    )
    insert_docs(docs, "four")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert queued(docs) == []
    assert value(docs, "SELECT count(embedding) FROM docs") == 1


@pytest.mark.parametrize("kind", ["STORED", "VIRTUAL"])
def test_a_generated_column_is_input_like_any_other(
    docs: Connection, dsn: str, start_worker: StartWorker, kind: str
) -> None:
    docs.execute(
        f"CREATE TABLE pages (id int PRIMARY KEY, a text, b text, body text GENERATED"
        f" ALWAYS AS (a || '/' || b) {kind})"
    )
    docs.execute("INSERT INTO pages VALUES (1, 'x', 'y')")
    docs.execute("SELECT embed.create_vectorizer('pages', 'body')")
    docs.execute("INSERT INTO pages VALUES (2, 'p', 'q'), (3, NULL, 'q')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('pages')")
    assert broken_rows(docs, "pages", vectorizer="pages_embedding") == []
    assert value(docs, "SELECT count(embedding) FROM pages") == 2
    docs.execute("UPDATE pages SET b = 'changed' WHERE id = 1")
    assert queued(docs, "pages_embedding") in (["1"], [])
    docs.execute("SELECT embed.wait('pages')")
    assert broken_rows(docs, "pages", vectorizer="pages_embedding") == []


def test_null_empty_and_blank_texts_are_what_they_are(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("INSERT INTO docs (id, body) VALUES (4, ''), (5, ' '), (6, NULL), (7, E'\\t\\n')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("UPDATE docs SET body = NULL WHERE id = 4; UPDATE docs SET body = '' WHERE id = 6")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="CASE WHEN id > 3 THEN body END") == []
    found = docs.execute("SELECT id FROM docs WHERE embedding IS NOT NULL ORDER BY id").fetchall()
    assert found == [(5,), (6,), (7,)]


def test_a_table_emptied_before_the_worker_comes_leaves_nothing(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(docs, "four", "five")
    docs.execute("TRUNCATE docs")
    insert_docs(docs, "again")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(*) FROM embed._queue") == 0


def test_a_dropped_trigger_cannot_drop_the_column_unseen(docs: Connection) -> None:
    state, message, _ = refused(docs, "ALTER TABLE docs DROP COLUMN body")
    assert state == "2BP01"
    assert "depend" in message


def test_types_change_while_triggers_are_off(docs: Connection, make_role: MakeRole) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', column_name => 'second', backfill => false)")
    docs.execute("ALTER TABLE docs OWNER TO embed_owner")
    widen = "ALTER TABLE docs ALTER body TYPE varchar(100)"
    with psycopg.connect(make_role("embed_owner").dsn) as owner:
        assert refused(owner, widen)[0] == "0A000"
        owner.rollback()
        owner.execute("SELECT embed._untie_v1('docs')")
        owner.execute(widen.encode())
        owner.execute("SELECT embed._tie_v1('docs')")
    docs.execute("UPDATE docs SET body = 'more' WHERE id = 2")
    assert (queued(docs), queued(docs, "docs_second")) == (["2"], ["2"])
    assert value(docs, "SELECT count(*) FROM embed._backfill") == 0
    docs.execute("SELECT embed._untie_v1('docs'), embed._tie_v1('docs', again => true)")
    assert value(docs, "SELECT array_agg(mode) FROM embed._backfill") == ["all", "all"]
    with psycopg.connect(make_role("embed_reader").dsn) as reader:
        assert refused(reader, "SELECT embed._untie_v1('docs')")[0] == "42501"


def test_a_key_becomes_larger_while_triggers_are_off(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE few (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('few', 'body', backfill => false)")
    docs.execute("INSERT INTO few VALUES (1, 'one')")
    docs.execute("SELECT embed._untie_v1('few')")
    docs.execute("ALTER TABLE few ALTER id TYPE bigint")
    docs.execute("SELECT embed._tie_v1('few')")
    docs.execute("INSERT INTO few VALUES (3000000000, 'two')")
    assert queued(docs, "few_embedding") == ["1", "3000000000"]
    start_worker(dsn)
    docs.execute("SELECT embed.wait('few')")
    docs.execute("UPDATE few SET id = id + 1, body = body || '!'")
    docs.execute("SELECT embed.wait('few')")
    assert broken_rows(docs, "few", vectorizer="few_embedding") == []


def test_rows_changed_in_replica_mode_are_found_by_a_backfill(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SET session_replication_role = replica")
    docs.execute("UPDATE docs SET body = 'new'")
    docs.execute("SET session_replication_role = origin")
    assert queued(docs) == []
    assert value(docs, "SELECT state FROM embed.why('docs', 1)") == "missed"
    docs.execute("SELECT embed.backfill('docs')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_unlogged_tables_and_tables_with_children_work(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE UNLOGGED TABLE pages (id int PRIMARY KEY, body text)")
    docs.execute("CREATE TABLE child (more text) INHERITS (pages)")
    docs.execute("SELECT embed.create_vectorizer('pages', 'body')")
    docs.execute("INSERT INTO pages VALUES (1, 'one'); INSERT INTO child VALUES (1, 'other', 'x')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('pages')")
    assert (
        broken_rows(
            docs,
            "pages",
            vectorizer="pages_embedding",
            text="CASE WHEN pages.tableoid = 'pages'::regclass THEN body END",
        )
        == []
    )
    assert value(docs, "SELECT count(embedding) FROM ONLY pages") == 1


def test_a_row_guarded_by_row_level_security_is_embedded_by_the_table_s_owner(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs.execute("CREATE POLICY mine ON docs USING (title = current_user)")
    insert_docs(docs, "four")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(embedding) FROM docs") == 1
