"""Switches from one model to another in SQL: what is added, refused, swapped, dropped; without a worker."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_bm25_model, create_docs, create_fake_model, insert_docs
from tests.sql.helpers import clear_queue, queued, refused, value

FILL = "UPDATE docs SET {} = array_fill(id::real, ARRAY[{}])::vector::halfvec"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with three rows that have vectors of model `fake`, and a wider model `wide`."""
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    create_docs(db, "one", "two", "three")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
    db.execute(FILL.format("embedding", 4).encode())
    settle(db)
    return db


def settle(db: Connection) -> None:
    """Let nothing wait, as if a worker had done it."""
    clear_queue(db)
    db.execute("DELETE FROM embed._backfill")


def begin(db: Connection, arguments: str = "") -> str:
    """Begin a switch to `wide`, filled at once; the name of its shadow."""
    name = value(db, f"SELECT embed.switch_model('docs', 'wide'{arguments})")
    db.execute(FILL.format("embedding_next", 7).encode())
    settle(db)
    return str(name)


def finish(db: Connection, vectorizer: str = "docs") -> None:
    db.execute("SELECT embed.compare_switch(%s)", [vectorizer])
    db.execute("SELECT embed.finish_switch(%s)", [vectorizer])


def columns(db: Connection, table: str = "docs") -> dict[str, str]:
    """The columns of vectors and their types."""
    found = db.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass"
        " AND attnum > 0 AND NOT attisdropped AND format_type(atttypid, NULL) ~ 'vec'",
        [table],
    )
    return dict(found.fetchall())


