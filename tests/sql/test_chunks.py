"""Vectorizers with storage 'table': the table of the chunks, its view, their rights, and what is queued."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from pg_embed.chunks import Chunking
from pg_embed.chunks.chunking import LARGEST, SMALLEST
from pg_embed.chunks.grammars import GRAMMARS
from tests.fix_pg import MakeRole, Role
from tests.fix_worker import Connection, StartWorker, create_docs, create_fake_model
from tests.sql.helpers import clear_queue, queued, refused, value

MAKE = "SELECT embed.create_vectorizer('docs', 'body', storage => 'table')"
RELATIONS = "SELECT relname FROM pg_class WHERE relname LIKE 'docs\\_%' AND relkind IN ('r', 'v') ORDER BY 1"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with two rows and a table of chunks."""
    if not value(db, "SELECT count(*) FROM embed.models WHERE name = 'fake'"):
        create_fake_model(db)
    create_docs(db, "one", "two")
    db.execute(MAKE)
    return db


@pytest.fixture
def owner(db: Connection, make_role: MakeRole) -> Role:
    """A member of embed_owner with a schema of its own."""
    if not value(db, "SELECT count(*) FROM embed.models WHERE name = 'fake'"):
        create_fake_model(db)
    role = make_role("embed_owner")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{role.name}"')
    return role


@pytest.fixture
def owned(owner: Role) -> Iterator[Connection]:
    """A connection of that owner, who has a table of notes with chunks."""
    with psycopg.connect(owner.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine.notes (id int PRIMARY KEY, who text, body text)")
        connection.execute("SELECT embed.create_vectorizer('mine.notes', 'body', storage => 'table')")
        yield connection


def test_the_catalog_shows_where_the_chunks_are(docs: Connection) -> None:
    assert docs.execute(
        "SELECT name, storage, chunk_table::text, chunk_view::text, columns, chunking FROM embed.vectorizers"
    ).fetchall() == [
        (
            "docs_embedding",
            "table",
            "docs_embedding",
            "docs_chunks",
            ["embedding"],
            {"size": 400, "overlap": 0, "split": "text", "language": None, "headings": False},
        )
    ]
    docs.execute("SELECT embed.create_vectorizer('docs', 'title', column_name => 'other')")
    assert docs.execute(
        "SELECT storage, chunk_table FROM embed.vectorizers WHERE name = 'docs_other'"
    ).fetchall() == [("column", None)]


def test_the_table_has_the_key_with_its_types_and_keeps_vectors_inline(db: Connection) -> None:
    create_fake_model(db)
    db.execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")
    db.execute(
        'CREATE TABLE docs (body text, mood mood, "The Key" varchar(9) COLLATE "C", at timestamptz,'
        ' PRIMARY KEY ("The Key", at, mood))'
    )
    db.execute(MAKE)
    columns = db.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull FROM pg_attribute AS a"
        " WHERE a.attrelid = 'docs_embedding'::regclass AND a.attnum > 0 ORDER BY a.attnum"
    ).fetchall()
    assert columns == [
        ("chunk_id", "bigint", True),
        ("The Key", "character varying(9)", True),
        ("at", "timestamp with time zone", True),
        ("mood", "mood", True),
        ("chunk_no", "integer", True),
        ("chunk", "text", True),
        ("context", "text", True),
        ("chunk_hash", "bigint", True),
        ("embedding", "halfvec(4)", False),
    ]
    assert value(db, "SELECT reloptions FROM pg_class WHERE relname = 'docs_embedding'") == [
        "toast_tuple_target=8160"
    ]
    assert (
        value(
            db,
            "SELECT collname FROM pg_attribute AS a JOIN pg_collation AS c ON c.oid = a.attcollation"
            " WHERE a.attrelid = 'docs_embedding'::regclass AND a.attname = 'The Key'",
        )
        == "C"
    )


def test_names_can_be_chosen_and_one_that_is_taken_is_an_error(docs: Connection) -> None:
    state, message, hint = refused(docs, MAKE)
    assert (state, message) == ("PE003", "public.docs_chunks exists already")
    assert "chunk_view" in hint
    docs.execute(
        "SELECT embed.create_vectorizer('docs', 'title', storage => 'table', name => 'titles',"
        " chunk_table => 'Title chunks', chunk_view => 'Titles', column_name => 'vec')"
    )
    docs.execute('SELECT "vec" FROM "Title chunks"')
    docs.execute('SELECT "vec", (source).title FROM "Titles"')
    state, message, _ = refused(
        docs, MAKE.replace("'table'", f"'table', chunk_table => '{'x' * 64}', chunk_view => 'y'")
    )
    assert (state, "longer than 63" in message) == ("PE003", True)


