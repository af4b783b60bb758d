"""What is renamed keeps working at once; what is dropped stops its vectorizer and loses no vector."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import queued, refused, tend, value


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with two rows and a vectorizer that reads title and body where id is not 99."""
    create_fake_model(db)
    create_docs(db, "one", "two")
    db.execute("SELECT embed.create_vectorizer('docs', ARRAY['title', 'body'], filter => 'id <> 99')")
    return db


TEXT = "CASE WHEN num_nonnulls(title, body) > 0 THEN concat(title, E'\\n', body) END"


@pytest.mark.parametrize("running", [True, False], ids=["worker running", "worker started later"])
@pytest.mark.parametrize(
    "rename",
    [
        "ALTER TABLE docs RENAME body TO words",
        "ALTER TABLE docs RENAME embedding TO vectors",
        "ALTER TABLE docs RENAME id TO number",
        "ALTER TABLE docs RENAME TO papers",
        "CREATE SCHEMA attic; ALTER TABLE docs SET SCHEMA attic",
        'CREATE SCHEMA "The Attic"; ALTER TABLE docs SET SCHEMA "The Attic";'
        ' ALTER TABLE "The Attic".docs RENAME TO "select";'
        ' ALTER TABLE "The Attic"."select" RENAME id TO "from";'
        ' ALTER TABLE "The Attic"."select" RENAME body TO "Ünter ""x"""',
    ],
)
def test_a_rename_is_followed_at_once(
    docs: Connection, dsn: str, start_worker: StartWorker, rename: str, running: bool
) -> None:
    if running:
        start_worker(dsn)
        docs.execute("SELECT embed.wait('docs')")
    docs.execute(rename)
    names = docs.execute(
        "SELECT format('%s', source), quote_ident(column_name), quote_ident(key[1]),"
        " template FROM embed.vectorizers"
    ).fetchone()
    assert names is not None
    table, column, key, template = names
    body = '"Ünter ""x"""' if '"select"' in table else template.split("{")[-1].rstrip("}")
    docs.execute(f"INSERT INTO {table} ({key}, {body}) VALUES (3, 'three'), (99, 'left out')")
    docs.execute(f"UPDATE {table} SET {body} = 'changed' WHERE {key} = 1")
    docs.execute(f"UPDATE {table} SET {key} = 4 WHERE {key} = 2")
    assert queued(docs)[-4:] == ["3", "99", "1", "4"] or running
    if not running:
        start_worker(dsn)
    docs.execute("SELECT embed.wait(%s)", [table])
    text = f"CASE WHEN {key} <> 99 AND num_nonnulls(title, {body}) > 0 THEN concat(title, E'\\n', {body}) END"
    assert broken_rows(docs, table, f"{key}::text", text, column) == []
    assert value(docs, f"SELECT count({column}) FROM {table}") == 3