def vectorizers(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute("SELECT name, model, columns FROM embed.vectorizers ORDER BY name").fetchall()


def switch(db: Connection, *names: str) -> tuple[Any, ...]:
    row = db.execute(f"SELECT {', '.join(names)} FROM embed.switches").fetchone()
    assert row is not None
    return row


def test_a_switch_adds_a_column_that_no_search_sees(docs: Connection) -> None:
    assert value(docs, "SELECT embed.switch_model('docs', 'wide')") == "docs_embedding_next"
    assert columns(docs) == {"embedding": "halfvec(4)", "embedding_next": "halfvec(7)"}
    assert vectorizers(docs) == [("docs_embedding", "fake", ["embedding"])]
    assert switch(docs, "vectorizer_name", "model", "other_model", "state", "shadow", "columns") == (
        "docs_embedding", "fake", "wide", "filling", "docs_embedding_next", ["embedding_next"],
    )  # fmt: skip
    told = value(docs, "SELECT embed._search_legs_v1('docs'::regclass, NULL, NULL, false)")
    assert told["names"] == ["docs_embedding"]
    assert [leg["column"] for leg in told["legs"]["dense"]] == ["embedding"]
    assert value(docs, "SELECT (embed._query_model('dense', NULL)).name") == "fake"
    assert value(docs, "SELECT embed._vectorizer_id('docs')") == 1


def test_both_spaces_are_fed(docs: Connection) -> None:
    shadow = begin(docs)
    insert_docs(docs, "four")
    docs.execute("UPDATE docs SET body = 'ONE' WHERE id = 1")
    assert queued(docs) == ["4", "1"]
    assert queued(docs, shadow) == ["4", "1"]
    docs.execute("SELECT embed.alter_vectorizer('docs', ARRAY['title', 'body'])")
    found = docs.execute("SELECT DISTINCT input_columns, template FROM embed._vectorizer").fetchall()
    assert len(found) == 1


def test_the_swap_exchanges_names_in_one_transaction(docs: Connection, dsn: str) -> None:
    begin(docs)
    docs.execute("SELECT embed.compare_switch('docs')")
    assert switch(docs, "state", "rows_left", "overlap_at_10", "compared") == ("ready", 0, 1.0, 3)
    with psycopg.connect(dsn) as other:
        assert value(other, "SELECT embed.finish_switch('docs')") == "docs_embedding"
        for setting in ("lock_timeout", "deadlock_timeout"):
            assert value(other, f"SHOW {setting}") == value(docs, f"SHOW {setting}")
        assert columns(other) == {"embedding_old": "halfvec(4)", "embedding": "halfvec(7)"}
        assert vectorizers(other) == [("docs_embedding", "wide", ["embedding"])]
        assert vectorizers(docs) == [("docs_embedding", "fake", ["embedding"])]
    assert vectorizers(docs) == [("docs_embedding", "wide", ["embedding"])]
    assert value(docs, "SELECT array_length(embedding::vector::real[], 1) FROM docs LIMIT 1") == 7
    assert value(docs, "SELECT (embed._query_model('dense', NULL)).name") == "wide"
    assert value(docs, "SELECT (embed._query_model('dense', 'docs')).name") == "wide"
    assert switch(docs, "state", "model", "other_model", "shadow") == (
        "swapped",
        "wide",
        "fake",
        "docs_embedding_old",
    )
    insert_docs(docs, "four")
    assert queued(docs) == queued(docs, "docs_embedding_old") == ["4"]


def test_a_switch_goes_back_and_forth(docs: Connection) -> None:
    begin(docs)
    finish(docs)
    for model, other in (("fake", "wide"), ("wide", "fake"), ("fake", "wide")):
        told = value(docs, "SELECT embed.rollback_switch('docs')")
        assert told.startswith("swapped: the old vectors are kept in step")
        assert switch(docs, "state", "model", "other_model", "columns") == (
            "swapped",
            model,
            other,
            ["embedding_old"],
        )
    assert columns(docs) == {"embedding": "halfvec(4)", "embedding_old": "halfvec(7)"}
    docs.execute("SELECT embed.forget_switch('docs')")
    assert columns(docs) == {"embedding": "halfvec(4)"}
    assert value(docs, "SELECT count(*) FROM embed.switches") == 0
    assert value(docs, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass") == 2


def test_frozen_vectors_wait_for_their_rows_before_a_rollback(docs: Connection) -> None:
    begin(docs, ", keep => 'frozen'")
    finish(docs)
    docs.execute("UPDATE docs SET body = 'ONE' WHERE id = 1")
    assert value(docs, "SELECT state FROM embed._vectorizer WHERE name = 'docs_embedding_old'") == "paused"
    docs.execute("DELETE FROM embed._queue WHERE vectorizer_id = 2")
    docs.execute("INSERT INTO embed._backfill (vectorizer_id, mode) VALUES (1, 'missing')")
    assert value(docs, "SELECT embed.rollback_switch('docs')").startswith("filling: ")
    assert vectorizers(docs) == [("docs_embedding", "wide", ["embedding"])]
    docs.execute("SELECT embed.abort_switch('docs')")
    assert switch(docs, "state") == ("swapped",)
    assert value(docs, "SELECT state FROM embed._vectorizer WHERE name = 'docs_embedding_old'") == "paused"
    docs.execute("SELECT embed.rollback_switch('docs')")
    settle(docs)
    docs.execute("SELECT embed.finish_switch('docs')")
    assert vectorizers(docs) == [("docs_embedding", "fake", ["embedding"])]


def test_old_vectors_that_nobody_wants_go_with_the_swap(docs: Connection) -> None:
    begin(docs, ", keep => 'drop'")
    finish(docs)
    assert columns(docs) == {"embedding": "halfvec(7)"}
    assert value(docs, "SELECT count(*) FROM embed._vectorizer") == 1


def test_abort_drops_what_was_made(docs: Connection) -> None:
    begin(docs)
    insert_docs(docs, "four")
    docs.execute("SELECT embed.abort_switch('docs')")
    assert columns(docs) == {"embedding": "halfvec(4)"}
    assert vectorizers(docs) == [("docs_embedding", "fake", ["embedding"])]
    assert queued(docs) == ["4"]
    assert value(docs, "SELECT count(*) FROM embed._queue") == 1
    assert value(docs, "SELECT to_regprocedure('embed._enqueue_2()') IS NULL")


def test_dropping_a_vectorizer_drops_its_shadow(docs: Connection) -> None:
    begin(docs)
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    assert columns(docs) == {"embedding": "halfvec(4)"}
    assert value(docs, "SELECT count(*) FROM embed._vectorizer") == 0


def test_a_dropped_table_takes_both(docs: Connection) -> None:
    begin(docs)
    docs.execute("DROP TABLE docs")
    docs.execute("SELECT embed._forget_dropped()")
    left = (
        "SELECT (SELECT count(*) FROM embed._vectorizer), (SELECT count(*) FROM embed._switch),"
        " to_regprocedure('embed._enqueue_2()')"
    )
    assert docs.execute(left).fetchone() == (0, 0, None)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT embed.switch_model('docs', 'none')", "there is no model 'none'"),
        ("SELECT embed.switch_model('docs', 'fake')", "uses model 'fake' already"),
        ("SELECT embed.switch_model('docs', 'words')", "keeps dense vectors, and model 'words' makes none"),
        ("SELECT embed.switch_model('docs', 'wide', keep => 'perhaps')", "cannot be kept 'perhaps'"),
        ("SELECT embed.switch_model('docs', 'wide', dependants => 'x')", "dependants is 'x'"),
        ("SELECT embed.switch_model('docs', 'wide', chunking => '{}')", "splits no texts"),
        ("SELECT embed.finish_switch('docs')", "has no switch under way"),
        ("SELECT embed.abort_switch('docs')", "has no switch under way"),
        ("SELECT embed.rollback_switch('docs')", "has no switch under way"),
        ("SELECT embed.compare_switch('docs')", "has no switch under way"),
    ],
)
def test_what_cannot_be_switched_is_refused(docs: Connection, statement: str, message: str) -> None:
    create_bm25_model(docs, "words")
    code, told, hint = refused(docs, statement)
    assert code in ("PE001", "PE003")
    assert message in told
    assert hint or "already" in told
    assert columns(docs) == {"embedding": "halfvec(4)"}