def test_a_second_call_finds_the_first_where_it_is_told_to(docs: Connection) -> None:
    again = "SELECT embed.create_vectorizer('docs', 'body', storage => 'table', if_not_exists => true)"
    assert value(docs, again) == "docs_embedding"
    assert value(docs, again.replace("'table'", "'column'")) == "public_docs_embedding"
    assert value(docs, again) == "docs_embedding"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("storage => 'elsewhere'", "no storage 'elsewhere'"),
        ("chunking => '{}'", "only with a table"),
        ("chunk_table => 'c'", "only with a table"),
        ("storage => 'table', chunking => '[]'", "JSON array"),
        ("storage => 'table', chunking => '{\"length\": 3}'", "no setting length"),
        ("storage => 'table', chunking => '{\"size\": 0}'", "cannot be used: size"),
        ("storage => 'table', chunking => '{\"size\": 1.5}'", "cannot be used: size"),
        ("storage => 'table', chunking => '{\"size\": \"x\"}'", "size"),
        ("storage => 'table', chunking => '{\"size\": null}'", "size"),
        ("storage => 'table', chunking => '{\"size\": 40, \"overlap\": 40}'", "cannot be used: overlap"),
        ("storage => 'table', chunking => '{\"split\": \"words\"}'", "cannot be used: split"),
        ("storage => 'table', chunking => '{\"headings\": 1}'", "cannot be used: headings"),
        ("storage => 'table', chunking => '{\"headings\": true}'", "cannot be used: headings"),
        ("storage => 'table', chunking => '{\"language\": \"python\"}'", "cannot be used: language"),
        ("storage => 'table', chunking => '{\"split\": \"code\"}'", "cannot be used: language"),
        ("storage => 'table', chunk_table => ''", "need names"),
        ("storage => 'table', column_name => 'chunk'", "column chunk of public.docs_embedding exists"),
        ("storage => 'table', column_name => 'id'", "column id of public.docs_embedding exists"),
    ],
)
def test_what_cannot_be_is_told_and_leaves_nothing(db: Connection, arguments: str, message: str) -> None:
    create_fake_model(db)
    create_docs(db)
    state, told, hint = refused(db, f"SELECT embed.create_vectorizer('docs', 'body', {arguments})")
    assert state == "PE003"
    assert message in told
    assert hint
    assert db.execute(RELATIONS).fetchall() == []


def test_what_the_catalog_takes_the_splitter_takes(db: Connection) -> None:
    for told in (
        *({"split": "code", "language": language} for language in GRAMMARS),
        {"size": SMALLEST, "overlap": SMALLEST - 1},
        {"size": LARGEST, "split": "markdown", "headings": True},
        {},
    ):
        kept = value(db, "SELECT embed._chunking(%s)", Jsonb(told))
        assert Chunking.from_json(kept) == Chunking(**told)
    for size in (SMALLEST - 1, LARGEST + 1):
        assert refused(db, "SELECT embed._chunking(%s)", Jsonb({"size": size}))[0] == "PE003"


def test_chunks_are_no_longer_than_the_model_reads(db: Connection) -> None:
    create_fake_model(db, max_tokens=100)
    create_docs(db)
    state, message, _ = refused(db, MAKE.replace("'table'", "'table', chunking => '{\"size\": 101}'"))
    assert (state, message) == ("PE003", "chunks of 101 tokens are too long: the model reads 100")
    db.execute(MAKE)
    assert value(db, "SELECT chunking ->> 'size' FROM embed.vectorizers") == "100"


def test_a_key_with_the_name_of_a_column_of_the_chunks_is_told(db: Connection) -> None:
    create_fake_model(db)
    db.execute("CREATE TABLE docs (chunk_no int PRIMARY KEY, body text)")
    state, message, _ = refused(db, MAKE)
    assert (state, "chunk_no" in message) == ("PE003", True)


