"""Primary keys of every kind go through the queue and come back as the same row."""

from __future__ import annotations

import pytest

from tests.fix_worker import Connection, StartWorker, broken_rows, create_fake_model
from tests.sql.helpers import queued, value

KEYS = [
    ("smallint", ["-32768", "0", "32767"]),
    ("integer", ["-5", "7"]),
    ("bigint", ["-9223372036854775808", "9223372036854775807"]),
    ("bigint GENERATED ALWAYS AS IDENTITY", ["DEFAULT", "DEFAULT"]),
    ("uuid", ["'00000000-0000-0000-0000-000000000001'", "gen_random_uuid()"]),
    ("text", ["''", "' '", "'a\"b{}\\\\,NULL'", "'NULL'", "E'line\\nbreak'", "'模型'", "'%s :x $1'"]),
    ("varchar(5)", ["'abc'", "'x    '"]),
    ("char(5)", ["'abc'", "'x'"]),
    ('text COLLATE "C"', ["'Z'", "'a'", "'é'"]),
    ("numeric", ["1.50", "1e100", "-0.001", "'NaN'"]),
    ("numeric(10,2)", ["1.50", "2"]),
    ("double precision", ["0.1", "1e300", "'-Infinity'", "'NaN'"]),
    ("real", ["0.1", "3"]),
    ("date", ["'2024-02-29'", "'infinity'", "'0044-03-15 BC'"]),
    ("timestamptz", ["'2024-02-29 12:00:00.123456+05:45'", "'-infinity'", "'1890-01-01 00:00+00'"]),
    ("timestamp", ["'2024-02-29 12:00'"]),
    ("time", ["'23:59:59.5'"]),
    ("interval", ["'1 mon -2 days 03:00'", "'-1 year'"]),
    ("boolean", ["true", "false"]),
    ("bytea", ["'\\xdeadbeef'", "''"]),
    ("inet", ["'10.0.0.1/8'", "'::1'"]),
    ("jsonb", ["'{\"a\": [1, null]}'", "'\"x\"'"]),
    ("integer[]", ["'{1,NULL,3}'", "'{}'"]),
    ("int4range", ["'[1,5)'", "'empty'"]),
    ("mood", ["'sad'", "'not so happy'"]),
    ("even", ["2", "4"]),
    ("word", ["'one'"]),
    ("name", ["'a name'"]),
    ("oid", ["4294967295"]),
]
DIALECTS = (
    "SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kathmandu'; SET IntervalStyle = 'iso_8601';"
    " SET extra_float_digits = -15; SET bytea_output = 'escape'"
)


@pytest.fixture
def types(db: Connection) -> Connection:
    """A database with a model, an enum and two domains."""
    create_fake_model(db)
    db.execute("CREATE TYPE mood AS ENUM ('sad', 'not so happy')")
    db.execute("CREATE DOMAIN even AS bigint CHECK (VALUE % 2 = 0)")
    db.execute("CREATE DOMAIN word AS varchar(10) CHECK (VALUE <> '')")
    return db


@pytest.mark.parametrize(("kind", "values"), KEYS, ids=[kind for kind, _ in KEYS])
def test_a_key_of_any_type_finds_its_row(
    types: Connection, dsn: str, start_worker: StartWorker, kind: str, values: list[str]
) -> None:
    types.execute(f"CREATE TABLE docs (body text, id {kind} PRIMARY KEY)")
    types.execute(f"INSERT INTO docs VALUES ('before', {values[0]})")
    types.execute("SELECT embed.create_vectorizer('docs', 'body')")
    types.execute(DIALECTS)
    for number, literal in enumerate(values[1:]):
        types.execute(f"INSERT INTO docs VALUES ('text {number}', {literal})")
    start_worker(dsn, page_rows=1)
    types.execute("SELECT embed.wait('docs')")
    types.execute("UPDATE docs SET body = body || ' changed'")
    types.execute("SELECT embed.wait('docs')")
    assert value(types, "SELECT count(embedding) FROM docs") == len(values)
    assert broken_rows(types) == []
    assert types.execute("SELECT * FROM embed.failures").fetchall() == []