def test_one_switch_at_a_time(docs: Connection) -> None:
    begin(docs)
    create_fake_model(docs, "third", dimensions=5)
    assert refused(docs, "SELECT embed.switch_model('docs', 'third')")[1].endswith("is under way")
    assert "part of a switch" in refused(docs, "SELECT embed.switch_model('docs_embedding_next', 'third')")[1]
    assert "under way" in refused(docs, "SELECT embed.forget_switch('docs')")[1]
    finish(docs)
    assert refused(docs, "SELECT embed.switch_model('docs', 'third')")[1].endswith("is done")
    assert "is done" in refused(docs, "SELECT embed.finish_switch('docs')")[1]
    assert "is done" in refused(docs, "SELECT embed.abort_switch('docs')")[1]


def test_a_space_that_lacks_rows_is_not_swapped_in(docs: Connection) -> None:
    docs.execute("SELECT embed.switch_model('docs', 'wide')")
    assert "is not ready, it is filling" in refused(docs, "SELECT embed.finish_switch('docs')")[1]
    settle(docs)
    docs.execute("SELECT embed.pause('docs_embedding_next')")
    assert "it is paused: paused by" in refused(docs, "SELECT embed.finish_switch('docs')")[1]
    docs.execute("SELECT embed.resume('docs_embedding_next')")
    docs.execute("INSERT INTO embed._failure VALUES (2, '1', 'PE020', 'no', 10)")
    assert "1 rows failed with the new model" in refused(docs, "SELECT embed.finish_switch('docs')")[1]
    docs.execute("SELECT embed.finish_switch('docs', force => true)")
    assert vectorizers(docs) == [("docs_embedding", "wide", ["embedding"])]
    assert value(docs, "SELECT key FROM embed.failures('docs_embedding')") == "1"