def test_dropping_keeps_the_chunks_or_takes_them_along(docs: Connection) -> None:
    docs.execute("SELECT embed.drop_vectorizer('docs_embedding')")
    assert docs.execute(RELATIONS).fetchall() == [("docs_chunks",), ("docs_embedding",)]
    assert not value(
        docs, "SELECT has_table_privilege('embed_worker', 'docs_embedding', 'SELECT, INSERT, UPDATE, DELETE')"
    )
    assert value(docs, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass") == 0
    docs.execute("DROP VIEW docs_chunks; DROP TABLE docs_embedding")
    docs.execute(MAKE)
    docs.execute("SELECT embed.drop_vectorizer('docs_embedding', drop_column => true)")
    assert docs.execute(RELATIONS).fetchall() == []


def test_the_columns_of_the_table_may_change_under_the_view(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs ADD source text DEFAULT 'mine'")
    docs.execute("ALTER TABLE docs ALTER title TYPE varchar(99), ADD extra int DEFAULT 7")
    docs.execute(
        "INSERT INTO docs_embedding (id, chunk_no, chunk, context, chunk_hash) VALUES (1, 1, 'one', '', 0)"
    )
    assert docs.execute("SELECT id, chunk, (source).extra, (source).source FROM docs_chunks").fetchall() == [
        (1, "one", 7, "mine")
    ]
    docs.execute("ALTER TABLE docs DROP title, DROP source")
    docs.execute("ALTER TABLE docs RENAME id TO number")
    assert docs.execute("SELECT (source).number FROM docs_chunks").fetchall() == [(1,)]


@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_rows_that_went_are_queued_as_those_that_came(db: Connection, partitioned: bool) -> None:
    create_fake_model(db)
    db.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, other int)"
        + (" PARTITION BY HASH (id)" if partitioned else "")
    )
    if partitioned:
        for part in (0, 1):
            db.execute(
                f"CREATE TABLE docs_{part} PARTITION OF docs FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
            )
    db.execute("SELECT embed.create_vectorizer('docs', 'body', storage => 'table', backfill => false)")
    db.execute("INSERT INTO docs SELECT i, 'text', 0 FROM generate_series(1, 6) AS i")
    clear_queue(db)
    db.execute("UPDATE docs SET other = 1")
    assert queued(db) == []
    db.execute("DELETE FROM docs WHERE id < 3")
    assert sorted(queued(db)) == ["1", "2"]
    clear_queue(db)
    db.execute("UPDATE docs SET id = 30 WHERE id = 3")
    assert set(queued(db)) == {"3", "30"}
    clear_queue(db)
    db.execute("ALTER TABLE docs RENAME id TO number")
    db.execute("DELETE FROM docs WHERE number = 4")
    db.execute("UPDATE docs SET number = 50 WHERE number = 5")
    db.execute("UPDATE docs SET body = 'new' WHERE number = 6")
    assert set(queued(db)) == {"4", "5", "50", "6"}


def test_a_vectorizer_that_lost_its_chunks_stops_and_says_why(docs: Connection) -> None:
    docs.execute("DROP TABLE docs_embedding CASCADE")
    docs.execute("SELECT embed._tend_v1()")
    state, reason = docs.execute("SELECT state, reason FROM embed.vectorizers").fetchall()[0]
    assert (state, "chunks was dropped" in reason) == ("stopped", True)
    docs.execute("INSERT INTO docs VALUES (3, 'x', 'y')")
    docs.execute(MAKE)
    assert value(docs, "SELECT count(*) FROM embed.vectorizers") == 1


def test_a_missing_trigger_for_deletions_is_noticed(docs: Connection) -> None:
    docs.execute("SELECT format('DROP TRIGGER pg_embed_%s_delete ON docs', id) FROM embed._vectorizer")
    name = value(docs, "SELECT format('pg_embed_%s_delete', id) FROM embed._vectorizer")
    docs.execute(f"DROP TRIGGER {name} ON docs")
    assert "trigger" in value(docs, "SELECT embed._problem(v) FROM embed._vectorizer AS v")
    docs.execute("SELECT embed.alter_vectorizer('docs_embedding', 'body')")
    assert value(docs, "SELECT embed._problem(v) FROM embed._vectorizer AS v") is None