def test_a_key_of_several_columns_may_be_renamed_and_swapped(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE pages (body text, a int, b text, PRIMARY KEY (a, b))")
    docs.execute("SELECT embed.create_vectorizer('pages', 'body')")
    docs.execute(
        "ALTER TABLE pages RENAME a TO x; ALTER TABLE pages RENAME b TO a; ALTER TABLE pages RENAME x TO b"
    )
    docs.execute("INSERT INTO pages (body, a, b) VALUES ('one', 'text', 1)")
    docs.execute("UPDATE pages SET body = 'two'")
    assert queued(docs, "pages_embedding") == ['["1", "text"]'] * 2
    start_worker(dsn)
    docs.execute("SELECT embed.wait('pages')")
    assert broken_rows(docs, "pages", vectorizer="pages_embedding", key="a") == []


def test_maintenance_writes_the_trigger_anew_after_a_rename(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs RENAME id TO number")
    source = "SELECT prosrc FROM pg_proc WHERE proname ~ '^_enqueue_'"
    docs.execute("SELECT embed._tend_v1()")
    renewed = value(docs, source)
    assert "number" in renewed
    docs.execute("SELECT embed._tend_v1()")
    assert value(docs, source) == renewed
    docs.execute("INSERT INTO docs (number) VALUES (5)")
    assert queued(docs) == ["5"]


def test_an_input_column_cannot_be_dropped_unasked(docs: Connection) -> None:
    state, _, _ = refused(docs, "ALTER TABLE docs DROP COLUMN body")
    assert state == "2BP01"


def test_a_dropped_input_column_stops_the_vectorizer_and_loses_no_vector(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, tend_every=0.05)
    docs.execute("SELECT embed.wait('docs')")
    before = docs.execute("SELECT id, embedding::text FROM docs ORDER BY id").fetchall()
    docs.execute("ALTER TABLE docs DROP COLUMN body CASCADE")
    docs.execute("INSERT INTO docs (id, title) VALUES (3, 'three')")
    docs.execute("UPDATE docs SET title = 'new' WHERE id = 1")
    state, message, _ = refused(docs, "SELECT embed.wait('docs')")
    assert state == "PE040"
    assert "input column was dropped" in message
    found = docs.execute("SELECT state, reason, template FROM embed.vectorizers").fetchone()
    assert found is not None
    assert found[0] == "stopped"
    assert "embed.alter_vectorizer" in found[1]
    assert found[2] == "{title}\n{dropped column}"
    assert docs.execute("SELECT state FROM embed.status").fetchone() == ("stopped",)
    state, explanation = docs.execute("SELECT state, explanation FROM embed.why('docs', 3)").fetchone() or (
        "",
        "",
    )
    assert state == "stopped"
    assert "input column was dropped" in explanation
    assert docs.execute("SELECT id, embedding::text FROM docs WHERE id < 3 ORDER BY id").fetchall() == before
    state, message, hint = refused(docs, "SELECT embed.resume('docs')")
    assert state == "PE003"
    assert "input column was dropped" in message
    assert "embed.alter_vectorizer" in message + hint
    docs.execute("SELECT embed.alter_vectorizer('docs', 'title')")
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT state FROM embed.vectorizers") == "active"
    assert broken_rows(docs, text="title") == []


def test_what_still_reads_a_dropped_column_cannot_be_altered(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs DROP COLUMN body CASCADE")
    state, message, hint = refused(docs, "SELECT embed.alter_vectorizer('docs', filter => '')")
    assert state == "PE003"
    assert "was dropped" in message
    assert "input" in hint
    docs.execute("SELECT embed.alter_vectorizer('docs', 'title', filter => '')")
    assert value(docs, "SELECT state FROM embed.vectorizers") == "active"


def test_a_column_dropped_while_its_rows_are_in_hand_loses_no_row(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model)
    call = model.next_call()
    docs.execute("ALTER TABLE docs DROP COLUMN body CASCADE")
    model.open()
    call.go()
    docs.execute("UPDATE docs SET title = 'T'")
    docs.execute("SELECT embed.alter_vectorizer('docs', 'title')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="title") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE docs DROP COLUMN embedding", "column of the vectors was dropped"),
        ("ALTER TABLE docs DROP COLUMN id CASCADE", "primary key"),
        ("ALTER TABLE docs DROP CONSTRAINT docs_pkey", "primary key"),
        ("ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (title)", "primary key"),
        ("ALTER TABLE docs DISABLE TRIGGER USER", "trigger"),
        ("DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE docs ENABLE REPLICA TRIGGER %I', tgname)"
         " FROM pg_trigger WHERE tgname ~ '^pg_embed.*insert$'); END $$", "trigger"),
        ("CREATE TABLE root (LIKE docs INCLUDING ALL) PARTITION BY RANGE (id);"
         "ALTER TABLE root ATTACH PARTITION docs DEFAULT", "became a partition"),
    ],
)  # fmt: skip
def test_what_a_vectorizer_cannot_do_without_stops_it_and_never_a_writer(
    docs: Connection, change: str, reason: str
) -> None:
    docs.execute("CREATE SEQUENCE numbers START 10; ALTER TABLE docs ALTER id SET DEFAULT nextval('numbers')")
    docs.execute("UPDATE docs SET title = id::text")
    docs.execute(change)
    docs.execute("INSERT INTO docs (title, body) VALUES ('t', 'new')")
    docs.execute("UPDATE docs SET body = 'other'")
    docs.execute("SELECT embed._tend_v1()")
    found = docs.execute("SELECT state, reason FROM embed.vectorizers").fetchone()
    assert found is not None
    assert found[0] == "stopped"
    assert reason in found[1]
    docs.execute("INSERT INTO docs (title, body) VALUES ('u', 'newer')")
    assert refused(docs, "SELECT embed.resume('docs')")[0] == "PE003"
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    assert value(docs, "SELECT count(*) FROM embed.vectorizers") == 0


def test_a_primary_key_made_anew_is_followed(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (id)")
    insert_docs(docs, "three")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text=TEXT) == []
    docs.execute("SELECT embed._tend_v1()")
    assert value(docs, "SELECT state FROM embed.vectorizers") == "active"


def test_a_stopped_vectorizer_that_can_work_again_looks_at_every_row(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    tend(docs)
    docs.execute("UPDATE docs SET body = 'unseen'")
    docs.execute("ALTER TABLE docs ENABLE TRIGGER USER")
    docs.execute("SELECT embed.resume('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text=TEXT) == []


@pytest.mark.parametrize("at_once", [True, False])
def test_rows_that_came_while_triggers_were_off_are_looked_at(
    docs: Connection, dsn: str, start_worker: StartWorker, at_once: bool
) -> None:
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    with docs.transaction() if at_once else nullcontext():
        docs.execute("ALTER TABLE docs DISABLE TRIGGER USER")
        docs.execute("UPDATE docs SET body = 'unseen'")
        insert_docs(docs, "unseen, too")
        docs.execute("ALTER TABLE docs ENABLE TRIGGER USER")
    tend(docs)
    docs.execute("SELECT embed.resume('docs')")  # where the worker has seen them off
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text=TEXT) == []
    tend(docs)
    assert value(docs, "SELECT count(*) FROM embed._backfill") == 0, "once is enough"


@pytest.mark.parametrize(
    "change", ["alter_vectorizer('docs', template => '{body}')", "set_replication('docs', 'origin')"]
)
def test_they_are_looked_at_though_triggers_are_made_anew(docs: Connection, change: str) -> None:
    if "origin" in change:
        docs.execute("SELECT embed.set_replication('docs', 'always')")
    docs.execute("DELETE FROM embed._backfill")
    docs.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    docs.execute("ALTER TABLE docs ENABLE TRIGGER USER")
    docs.execute(f"SELECT embed.{change}")
    assert value(docs, "SELECT mode FROM embed._backfill") == "all"
    docs.execute("DELETE FROM embed._backfill")
    docs.execute("SELECT embed._tend_v1()")
    assert value(docs, "SELECT count(*) FROM embed._backfill") == 0


@pytest.mark.parametrize("storage", ["column", "table"])
@pytest.mark.parametrize(
    ("create", "change"),
    [
        ("CREATE TYPE kind AS ENUM ('old', 'other')", "ALTER TYPE kind RENAME VALUE 'old' TO 'new'"),
        ("CREATE DOMAIN kind AS text", "ALTER DOMAIN kind ADD CHECK (VALUE <> 'old') NOT VALID"),
    ],
    ids=["enum", "domain"],
)
def test_a_queued_key_that_is_none_any_more_is_in_nobody_s_way(
    db: Connection, dsn: str, start_worker: StartWorker, create: str, change: str, storage: str
) -> None:
    create_fake_model(db)
    db.execute(create)
    db.execute("CREATE TABLE notes (id kind PRIMARY KEY, body text)")
    db.execute("INSERT INTO notes VALUES ('old', 'one')")
    db.execute("SELECT embed.create_vectorizer('notes', 'body', storage => %s)", [storage])
    worker = start_worker(dsn)
    db.execute("SELECT embed.wait('notes')")
    worker.stop()
    db.execute("UPDATE notes SET body = 'two'")
    db.execute("INSERT INTO notes VALUES ('other', 'three')")
    db.execute("INSERT INTO embed._failure SELECT id, 'old', 'x', 'x', 1 FROM embed._vectorizer")
    if "DOMAIN" in create:
        db.execute("DELETE FROM notes WHERE id = 'old'")
    db.execute(change)
    start_worker(dsn, tend_every=0.05)
    db.execute("SELECT embed.wait('notes')")
    if storage == "column":
        assert broken_rows(db, "notes", vectorizer="notes_embedding") == []
    else:
        found = "SELECT string_agg(chunk, ' ' ORDER BY id) FROM notes_embedding WHERE embedding IS NOT NULL"
        assert value(db, found) == ("three" if "DOMAIN" in create else "two three")
    while value(db, "SELECT count(*) FROM embed.failures"):
        db.execute("SELECT embed._prune_v1(id) FROM embed._vectorizer")  # passes over what the worker prunes


def test_another_expression_of_a_generated_column_is_another_text(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    if docs.info.server_version < 170000:
        pytest.skip("SET EXPRESSION came with PostgreSQL 17")
    docs.execute(
        "CREATE TABLE notes"
        " (id int PRIMARY KEY, body text, whole text GENERATED ALWAYS AS (body || '!') STORED)"
    )
    docs.execute("INSERT INTO notes (id, body) VALUES (1, 'one'), (2, 'two')")
    docs.execute("SELECT embed.create_vectorizer('notes', 'whole')")
    start_worker(dsn, tend_every=0.05)
    docs.execute("SELECT embed.wait('notes')")
    docs.execute("ALTER TABLE notes ALTER whole SET EXPRESSION AS (body || '?')")
    tend(docs)
    docs.execute("SELECT embed.wait('notes')")
    assert broken_rows(docs, "notes", text="body || '?'", vectorizer="notes_embedding") == []
    docs.execute("ALTER TABLE notes ALTER whole DROP EXPRESSION")
    tend(docs)
    assert value(docs, "SELECT count(*) FROM embed._backfill") == 0, "which changes no text"


def test_a_dropped_table_is_cleaned_up_after(docs: Connection) -> None:
    insert_docs(docs, "three")
    docs.execute("DROP TABLE docs")
    docs.execute("SELECT * FROM embed.vectorizers, embed.status, embed.failures")
    docs.execute("SELECT embed._tend_v1()")
    for table in ("_vectorizer", "_queue", "_backfill", "_failure"):
        assert value(docs, f"SELECT count(*) FROM embed.{table}") == 0
    assert value(docs, "SELECT count(*) FROM pg_proc WHERE proname ~ '^_enqueue'") == 0


def test_a_dropped_table_s_vectorizer_may_be_dropped_by_name(docs: Connection) -> None:
    docs.execute("DROP TABLE docs")
    docs.execute("SELECT embed.drop_vectorizer('docs_embedding')")
    assert value(docs, "SELECT count(*) FROM embed.vectorizers") == 0
    assert value(docs, "SELECT count(*) FROM pg_proc WHERE proname ~ '^_enqueue'") == 0


def test_a_column_whose_number_another_gets_after_dump_or_drop_is_not_mistaken(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs DROP COLUMN body CASCADE")
    docs.execute("ALTER TABLE docs ADD COLUMN body text")
    docs.execute("SELECT embed._tend_v1()")
    assert value(docs, "SELECT state FROM embed.vectorizers") == "stopped"


def test_a_table_made_anew_does_not_share_a_name_with_the_dropped_one(docs: Connection) -> None:
    docs.execute("DROP TABLE docs")
    create_docs(docs, "one")
    assert value(docs, "SELECT embed.create_vectorizer('docs', 'body')") == "docs_embedding"
    assert value(docs, "SELECT count(*) FROM embed.vectorizers") == 1
    docs.execute("SELECT embed.pause('docs_embedding')")
    assert value(docs, "SELECT state FROM embed.status('docs')") == "paused"


def test_a_vectorizer_without_its_column_makes_room_for_another(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs DROP COLUMN embedding")
    assert (
        value(docs, "SELECT embed.create_vectorizer('docs', 'body', if_not_exists => true)")
        == "docs_embedding"
    )
    assert docs.execute("SELECT name, state FROM embed.vectorizers").fetchall() == [
        ("docs_embedding", "active")
    ]
    assert (
        value(
            docs, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass AND tgname ~ '^pg_embed'"
        )
        == 2
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("ALTER TABLE docs DROP COLUMN embedding", "the column of the vectors was dropped"),
        ("UPDATE docs SET title = id; ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (title)",
         "primary key was dropped or changed"),
        ("ALTER TABLE docs DROP CONSTRAINT docs_pkey", "has no primary key"),
    ],
)  # fmt: skip
def test_what_alter_cannot_mend_is_told_and_a_name_may_change_all_the_same(
    docs: Connection, change: str, word: str
) -> None:
    docs.execute(change)
    state, message, _ = refused(docs, "SELECT embed.alter_vectorizer('docs', 'body', filter => '')")
    assert state == "PE003"
    assert word in message
    assert value(docs, "SELECT embed.alter_vectorizer('docs', rename_to => 'new')") == "new"