def test_what_would_keep_the_old_column_is_refused_or_told(docs: Connection) -> None:
    docs.execute("CREATE VIEW near AS SELECT id, embedding FROM docs")
    docs.execute("ALTER TABLE docs ADD COLUMN size float8 GENERATED ALWAYS AS (l2_norm(embedding)) STORED")
    told = refused(docs, "SELECT embed.switch_model('docs', 'wide')")[1]
    assert told.endswith(
        "old vectors of public.docs: default value for column size of table public.docs, view public.near"
    )
    begin(docs, ", dependants => 'ignore'")
    finish(docs)
    assert value(docs, "SELECT array_length(embedding::vector::real[], 1) FROM near LIMIT 1") == 4


def test_a_view_that_came_meanwhile_stops_the_swap(docs: Connection) -> None:
    begin(docs)
    docs.execute("CREATE VIEW near AS SELECT id, embedding FROM docs")
    assert refused(docs, "SELECT embed.finish_switch('docs')")[1].endswith(
        "old vectors of public.docs: view public.near"
    )
    docs.execute("DROP VIEW near")
    docs.execute("SELECT embed.finish_switch('docs')")


def test_prepared_statements_and_functions_go_over(docs: Connection) -> None:
    docs.execute("PREPARE width AS SELECT array_length(embedding::vector::real[], 1) FROM docs LIMIT 1")
    docs.execute(
        "CREATE FUNCTION width() RETURNS int STABLE LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN (SELECT array_length(embedding::vector::real[], 1) FROM docs LIMIT 1); END $$"
    )
    assert (value(docs, "EXECUTE width"), value(docs, "SELECT width()")) == (4, 4)
    begin(docs)
    finish(docs)
    assert (value(docs, "EXECUTE width"), value(docs, "SELECT width()")) == (7, 7)


def test_an_older_snapshot_is_refused_rather_than_mixed(docs: Connection, dsn: str) -> None:
    begin(docs)
    with psycopg.connect(dsn) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1 FROM embed.models")  # takes the snapshot, and holds docs in no way
        finish(docs)
        code, message, _ = refused(other, "SELECT embed('x')")
        assert (code, message) == ("40001", "a model was switched after this transaction took its snapshot")
        other.rollback()
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert refused(other, "SELECT embed('x')")[0] == "PE013", "nothing but the sidecar is missing"


def test_nobody_waits_for_long_behind_a_swap_that_waits(docs: Connection, dsn: str) -> None:
    begin(docs)
    docs.execute("SELECT embed.compare_switch('docs')")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT FROM docs")
        code, message, hint = refused(docs, "SELECT embed.finish_switch('docs', timeout => '0.3 s')")
        assert code == "55P03"
        assert message == "table public.docs was in use for 00:00:00.3, and nobody was made to wait for this"
        assert hint
    assert value(docs, "SHOW lock_timeout") == "0"
    docs.execute("SELECT embed.finish_switch('docs')")


def test_rights_on_the_column_go_over(docs: Connection, make_role: MakeRole) -> None:
    role = make_role("embed_reader")
    docs.execute(f'GRANT SELECT (id, embedding) ON docs TO "{role.name}"')
    begin(docs)
    finish(docs)
    with psycopg.connect(role.dsn, autocommit=True) as reader:
        assert value(reader, "SELECT array_length(embedding::vector::real[], 1) FROM docs LIMIT 1") == 7
        assert reader.execute("SELECT state, keep FROM embed.switches").fetchall() == [("swapped", "in step")]
        assert refused(reader, "SELECT embed.rollback_switch('docs')")[0] == "42501"
    docs.execute(f'REVOKE SELECT (id, embedding, embedding_old) ON docs FROM "{role.name}"')


def test_what_is_said_of_the_column_stays_with_its_name(docs: Connection) -> None:
    said = """SELECT a.attname::text, col_description(a.attrelid, a.attnum) FROM pg_attribute AS a
        WHERE a.attrelid = 'docs'::regclass AND a.attname LIKE 'embedding%%' ORDER BY 1"""
    docs.execute("COMMENT ON COLUMN docs.embedding IS 'what it means'")
    begin(docs)
    finish(docs)
    ours = "pg_embed: added for a vectorizer"
    assert docs.execute(said).fetchall() == [("embedding", "what it means"), ("embedding_old", ours)]
    docs.execute("SELECT embed.rollback_switch('docs')")
    assert docs.execute(said).fetchall() == [("embedding", "what it means"), ("embedding_old", ours)]