def test_why_tells_of_chunks(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    assert value(docs, "SELECT state FROM embed.why('docs', 1)") == "pending"
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT state FROM embed.why('docs', 1)") == "embedded"
    docs.execute("DELETE FROM docs_embedding")
    assert value(docs, "SELECT state FROM embed.why('docs', 1)") == "missed"
    assert docs.execute("SELECT rows FROM embed.estimate('docs_embedding')").fetchall() == [(2,)]


def test_a_change_of_what_is_read_makes_the_chunks_anew(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    docs.execute(
        "SELECT embed.alter_vectorizer('docs_embedding', template => 'The text: {body}', filter => 'id = 1')"
    )
    docs.execute("SELECT embed.wait('docs')")
    assert docs.execute("SELECT id, chunk FROM docs_embedding").fetchall() == [(1, "The text: one")]


def test_an_index_is_made_on_the_table_of_the_chunks(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("SELECT embed.create_index('docs_embedding', 'hnsw', min_rows => 1)")
    start_worker(dsn, index_every=0.05)
    made = "SELECT count(*) FROM pg_indexes WHERE tablename = 'docs_embedding' AND indexdef LIKE '%hnsw%'"
    while value(docs, made) == 0:
        pass


def test_each_role_sees_the_chunks_of_the_rows_that_it_sees(
    db: Connection, owned: Connection, owner: Role, make_role: MakeRole, dsn: str, start_worker: StartWorker
) -> None:
    anna, bert = make_role(), make_role()
    start_worker(dsn)
    owned.execute(
        "INSERT INTO mine.notes VALUES (1, %s, 'of anna'), (2, %s, 'of bert')", [anna.name, bert.name]
    )
    db.execute("SELECT embed.wait('mine.notes')")
    everybody = f'"{anna.name}", "{bert.name}"'
    owned.execute(f"GRANT USAGE ON SCHEMA mine TO {everybody}")
    owned.execute(f"GRANT SELECT ON mine.notes TO {everybody}")
    owned.execute("ALTER TABLE mine.notes ENABLE ROW LEVEL SECURITY")
    owned.execute("CREATE POLICY own ON mine.notes USING (who = current_user)")
    with psycopg.connect(anna.dsn, autocommit=True) as connection:
        for relation in ("mine.notes_embedding", "mine.notes_chunks"):
            assert refused(connection, f"SELECT * FROM {relation}")[0] == "42501"
        owned.execute(f"GRANT SELECT ON mine.notes_embedding, mine.notes_chunks TO {everybody}")
        assert connection.execute("SELECT chunk FROM mine.notes_embedding").fetchall() == [("of anna",)]
        assert connection.execute("SELECT chunk, (source).who FROM mine.notes_chunks").fetchall() == [
            ("of anna", anna.name)
        ]
        owned.execute("ALTER TABLE mine.notes DISABLE ROW LEVEL SECURITY")
        assert value(connection, "SELECT count(*) FROM mine.notes_embedding") == 2
        owned.execute(f'REVOKE SELECT ON mine.notes FROM "{anna.name}"')
        for relation in ("mine.notes_embedding", "mine.notes_chunks"):
            assert refused(connection, f"SELECT chunk FROM {relation}")[0] == "42501"
    with psycopg.connect(bert.dsn, autocommit=True) as connection:
        owned.execute("ALTER TABLE mine.notes ENABLE ROW LEVEL SECURITY")
        assert connection.execute("SELECT chunk FROM mine.notes_chunks").fetchall() == [("of bert",)]
        assert refused(connection, "DELETE FROM mine.notes_embedding")[0] == "42501"
    assert value(owned, "SELECT count(*) FROM mine.notes_chunks") == 2, "the owner sees all, as in the table"


def test_everything_belongs_to_the_owner_of_the_table_whoever_made_it(db: Connection, owner: Role) -> None:
    db.execute("CREATE TABLE mine.parts (id int PRIMARY KEY, body text)")
    db.execute(f'ALTER TABLE mine.parts OWNER TO "{owner.name}"')
    db.execute("SELECT embed.create_vectorizer('mine.parts', 'body', storage => 'table')")
    owners = db.execute(
        "SELECT relname, pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relnamespace = 'mine'::regnamespace AND relkind IN ('r', 'v', 'S') ORDER BY 1"
    ).fetchall()
    assert {name for name, _ in owners} == {
        "parts",
        "parts_embedding",
        "parts_embedding_chunk_id_seq",
        "parts_chunks",
    }
    assert {role for _, role in owners} == {owner.name}
    with psycopg.connect(owner.dsn, autocommit=True) as connection:
        connection.execute("SELECT embed.drop_vectorizer('mine.parts', drop_column => true)")


def test_a_worker_reads_the_source_and_writes_nothing_there(owned: Connection, make_role: MakeRole) -> None:
    worker = make_role("embed_worker")
    may = "SELECT has_any_column_privilege(%s, 'mine.notes', %s)"
    assert value(owned, may, worker.name, "SELECT")
    assert not value(owned, may, worker.name, "INSERT, UPDATE")
    assert not value(owned, "SELECT has_column_privilege(%s, 'mine.notes', 'who', 'SELECT')", worker.name)
    assert not value(
        owned, "SELECT has_column_privilege(%s, 'mine.notes_embedding', 'chunk', 'UPDATE')", worker.name
    )
    owned.execute("SELECT embed.drop_vectorizer('mine.notes')")
    assert not value(owned, may, worker.name, "SELECT")


def test_an_owner_cannot_let_workers_write_to_the_chunks_of_somebody_else(
    owned: Connection, docs: Connection
) -> None:
    taking = "UPDATE embed._vectorizer SET chunk_table = 'docs_embedding' WHERE name = 'notes_embedding'"
    assert refused(owned, taking)[0] == "42501"


def test_a_column_of_another_type_stops_the_vectorizer(docs: Connection) -> None:
    docs.execute("CREATE DOMAIN odd AS bigint")
    docs.execute("DROP VIEW docs_chunks; DROP POLICY rows_of_the_source ON docs_embedding")
    docs.execute("ALTER TABLE docs_embedding ALTER id TYPE odd")
    assert "another type" in value(docs, "SELECT embed._problem(v) FROM embed._vectorizer AS v")


def test_others_may_not_steer_it(docs: Connection, make_role: MakeRole) -> None:

    with psycopg.connect(make_role("embed_owner").dsn, autocommit=True) as connection:
        assert refused(connection, "SELECT embed.drop_vectorizer('docs_embedding')")[0] == "42501"
        assert refused(connection, "SELECT embed.backfill('docs_embedding')")[0] == "42501"


@pytest.mark.parametrize(
    "name", ['double "quotes"', "single 'quotes'", "%s %I", "a.b", "c", "pg_embed_row", "q"]
)
def test_any_name_works(db: Connection, dsn: str, start_worker: StartWorker, name: str) -> None:
    create_fake_model(db)
    words = {
        word: sql.Identifier(*parts)
        for word, parts in {
            "schema": (f"s {name}",),
            "table": (f"s {name}", name),
            "chunks": (f"s {name}", f"{name}_embedding"),
            "view": (f"s {name}", f"{name}_chunks"),
            "key": (name,),
            "text": (f"{name} text",),
        }.items()
    }
    spelled = words["table"].as_string(db)
    db.execute(sql.SQL("CREATE SCHEMA {schema}").format(**words))
    db.execute(sql.SQL("CREATE TABLE {table} ({text} text, {key} text PRIMARY KEY)").format(**words))
    db.execute(
        "SELECT embed.create_vectorizer(%s::regclass, %s, storage => 'table', name => %s, column_name => %s)",
        [spelled, f"{name} text", name, f"{name} vector"],
    )
    start_worker(dsn)
    db.execute(
        sql.SQL("INSERT INTO {table} VALUES ('one', 'a'), ('two', 'b'), ('three', 'c')").format(**words)
    )
    db.execute("SELECT embed.wait(%s)", [spelled])
    db.execute(sql.SQL("DELETE FROM {table} WHERE {key} = 'a'").format(**words))
    db.execute(sql.SQL("UPDATE {table} SET {key} = 'd', {text} = 'four' WHERE {key} = 'b'").format(**words))
    db.execute("SELECT embed.wait(%s)", [spelled])
    found = db.execute(sql.SQL("SELECT {key}, chunk FROM {chunks} ORDER BY 1").format(**words)).fetchall()
    assert found == [("c", "three"), ("d", "four")]
    assert len(db.execute(sql.SQL("SELECT source FROM {view}").format(**words)).fetchall()) == 2
    db.execute("SELECT embed.drop_vectorizer(%s, drop_column => true)", [name])
    assert value(db, "SELECT count(*) FROM embed.vectorizers") == 0