@pytest.mark.parametrize("paged", [1, 2, 10_000])
def test_a_key_of_several_columns_finds_its_row(
    types: Connection, dsn: str, start_worker: StartWorker, paged: int
) -> None:
    types.execute(
        'CREATE TABLE docs (body text, a text, "B c" mood, d timestamptz, e bigint,'
        ' PRIMARY KEY (e, "B c", a, d))'
    )
    insert = (
        "INSERT INTO docs SELECT concat_ws('|', a, b, e, d), a, b, d, e FROM"
        " unnest(ARRAY['x', '\"', '', '[1]']) AS a,"
        " unnest(enum_range(NULL::mood)) AS b, unnest(ARRAY['2024-01-01 00:00+03'::timestamptz]) AS d,"
        " unnest(ARRAY[%s]::bigint[]) AS e"
    )
    types.execute(insert % "-1, 1")
    types.execute("SELECT embed.create_vectorizer('docs', 'body')")
    types.execute(DIALECTS)
    types.execute(insert % "2, 3")
    assert '["3", "sad", "\\"", "2023-12-31 21:00:00+00"]' in queued(types)
    start_worker(dsn, page_rows=paged)
    types.execute("SELECT embed.wait('docs')")
    types.execute("UPDATE docs SET body = body || ' changed' WHERE a = '\"'")
    types.execute("SELECT embed.wait('docs')")
    assert value(types, "SELECT count(embedding) FROM docs") == 32
    assert broken_rows(types, key="e::text") == []


def test_a_key_is_the_same_text_whatever_the_session_s_time_zone(types: Connection) -> None:
    types.execute("CREATE TABLE docs (id timestamptz PRIMARY KEY, body text)")
    types.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false)")
    types.execute("SET TimeZone = 'Asia/Tokyo'")
    types.execute("INSERT INTO docs VALUES ('2024-01-01 00:00+00', 'one')")
    types.execute("SET TimeZone = 'America/New_York'; SET DateStyle = 'German'")
    types.execute("UPDATE docs SET body = 'two'")
    assert queued(types) == ["2024-01-01 00:00:00+00"] * 2


def test_a_backfill_names_keys_as_the_triggers_do(types: Connection) -> None:
    types.execute("CREATE TABLE docs (id timestamptz PRIMARY KEY, body text)")
    types.execute("INSERT INTO docs VALUES ('2024-01-01 00:00+00', 'one')")
    types.execute("SELECT embed.create_vectorizer('docs', 'body')")
    types.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")
    types.execute("SELECT embed._page_v1(id, 10) FROM embed._vectorizer")
    assert queued(types, priority=2) == ["2024-01-01 00:00:00+00"]


def test_a_failure_of_a_dated_row_is_struck_off_from_any_time_zone(
    types: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(types, "picky", fail_on="bad")
    types.execute("CREATE TABLE docs (id timestamptz PRIMARY KEY, body text)")
    types.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'picky')")
    types.execute("SET TimeZone = 'Asia/Tokyo'")
    types.execute("INSERT INTO docs VALUES ('2024-01-01 00:00+00', 'bad')")
    start_worker(dsn)
    types.execute("SELECT embed.wait('docs')")
    assert value(types, "SELECT count(*) FROM embed.failures") == 1
    types.execute("SET TimeZone = 'America/New_York'")
    types.execute("UPDATE docs SET body = 'good'")
    types.execute("SELECT embed.wait('docs')")
    assert value(types, "SELECT count(*) FROM embed.failures") == 0


def test_extension_types_are_refused_as_keys(types: Connection) -> None:
    types.execute("CREATE TABLE docs (id vector(2) PRIMARY KEY, body text)")
    with pytest.raises(Exception, match="a type that cannot be queued"):
        types.execute("SELECT embed.create_vectorizer('docs', 'body')")


def test_columns_that_the_key_s_index_only_carries_are_no_part_of_it(types: Connection) -> None:
    types.execute("CREATE TABLE docs (id int, body text, PRIMARY KEY (id) INCLUDE (body))")
    types.execute("SELECT embed.create_vectorizer('docs', 'body')")
    types.execute("INSERT INTO docs VALUES (7, 'one')")
    assert queued(types) == ["7"]
    types.execute("SELECT embed._tend_v1()")
    assert value(types, "SELECT state FROM embed.vectorizers") == "active"


def test_a_key_that_changes_is_embedded_under_its_new_name(
    types: Connection, dsn: str, start_worker: StartWorker
) -> None:
    types.execute("CREATE TABLE docs (id text PRIMARY KEY, body text)")
    types.execute("SELECT embed.create_vectorizer('docs', 'body')")
    types.execute("INSERT INTO docs VALUES ('a', 'one')")
    types.execute("UPDATE docs SET id = 'b'")
    assert queued(types) == ["a", "b"]
    start_worker(dsn)
    types.execute("SELECT embed.wait('docs')")
    types.execute("UPDATE docs SET id = 'c', body = 'two'")
    types.execute("INSERT INTO docs VALUES ('b', 'three')")
    types.execute("SELECT embed.wait('docs')")
    assert broken_rows(types) == []
    assert value(types, "SELECT count(*) FROM embed._queue") == 0
