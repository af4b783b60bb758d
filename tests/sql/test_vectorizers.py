"""sql/functions/40_vectorizers.sql: vectorizers as a reader makes, changes and drops them."""

from __future__ import annotations

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
from tests.sql.helpers import queued, refused, value

COLUMN_TYPE = (
    "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
    " WHERE attrelid = 'docs'::regclass AND attname = 'embedding' AND NOT attisdropped"
)


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with one row, and a model; no vectorizer yet."""
    create_fake_model(db)
    create_docs(db, "one")
    return db


def test_create_vectorizer_says_its_name_and_stands_in_the_view(docs: Connection) -> None:
    assert value(docs, "SELECT embed.create_vectorizer('docs', 'body')") == "docs_embedding"
    found = docs.execute(
        "SELECT name, source::text, model, key, template, filter, column_name,"
        " column_type, state, reason, max_attempts"
        " FROM embed.vectorizers"
    ).fetchall()
    expected = (
        "docs_embedding",
        "docs",
        "fake",
        ["id"],
        "{body}",
        None,
        "embedding",
        "halfvec(4)",
        "active",
        None,
        10,
    )
    assert found == [expected]


def test_the_column_is_halfvec_up_to_4000_dimensions_and_vector_beyond_or_when_asked(
    docs: Connection,
) -> None:
    for dimensions, asked, expected in (
        (4_000, None, "halfvec(4000)"),
        (4_001, None, "vector(4001)"),
        (4, "vector", "vector(4)"),
        (4, "halfvec", "halfvec(4)"),
    ):
        name = create_fake_model(docs, f"m{dimensions}{asked}", dimensions=dimensions)
        docs.execute(
            "SELECT embed.create_vectorizer('docs', 'body', model => %s, column_type => %s)", [name, asked]
        )
        assert value(docs, COLUMN_TYPE) == expected
        docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")


@pytest.mark.parametrize("asked", ["text", "sparsevec", "halfvec(4)", "", "bit"])
def test_another_column_type_is_refused(docs: Connection, asked: str) -> None:
    state, _, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'body', column_type => %s)", asked)
    assert state == "PE003"
    assert "halfvec" in hint


def test_a_column_of_the_right_type_is_taken_with_its_vectors(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs ADD COLUMN embedding vector(4)")
    docs.execute("UPDATE docs SET embedding = '[1,2,3,4]'")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    assert value(docs, "SELECT embedding::text FROM docs") == "[1,2,3,4]"
    assert value(docs, "SELECT mode FROM embed._backfill") == "all"


@pytest.mark.parametrize("there", ["text", "vector(5)", "halfvec", "vector", "real[]", "sparsevec(4)"])
def test_a_column_of_another_type_is_refused(docs: Connection, there: str) -> None:
    docs.execute(f"ALTER TABLE docs ADD COLUMN embedding {there}")
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'body')")
    assert state == "PE003"
    assert "embedding" in message
    assert "halfvec(4)" in message
    assert "column_name =>" in hint
    assert docs.execute("SELECT count(*) FROM embed.vectorizers").fetchone() == (0,)


def test_a_generated_column_cannot_hold_vectors(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs ADD COLUMN embedding vector(4) GENERATED ALWAYS AS ('[1,2,3,4]') STORED")
    assert refused(docs, "SELECT embed.create_vectorizer('docs', 'body')")[0] == "PE003"


def test_a_table_without_a_primary_key_is_refused(docs: Connection) -> None:
    docs.execute("CREATE TABLE keyless (id bigint UNIQUE, body text)")
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('keyless', 'body')")
    assert state == "PE003"
    assert message == "table public.keyless has no primary key"
    assert "PRIMARY KEY" in hint


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("CREATE VIEW odd AS SELECT * FROM docs", "view"),
        ("CREATE MATERIALIZED VIEW odd AS SELECT * FROM docs", "materialized view"),
        ("CREATE TEMPORARY TABLE odd (id bigint PRIMARY KEY, body text)", "temporary"),
        ("CREATE SEQUENCE odd", "not a table"),
    ],
)
def test_what_is_no_permanent_table_is_refused(docs: Connection, statement: str, word: str) -> None:
    docs.execute(statement)
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('odd', 'body')")
    assert state == "PE003"
    assert word in message
    assert hint


def test_a_partition_is_refused_with_a_word_on_its_parent(docs: Connection) -> None:
    docs.execute("CREATE TABLE parts (id bigint PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    docs.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (10)")
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('parts_1', 'body')")
    assert (state, message) == ("PE003", "public.parts_1 is a partition")
    assert "partitioned table" in hint


@pytest.mark.parametrize("table", ["embed._model", "pg_catalog.pg_class"])
def test_tables_of_the_system_are_refused(docs: Connection, table: str) -> None:
    state, message, _ = refused(docs, "SELECT embed.create_vectorizer(%s::regclass, 'name')", table)
    assert state == "PE003"
    assert "system" in message


def test_a_table_of_somebody_else_is_refused(docs: Connection, make_role: MakeRole) -> None:
    role = make_role("embed_owner")
    docs.execute(f'GRANT ALL ON docs TO "{role.name}"')
    docs.execute(f'SET SESSION AUTHORIZATION "{role.name}"')
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'body')")
    assert state == "42501"
    assert "must own" in message
    assert "postgres" in hint


def test_no_table_is_refused(docs: Connection) -> None:
    assert refused(docs, "SELECT embed.create_vectorizer(NULL, 'body')")[:2] == ("PE003", "no table is given")
    assert refused(docs, "SELECT embed.create_vectorizer('nothing', 'body')")[0] == "42P01"


def test_an_unknown_column_is_told_with_those_that_are_there(docs: Connection) -> None:
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'text')")
    assert (state, message) == ("PE003", "table public.docs has no column text for the input")
    assert hint == "its columns are: id, title, body"
    state, message, _ = refused(docs, "SELECT embed.create_vectorizer('docs', template => '{title} {Body}')")
    assert (state, message) == ("PE003", 'table public.docs has no column "Body" for the template')


def test_an_unknown_model_is_told_with_those_that_are_known(docs: Connection) -> None:
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'body', model => 'no')")
    assert (state, message, hint) == (
        "PE001",
        "there is no model 'no'",
        "the models are: 'fake'; embed.create_model makes others",
    )


def test_without_a_model_the_default_is_taken_and_none_is_an_error(docs: Connection) -> None:
    create_fake_model(docs, "second")
    state, _, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'body')")
    assert state == "PE002"
    assert "'fake', 'second'" in hint
    docs.execute("SET embed.default_model = 'second'")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    assert value(docs, "SELECT model FROM embed.vectorizers") == "second"
    docs.execute("SET embed.default_model = ''")
    docs.execute("SELECT embed.alter_model('fake', is_default => true)")
    docs.execute("SELECT embed.create_vectorizer('docs', 'title', column_name => 'title_embedding')")
    assert value(docs, "SELECT model FROM embed.vectorizers WHERE column_name = 'title_embedding'") == "fake"
    docs.execute("SET embed.default_model = 'no'")
    assert refused(docs, "SELECT embed.create_vectorizer('docs', 'body')")[0] == "PE001"


def test_no_model_at_all_says_how_to_make_one(db: Connection) -> None:
    create_docs(db, "one")
    state, _, hint = refused(db, "SELECT embed.create_vectorizer('docs', 'body')")
    assert state == "PE002"
    assert "embed.create_model" in hint


@pytest.mark.parametrize(
    "call", ["'docs', NULL::text", "'docs', '{}'::text[]", "'docs', NULL::text[]", "'docs'"]
)
def test_no_input_is_refused(docs: Connection, call: str) -> None:
    state, message, hint = refused(docs, f"SELECT embed.create_vectorizer({call})")
    assert state == "PE003"
    assert "no input" in message
    assert "template" in hint


def test_input_and_template_together_are_refused(docs: Connection) -> None:
    state, _, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'body', template => '{title}')")
    assert state == "PE003"
    assert "one of them" in hint


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("", "names no column"),
        ("text only", "names no column"),
        ("{{body}}", "names no column"),
        ("{body", "opening brace"),
        ("{}", "opening brace"),
        ("{{{body}", "none"),
        ("body}", "closing brace"),
        ("{ti{tle}}", "opening brace"),
    ],
)
def test_a_bad_template_is_told(docs: Connection, template: str, word: str) -> None:
    if word == "none":
        docs.execute("SELECT embed.create_vectorizer('docs', template => %s)", [template])
        return
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('docs', template => %s)", template)
    assert state == "PE003"
    assert word in message
    assert hint


@pytest.mark.parametrize(
    "filter",
    [
        "no_such_column",
        "title = ",
        "title",
        "true",
        "1 = 1",
        "title = 'x'; DROP TABLE docs",
        "title = 'x'); DROP TABLE docs; --",
        "title = 'x') UNION SELECT FROM docs WHERE (true",
        "count(*) > 1",
        "docs IS NOT NULL",
        "row_number() OVER () = 1",
        "EXISTS (SELECT FROM docs AS d WHERE d.title = docs.title)",
        "id IN (SELECT 1)",
        "title = '",
        "ctid IS NOT NULL",
        "--",
    ],
)
def test_a_bad_filter_is_told(docs: Connection, filter: str) -> None:
    state, message, hint = refused(
        docs, "SELECT embed.create_vectorizer('docs', 'body', filter => %s)", filter
    )
    assert state == "PE003"
    assert message
    assert hint
    assert value(docs, "SELECT count(*) FROM docs") == 1
    assert value(docs, "SELECT count(*) FROM embed.vectorizers") == 0


@pytest.mark.parametrize("input", ["raw", "place"])
def test_input_that_is_no_text_is_refused(docs: Connection, input: str) -> None:
    docs.execute("ALTER TABLE docs ADD COLUMN raw bytea, ADD COLUMN place vector(2)")
    state, message, _ = refused(docs, "SELECT embed.create_vectorizer('docs', %s)", input)
    assert state == "PE003"
    assert input in message


def test_the_input_cannot_be_the_place_of_the_vectors(docs: Connection) -> None:
    assert (
        refused(docs, "SELECT embed.create_vectorizer('docs', 'body', column_name => 'body')")[0] == "PE003"
    )


@pytest.mark.parametrize("attempts", [0, -1, 101, 100_000])
def test_attempts_have_bounds(docs: Connection, attempts: int) -> None:
    statement = "SELECT embed.create_vectorizer('docs', 'body', max_attempts => %s)"
    assert refused(docs, statement, attempts)[0] == "PE003"
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    assert refused(docs, "SELECT embed.alter_vectorizer('docs', max_attempts => %s)", attempts)[0] == "PE003"


def test_names_are_unique_and_told(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', name => 'mine')")
    state, message, _ = refused(
        docs, "SELECT embed.create_vectorizer('docs', 'title', column_name => 'other', name => 'mine')"
    )
    assert (state, message) == ("PE003", "there is a vectorizer 'mine' already")
    docs.execute("SELECT embed.create_vectorizer('docs', 'title', column_name => 'other')")
    state, message, _ = refused(docs, "SELECT embed.alter_vectorizer('docs_other', rename_to => 'mine')")
    assert (state, message) == ("PE003", "there is a vectorizer 'mine' already")
    assert refused(docs, "SELECT embed.alter_vectorizer('mine', rename_to => '')")[0] == "PE003"
    assert (
        refused(docs, "SELECT embed.create_vectorizer('docs', 'title', column_name => 'x', name => '')")[0]
        == "PE003"
    )
    assert refused(docs, "SELECT embed.create_vectorizer('docs', 'title', column_name => '')")[0] == "PE003"


def test_a_column_has_one_vectorizer_and_a_table_may_have_several(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    state, message, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'title')")
    assert state == "PE003"
    assert "belongs to a vectorizer" in message
    assert "column_name" in hint
    docs.execute("SELECT embed.create_vectorizer('docs', 'title', column_name => 'title_embedding')")
    state, message, hint = refused(docs, "SELECT embed.pause('docs')")
    assert (state, message) == ("PE003", "table docs has several vectorizers")
    assert "'docs_embedding', 'docs_title_embedding'" in hint


def test_if_not_exists_changes_nothing_and_says_the_name(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', name => 'mine')")
    again = "SELECT embed.create_vectorizer('docs', 'title', name => 'other', if_not_exists => true)"
    assert value(docs, again) == "mine"
    assert docs.execute("SELECT name, template FROM embed.vectorizers").fetchall() == [("mine", "{body}")]


def test_a_failed_create_leaves_nothing(docs: Connection) -> None:
    refused(docs, "SELECT embed.create_vectorizer('docs', 'body', filter => 'random() < (SELECT 1)')")
    assert docs.execute(COLUMN_TYPE).fetchall() == []
    assert value(docs, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass") == 0
    assert value(docs, "SELECT count(*) FROM pg_proc WHERE proname ~ '^_enqueue'") == 0


def test_several_columns_are_joined_by_line_breaks_and_braces_stay(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("UPDATE docs SET title = 'T'")
    docs.execute("INSERT INTO docs VALUES (2, NULL, 'only body'), (3, 'only title', NULL), (4, NULL, NULL)")
    docs.execute("SELECT embed.create_vectorizer('docs', ARRAY['title', 'body'])")
    docs.execute(
        "SELECT embed.create_vectorizer('docs', template => '{{{title}}} is {body}%s :x"
        " {id}', column_name => 'other')"
    )
    assert docs.execute("SELECT template FROM embed.vectorizers ORDER BY name").fetchall() == [
        ("{title}\n{body}",),
        ("{{{title}}} is {body}%s :x {id}",),
    ]
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    text = "CASE WHEN num_nonnulls(title, body) > 0 THEN concat(title, E'\\n', body) END"
    assert broken_rows(docs, text=text) == []
    text = "concat('{', title, '} is ', body, '%s :x ', id)"
    assert broken_rows(docs, text=text, column="other", vectorizer="docs_other") == []
    assert value(docs, "SELECT count(embedding) FROM docs") == 3


def test_columns_of_any_type_are_read_as_text(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    docs.execute(
        "CREATE TABLE things (id int PRIMARY KEY, n numeric, j jsonb, a text[], d date, t timestamptz,"
        " m mood, b boolean, i interval, f double precision)"
    )
    docs.execute(
        "INSERT INTO things VALUES (1, 1.50, '{\"a\": 1}', '{x,y}', '2024-02-29',"
        " '2024-02-29 12:00:00+00', 'happy', true, '1 day', 0.1)"
    )
    columns = ["n", "j", "a", "d", "t", "m", "b", "i", "f"]
    for column in columns:
        docs.execute(
            "SELECT embed.create_vectorizer('things', %s, column_name => %s)", [column, f"e_{column}"]
        )
    start_worker(dsn)
    docs.execute("SET TimeZone = 'UTC'")
    docs.execute("SELECT embed.wait('things')")
    for column in columns:
        name = f"e_{column}"
        assert (
            broken_rows(docs, "things", text=f"{column}::text", column=name, vectorizer=f"things_{name}")
            == []
        )


def test_a_session_s_own_ways_of_writing_dates_do_not_change_the_text(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE days (id timestamptz PRIMARY KEY, body timestamptz)")
    docs.execute("SELECT embed.create_vectorizer('days', 'body')")
    docs.execute(
        "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kathmandu'; SET IntervalStyle = 'iso_8601'"
    )
    docs.execute("INSERT INTO days VALUES ('2024-02-01 00:00+00', '2024-02-01 12:00+00')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('days')")
    docs.execute("SET DateStyle = 'ISO, YMD'; SET TimeZone = 'UTC'")
    assert broken_rows(docs, "days", text="body::text", vectorizer="days_embedding") == []
    assert value(docs, "SELECT count(embedding) FROM days") == 1


def test_a_row_enters_and_leaves_the_filter(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("INSERT INTO docs VALUES (2, 'draft', 'two'), (3, 'public', 'three')")
    docs.execute(
        "SELECT embed.create_vectorizer('docs', 'body', filter => $$title = 'public' AND length(body) < 10$$)"
    )
    start_worker(dsn)
    text = "CASE WHEN title = 'public' AND length(body) < 10 THEN body END"

    def embedded() -> list[int]:
        docs.execute("SELECT embed.wait('docs')")
        assert broken_rows(docs, text=text) == []
        rows = docs.execute("SELECT id FROM docs WHERE embedding IS NOT NULL ORDER BY id").fetchall()
        return [row[0] for row in rows]

    assert embedded() == [3]
    docs.execute("UPDATE docs SET title = 'public' WHERE id = 2")
    assert embedded() == [2, 3]
    docs.execute("UPDATE docs SET title = 'draft' WHERE id = 3")
    assert embedded() == [2]
    docs.execute("UPDATE docs SET body = 'much longer than that' WHERE id = 2")
    assert embedded() == []
    docs.execute("INSERT INTO docs VALUES (4, 'public', 'four'), (5, NULL, 'five')")
    assert embedded() == [4]
    docs.execute("SELECT embed.alter_vectorizer('docs', filter => '')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT filter FROM embed.vectorizers") is None


def test_the_filter_is_spelled_as_postgres_does(docs: Connection) -> None:
    docs.execute('ALTER TABLE docs ADD COLUMN "a.B ""c""" text, ADD COLUMN "select" text')
    docs.execute(
        "SELECT embed.create_vectorizer('docs', 'body', filter =>"
        ' $$ title <> \'a WHERE b. "c"\' AND ("a.B ""c""" IS NULL OR "select" LIKE \'%x%\') $$)'
    )
    spelled = value(docs, "SELECT filter FROM embed.vectorizers")
    assert '"a.B ""c""" IS NULL' in spelled
    assert '"select" ~~' in spelled
    assert "'a WHERE b. \"c\"'" in spelled
    assert "pg_embed" not in spelled