def test_only_the_owner_switches(docs: Connection, make_role: MakeRole) -> None:
    with psycopg.connect(make_role("embed_owner").dsn, autocommit=True) as stranger:
        assert refused(stranger, "SELECT embed.switch_model('docs', 'wide')")[0] == "42501"
        begin(docs)
        docs.execute("SELECT embed.compare_switch('docs')")
        for call in ("finish_switch('docs')", "abort_switch('docs')", "compare_switch('docs')"):
            assert refused(stranger, f"SELECT embed.{call}")[0] == "42501"
        stranger.execute(
            "SELECT embed._switch_tried_v1(2, 'a lie', false), embed._switch_compared_v1(2, 0, 9)"
        )
    assert docs.execute("SELECT error, compared FROM embed._switch").fetchall() == [(None, 3)]


def test_an_owner_switches_with_no_other_right(db: Connection, make_role: MakeRole) -> None:
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    role = make_role("embed_owner")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
        owner.execute("SELECT embed.create_vectorizer('mine.docs', 'body', model => 'fake')")
        owner.execute("SELECT embed.switch_model('mine.docs', 'wide')")
        settle(db)
        finish(owner, "mine.docs")
        assert value(owner, "SELECT state FROM embed.switches") == "swapped"
        owner.execute("SELECT embed.rollback_switch('mine.docs')")
        owner.execute("SELECT embed.forget_switch('mine.docs')")
    assert vectorizers(db) == [("docs_embedding", "fake", ["embedding"])]


def test_a_worker_role_may_write_the_new_column(docs: Connection) -> None:
    begin(docs)
    may = "SELECT has_column_privilege('embed_worker', 'docs', %s, 'UPDATE')"
    assert value(docs, may, "embedding_next")
    finish(docs)
    assert value(docs, may, "embedding")
    docs.execute("SELECT embed.forget_switch('docs')")
    assert value(docs, may, "embedding")
    assert not value(docs, may, "body")


def test_embed_is_warned_of_where_it_would_be_ambiguous(docs: Connection) -> None:
    docs.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('notes', 'body', model => 'fake')")
    told: list[str] = []
    docs.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    begin(docs)
    assert any("'notes_embedding' stay with fake" in message for message in told)
    finish(docs)
    assert refused(docs, "SELECT embed('x')")[0] == "PE002"
    for table, model in (("docs", "wide"), ("notes", "fake")):
        assert value(docs, "SELECT (embed._query_model('dense', %s)).name", table) == model
        assert refused(docs, f"SELECT embed('x', vectorizer => '{table}')")[0] == "PE013"
    assert "both a model and a vectorizer" in refused(docs, "SELECT embed('x', 'wide', 'docs')")[1]
    assert "keeps no sparse vectors" in refused(docs, "SELECT embed_sparse('x', vectorizer => 'docs')")[1]
    assert "no vectorizer 'nothing'" in refused(docs, "SELECT embed('x', vectorizer => 'nothing')")[1]


def test_an_index_is_asked_for_as_before(docs: Connection) -> None:
    docs.execute("SELECT embed.create_index('docs', 'hnsw', m => 5, min_rows => 7)")
    begin(docs)
    asked = docs.execute("SELECT kind, m, min_rows FROM embed._index ORDER BY vectorizer_id").fetchall()
    assert asked == [("hnsw", 5, 7), ("hnsw", 5, 7)]
    assert switch(docs, "state") == ("indexing",)
    docs.execute("SELECT embed.abort_switch('docs')")
    docs.execute("SELECT embed.create_index('docs', 'none')")
    docs.execute("CREATE INDEX by_hand ON docs USING hnsw (embedding halfvec_cosine_ops)")
    begin(docs)
    assert docs.execute("SELECT kind, min_rows FROM embed._index").fetchall() == [("auto", 0)]
    docs.execute("SELECT embed.abort_switch('docs')")
    begin(docs, ", index => 'none'")
    assert docs.execute("SELECT * FROM embed._index").fetchall() == []