@pytest.mark.parametrize(
    ("filter", "word"),
    [
        ("at <= now()", "now()"),
        ("at <= CURRENT_TIMESTAMP", "present time"),
        ("title = current_user", "present time or user"),
        ("age(at) > '1 day'", "age("),
        ("random() < id", "random()"),
        ("title = current_setting('TimeZone')", "current_setting"),
        ("to_jsonb(title) IS NOT NULL", "to_jsonb"),
        ("table_to_xml('public.docs', true, true, title) IS NOT NULL", "table_to_xml"),
    ],
)
def test_a_filter_whose_answer_changes_by_itself_is_refused(docs: Connection, filter: str, word: str) -> None:
    docs.execute("ALTER TABLE docs ADD COLUMN at timestamptz")
    state, message, hint = refused(
        docs, "SELECT embed.create_vectorizer('docs', 'body', filter => %s)", filter
    )
    assert state == "PE003"
    assert word in message
    assert "column of the table" in hint


def test_a_filter_may_compare_times_and_use_an_extension(docs: Connection) -> None:
    docs.execute("ALTER TABLE docs ADD COLUMN at timestamptz, ADD COLUMN place public.vector(2)")
    docs.execute(
        "SELECT embed.create_vectorizer('docs', 'body', filter =>"
        " $$at <= '2024-01-01' AND at::date > '2020-01-01'"
        " AND place OPERATOR(public.<->) '[1,2]'::public.vector < 1$$)"
    )
    docs.execute("SELECT embed.alter_vectorizer('docs', 'title')")


def test_a_filter_over_the_column_of_the_vectors_is_refused(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    for call in (
        "alter_vectorizer('docs', filter => 'embedding IS NULL')",
        "drop_vectorizer('docs'), embed.create_vectorizer('docs', 'body', filter => 'embedding IS NULL')",
    ):
        state, message, hint = refused(docs, f"SELECT embed.{call}")
        assert state == "PE003"
        assert message == "the filter reads embedding, the column of the vectors"
        assert hint


def test_a_filter_without_the_right_to_temporary_views_is_told(docs: Connection, make_role: MakeRole) -> None:
    owner = make_role("embed_owner")
    docs.execute(f'ALTER TABLE docs OWNER TO "{owner.name}"')
    docs.execute(f'REVOKE TEMPORARY ON DATABASE "{docs.info.dbname}" FROM PUBLIC')
    docs.execute(f'SET ROLE "{owner.name}"')
    state, _, hint = refused(docs, "SELECT embed.create_vectorizer('docs', 'body', filter => 'id > 1')")
    assert state == "42501"
    assert hint.endswith(f"GRANT TEMPORARY ON DATABASE {docs.info.dbname} TO {owner.name}")
    docs.execute("RESET ROLE")


def test_columns_in_a_row_make_one_text(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("UPDATE docs SET title = 'x'")
    docs.execute("SELECT embed.create_vectorizer('docs', template => '{title}{body}')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="title || body") == []


@pytest.mark.parametrize(
    ("filter", "raises"),
    [
        ("id > 1 AND title <> 'x' AND (title IS NULL OR length(title) = ANY ('{1,2}'))", False),
        ("kind = 'a' AND price > 1.5 AND at > '2024-01-01'", False),
        ("10 / id > 1", True),
        ("title::int > 1", True),
        ("upper(title::varchar)::int > 1", True),
        ("(id, title) < (1, 'x')", True),
    ],
)
def test_a_filter_that_may_raise_is_left_to_the_worker(docs: Connection, filter: str, raises: bool) -> None:
    docs.execute(
        "CREATE TYPE kind AS ENUM ('a'); ALTER TABLE docs ADD COLUMN kind kind,"
        " ADD COLUMN price numeric, ADD COLUMN at timestamptz"
    )
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', filter => %s)", [filter])
    condition = value(
        docs, "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname ~ 'pg_embed.*_update'"
    )
    assert ("IS TRUE" in condition) != raises


def test_a_text_of_more_columns_than_a_function_takes(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    names = [f"c{number}" for number in range(120)]
    docs.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {', '.join(f'{name} text' for name in names)})")
    docs.execute("SELECT embed.create_vectorizer('wide', %s::text[])", [names])
    docs.execute("INSERT INTO wide (id, c0, c60, c119) VALUES (1, 'a', 'b', 'c'), (2, NULL, NULL, 'd')")
    docs.execute("INSERT INTO wide (id) VALUES (3)")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('wide')")
    text = f"CASE WHEN id < 3 THEN array_to_string(ARRAY[{', '.join(names)}], E'\\n', '') END"
    assert broken_rows(docs, "wide", text=text, vectorizer="wide_embedding") == []


def test_an_unrelated_filter_value_enqueues_nothing(docs: Connection) -> None:
    docs.execute(
        "SELECT embed.create_vectorizer('docs', 'body', filter => 'length(title) > 3', backfill => false)"
    )
    docs.execute("UPDATE docs SET title = 'a'")
    assert queued(docs) == []
    docs.execute("UPDATE docs SET title = 'abcd'")
    assert queued(docs) == ["1"]


def test_alter_vectorizer_reads_other_columns(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("UPDATE docs SET title = 'T'")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT embed.alter_vectorizer('docs', 'title')") == "docs_embedding"
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="title") == []
    docs.execute("SELECT embed.alter_vectorizer('docs', input => ARRAY['body', 'title'])")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="concat(body, E'\\n', title)") == []
    docs.execute(
        "SELECT embed.alter_vectorizer('docs', template => '{title}!', rename_to => 'new', max_attempts => 3)"
    )
    docs.execute("UPDATE docs SET title = 'U'")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs, text="title || '!'", vectorizer="new") == []
    assert docs.execute("SELECT name, max_attempts FROM embed.vectorizers").fetchall() == [("new", 3)]


def test_alter_vectorizer_has_create_s_errors(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    for call in ("'no'", "'docs', input => '{no}'", "'docs', template => '{'", "'docs', filter => 'no'"):
        state, _, hint = refused(docs, f"SELECT embed.alter_vectorizer({call})")
        assert state == "PE003"
        assert hint
    state, _, _ = refused(docs, "SELECT embed.alter_vectorizer('docs', input => ARRAY['embedding'])")
    assert state == "PE003"


def test_drop_vectorizer_takes_triggers_and_queue_and_leaves_the_vectors(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    insert_docs(docs, "two")
    docs.execute("UPDATE docs SET embedding = '[1,2,3,4]'")
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    insert_docs(docs, "three")
    assert value(docs, "SELECT count(embedding) FROM docs") == 2
    assert value(docs, "SELECT count(*) FROM embed._queue") == 0
    assert value(docs, "SELECT count(*) FROM embed._backfill") == 0
    assert value(docs, "SELECT count(*) FROM pg_proc WHERE proname ~ '^_enqueue'") == 0
    assert value(docs, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass") == 0


def test_drop_vectorizer_can_take_the_column(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    docs.execute("SELECT embed.drop_vectorizer('docs_embedding', drop_column => true)")
    assert docs.execute(COLUMN_TYPE).fetchall() == []


def test_an_unknown_vectorizer_is_told_with_those_that_are_known(docs: Connection) -> None:
    assert "embed.create_vectorizer" in refused(docs, "SELECT embed.drop_vectorizer('no')")[2]
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    for name in ("no", "no such", "a.b.c.d", 'odd "quote', "", "public.", "no.such"):
        state, message, hint = refused(docs, "SELECT embed.drop_vectorizer(%s)", name)
        assert state == "PE003"
        assert name in message
        assert hint == "the vectorizers are: 'docs_embedding'"
        docs.execute("SELECT embed.drop_vectorizer(%s, if_exists => true)", [name])
    assert value(docs, "SELECT count(*) FROM embed.vectorizers") == 1
    docs.execute("SELECT embed.drop_vectorizer('docs', if_exists => true)")
    assert value(docs, "SELECT count(*) FROM embed.vectorizers") == 0


def test_a_filter_may_end_in_a_comment(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', filter => 'title = ''x'' -- the good ones')")
    assert value(docs, "SELECT filter FROM embed.vectorizers") == "(title = 'x'::text)"


def test_a_vectorizer_is_found_by_its_table_in_each_spelling(docs: Connection) -> None:
    docs.execute('CREATE SCHEMA "My Schema"')
    docs.execute('CREATE TABLE "My Schema"."My Docs" (id int PRIMARY KEY, body text)')
    docs.execute("""SELECT embed.create_vectorizer('"My Schema"."My Docs"', 'body', name => 'v')""")
    for name in ("v", '"My Schema"."My Docs"', '"My Docs"', "My Docs"):
        docs.execute("SELECT embed.pause(%s)", [name])


def test_the_same_table_name_in_two_schemas_makes_two_names(docs: Connection) -> None:
    docs.execute("CREATE SCHEMA other CREATE TABLE docs (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    assert value(docs, "SELECT embed.create_vectorizer('other.docs', 'body')") == "other_docs_embedding"


def test_backfill_looks_at_rows_again(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(embedding) FROM docs") == 0
    docs.execute("SELECT embed.backfill('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    docs.execute("UPDATE docs SET embedding = '[1,2,3,4]'")
    docs.execute("SELECT embed.backfill('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert len(broken_rows(docs)) == 1, "it looks for rows without a vector only"
    docs.execute("SELECT embed.backfill('docs', 'all')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    state, _, hint = refused(docs, "SELECT embed.backfill('docs', 'some')")
    assert state == "PE003"
    assert "'missing'" in hint


def test_a_column_s_name_that_postgres_would_cut_is_refused(docs: Connection) -> None:
    state, message, _ = refused(
        docs, "SELECT embed.create_vectorizer('docs', 'body', column_name => %s)", "é" * 32
    )
    assert (state, message) == ("PE003", "the name of the column of the vectors is longer than 63 bytes")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', column_name => %s)", ["x" * 63])


def test_a_paused_vectorizer_that_is_altered_still_says_who_paused_it(docs: Connection) -> None:
    docs.execute("SELECT embed.create_vectorizer('docs', 'body')")
    docs.execute("SELECT embed.pause('docs')")
    docs.execute("SELECT embed.alter_vectorizer('docs', 'title')")
    found = docs.execute("SELECT state, reason FROM embed.vectorizers").fetchall()
    assert found == [("paused", "paused by postgres")]


def test_null_is_no_column_and_the_default_mode(docs: Connection) -> None:
    for input in ("ARRAY[NULL]", "ARRAY['body', NULL]"):
        state, message, _ = refused(docs, f"SELECT embed.create_vectorizer('docs', {input}::text[])")
        assert (state, message) == ("PE003", "a column of the input has no name: it is NULL")
    docs.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    docs.execute("SELECT embed.backfill('docs', NULL)")
    assert value(docs, "SELECT mode FROM embed._backfill") == "missing"