def test_a_pair_keeps_its_sparse_model_and_has_postings(docs: Connection) -> None:
    create_bm25_model(docs)
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25')")
    docs.execute("SELECT embed.switch_model('docs', 'wide')")
    settle(docs)
    docs.execute("SELECT embed.finish_switch('docs', force => true)")
    found = docs.execute("SELECT model, sparse_model, columns FROM embed.vectorizers").fetchall()
    assert found == [("wide", "bm25", ["embedding", "sparse"])]
    assert value(docs, "SELECT count(*) FROM embed._postings") == 2
    told = value(docs, "SELECT embed._search_legs_v1('docs'::regclass, NULL, NULL, false)")
    assert [leg["indexed"] for leg in told["legs"]["sparse"]] == [True]
    docs.execute("SELECT embed.rollback_switch('docs')")


def test_every_partition_goes_over(docs: Connection) -> None:
    docs.execute("CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    docs.execute("CREATE TABLE parts_1 PARTITION OF parts DEFAULT")
    docs.execute("SELECT embed.create_vectorizer('parts', 'body', model => 'fake')")
    docs.execute("SELECT embed.switch_model('parts', 'wide')")
    settle(docs)
    finish(docs, "parts")
    for table in ("parts", "parts_1"):
        assert columns(docs, table) == {"embedding_old": "halfvec(4)", "embedding": "halfvec(7)"}
    docs.execute("INSERT INTO parts VALUES (1, 'one')")
    assert queued(docs, "parts_embedding") == queued(docs, "parts_embedding_old") == ["1"]


def test_queries_are_compared_that_are_given(docs: Connection) -> None:
    begin(docs)
    assert refused(docs, "SELECT embed.compare_switch('docs', ARRAY['a question'])")[0] == "PE013"
    assert "samples is 0" in refused(docs, "SELECT embed.compare_switch('docs', samples => 0)")[1]
    docs.execute("UPDATE docs SET embedding_next = NULL")
    assert value(docs, "SELECT embed.compare_switch('docs')") is None
    assert switch(docs, "overlap_at_10", "compared") == (None, 0)


def test_a_switch_leaves_room_for_searches(docs: Connection) -> None:
    begin(docs)
    gentle = (
        "SELECT is_gentle, (embed._index_look_v1(vectorizer, NULL, NULL, NULL, NULL, NULL)).parallel_workers"
    )
    work = f"{gentle} FROM embed._work_v1() ORDER BY vectorizer".encode()
    assert docs.execute(work).fetchall() == [(False, None), (True, 0)]
    docs.execute("SELECT embed.create_index('docs_embedding_next', 'hnsw', parallel_workers => 3)")
    assert docs.execute(work).fetchall() == [(False, None), (True, 3)]
    docs.execute("SELECT embed.create_index('docs_embedding_next', 'none')")
    finish(docs)
    assert docs.execute(work).fetchall() == [(True, 0), (False, None)]


def test_neighbours_are_filled_one_after_another(docs: Connection) -> None:
    insert_docs(docs, *(f"text {number}" for number in range(37)))
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', column_name => 'other')")
    docs.execute("SELECT embed.switch_model('docs_embedding', 'wide')")
    assert paged(docs, "docs_other") == list(range(1, 41))
    keys = paged(docs, "docs_embedding_next")
    assert keys[:6] == [16, 32, 1, 17, 33, 2]
    assert sorted(keys) == list(range(1, 41))


def paged(db: Connection, vectorizer: str) -> list[int]:
    """The keys that a backfill queues next, in their order."""
    clear_queue(db)
    db.execute("SELECT embed._page_v1(id, 1000) FROM embed._vectorizer WHERE name = %s", [vectorizer])
    found = db.execute(
        "SELECT unnest(embed._keys(q)) FROM embed._queue AS q WHERE q.priority = 2 ORDER BY q.id"
    )
    return [int(key) for (key,) in found.fetchall()]
