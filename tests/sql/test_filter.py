"""sql/functions/76_filter.sql: filters of a search as people write them, and as attackers do."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.fix_search import answer, create_docs
from tests.fix_worker import Connection
from tests.sql.helpers import refused, value

COUNT = 60
SEARCH = "SELECT (hit).id FROM embed.search(NULL::docs, 'red', mode => 'dense', k => 100, filter => %s)"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with columns of several types, some of them NULL."""
    create_docs(db, COUNT)
    answer(db, "red")
    db.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN small AS int CHECK (VALUE < 100);"
        "CREATE DOMAIN smaller AS small CHECK (VALUE < 90); CREATE DOMAIN doc AS jsonb;"
        "CREATE DOMAIN docs_doc AS doc;"
        "ALTER TABLE docs ADD flag boolean, ADD day date, ADD short varchar(3), ADD fixed char(3),"
        " ADD feeling mood, ADD num numeric(6,2), ADD uid uuid, ADD counted small,"
        " ADD least smaller, ADD inner_meta docs_doc, ADD feelings mood[],"
        ' ADD "the Name" text, ADD moment timestamptz'
    )
    db.execute(
        "UPDATE docs SET flag = id % 2 = 0, day = date '2026-01-01' + id::int, short = 'a' || id % 3,"
        " fixed = 'f' || id % 3,"
        " feeling = CASE WHEN id % 4 > 0 THEN 'glad' ELSE 'sad' END::mood, num = id / 4.0, counted = id,"
        " least = id, inner_meta = meta,"
        " feelings = ARRAY['sad', CASE WHEN id % 4 > 0 THEN 'glad' END]::mood[],"
        " uid = ('00000000-0000-0000-0000-' || lpad(id::text, 12, '0'))::uuid,"
        " \"the Name\" = 'O''Neil ' || id,"
        " moment = '2026-01-01 00:00+00'::timestamptz + id * interval '1 hour'"
    )
    return db


def ids(db: Connection, filter: Any) -> set[int]:
    return {row[0] for row in db.execute(SEARCH.encode(), [Jsonb(filter)]).fetchall()}


@pytest.mark.parametrize(
    ("filter", "condition"),
    [
        ({}, "true"),
        ({"lang": "en"}, "lang = 'en'"),
        ({"lang": None}, "lang IS NULL"),
        ({"lang": ["en", "de"]}, "lang IN ('en', 'de')"),
        ({"lang": {"=": "en"}}, "lang = 'en'"),
        ({"lang": {"=": None}}, "lang IS NULL"),
        ({"lang": {"<>": "en"}}, "lang <> 'en'"),
        ({"lang": {"!=": "en"}}, "lang <> 'en'"),
        ({"lang": {"<>": None}}, "lang IS NOT NULL"),
        ({"year": {"<": 2010}}, "year < 2010"),
        ({"year": {"<=": 2010}}, "year <= 2010"),
        ({"year": {">": 2010}}, "year > 2010"),
        ({"year": {">=": 2010, "<": 2015}}, "year >= 2010 AND year < 2015"),
        ({"year": "2010"}, "year = 2010"),
        ({"year": {"in": [2001, 2002]}}, "year IN (2001, 2002)"),
        ({"year": {"in": []}}, "false"),
        ({"year": {"not_in": [2001, 2002]}}, "year NOT IN (2001, 2002)"),
        ({"year": {"not_in": []}}, "true"),
        ({"lang": {"is_null": True}}, "lang IS NULL"),
        ({"lang": {"is_null": False}}, "lang IS NOT NULL"),
        ({"body": {"like": "%fox%"}}, "body LIKE '%fox%'"),
        ({"body": {"ilike": "RED%"}}, "body ILIKE 'RED%'"),
        ({"short": {"like": "a%"}}, "short LIKE 'a%'"),
        ({"tags": {"contains": "t1"}}, "tags @> '{t1}'"),
        ({"tags": {"contains": ["t1", "t2"]}}, "tags @> '{t1,t2}'"),
        ({"tags": ["t1", "t1"]}, "tags = '{t1,t1}'"),
        ({"meta": {"contains": {"a": 1}}}, "meta @> '{\"a\": 1}'"),
        ({"meta": {"=": {"a": 2}}}, "meta = '{\"a\": 2}'"),
        ({"flag": True}, "flag"),
        ({"flag": {"<>": True}}, "NOT flag"),
        ({"day": {">=": "2026-02-01"}}, "day >= '2026-02-01'"),
        ({"moment": {"<": "2026-01-02T00:00:00Z"}}, "moment < '2026-01-02 00:00+00'"),
        ({"num": 2.25}, "num = 2.25"),
        ({"num": {"in": [0.25, 1]}}, "num IN (0.25, 1)"),
        ({"feeling": "sad"}, "feeling = 'sad'"),
        ({"feeling": {"in": ["sad", "glad"]}}, "true"),
        ({"uid": "00000000-0000-0000-0000-000000000007"}, "id = 7"),
        ({"counted": {"<": 1000}}, "true"),
        ({"least": {"<": 1000}}, "true"),
        ({"least": [1, 1000]}, "id = 1"),
        ({"inner_meta": {"contains": {"a": 1}}}, "meta @> '{\"a\": 1}'"),
        ({"inner_meta": {"=": {"a": 2}}}, "meta = '{\"a\": 2}'"),
        ({"feelings": {"contains": ["glad"]}}, "feelings @> '{glad}'"),
        ({"feelings": ["sad", "glad"]}, "feeling = 'glad'"),
        ({"feeling": {">": "sad"}}, "feeling = 'glad'"),
        ({"feeling": {"not_in": ["sad"]}}, "feeling = 'glad'"),
        ({"year": 2010.0}, "year = 2010"),
        ({"id": {"in": [1.0, 2.00]}}, "id IN (1, 2)"),
        ({"short": "a1 and more"}, "false"),
        ({"fixed": "f1"}, "fixed = 'f1'"),
        ({"fixed": {"in": ["f1", "f2"]}}, "fixed IN ('f1', 'f2')"),
        ({"the Name": "O'Neil 5"}, "id = 5"),
        ({"lang": "en", "year": 2000}, "lang = 'en' AND year = 2000"),
        ({"or": [{"lang": "en"}, {"year": 2001}]}, "lang = 'en' OR year = 2001"),
        ({"and": [{"lang": "en"}, {"year": {">": 2003}}]}, "lang = 'en' AND year > 2003"),
        ({"not": {"lang": "en"}}, "(lang = 'en') IS NOT TRUE"),
        (
            {"or": [{"and": [{"lang": "en"}, {"not": {"year": 2000}}]}, {"lang": None, "flag": True}]},
            "lang = 'en' AND year <> 2000 OR lang IS NULL AND flag",
        ),
        ({"year": 2000, "or": [{"id": 0}, {"id": [25, 26]}]}, "year = 2000 AND id IN (0, 25, 26)"),
    ],
)
def test_each_filter_is_its_condition(docs: Connection, filter: Any, condition: str) -> None:
    wanted = docs.execute(f"SELECT id FROM docs WHERE {condition}".encode()).fetchall()
    assert ids(docs, filter) == {row[0] for row in wanted}


@pytest.mark.parametrize(
    "text",
    [
        "en' OR true --",
        "'; DROP TABLE docs; --",
        "\\'",
        "$3[1]",
        "%s",
        "{en}",
        "en,de",
        '"en"',
        "$$",
        "%I %L %s",
        "\\x27",
    ],
)
def test_a_value_is_never_sql(docs: Connection, text: str) -> None:
    docs.execute(
        "INSERT INTO docs (id, body, lang, tags, embedding) VALUES (1000, 'x', %s, %s, '[1,1,1,1,1,1,1,1]')",
        [text, [text]],
    )
    for filter in (
        {"lang": text},
        {"lang": [text]},
        {"tags": {"contains": text}},
        {"tags": [text]},
        {"and": [{"lang": {"not_in": ["en", "de"]}}, {"lang": {"<>": "x" + text}}]},
    ):
        assert ids(docs, filter) == {1000}
    assert value(docs, "SELECT count(*) FROM docs") == COUNT + 1


@pytest.mark.parametrize(
    ("filter", "told"),
    [
        ([], "a filter is a JSON object"),
        ("lang = 'en'", "a filter is a JSON object"),
        (None, "a filter is a JSON object, not null"),
        ({"no": 1}, "has no column no for the filter"),
        ({"ctid": "(0,1)"}, "has no column ctid for the filter"),
        ({'id" OR true --': 1}, 'has no column "id"" OR true --" for the filter'),
        ({"": 1}, 'has no column "" for the filter'),
        ({"year": {"~": "x"}}, 'a filter has no operator "~"'),
        ({"year": {"= 1 OR true --": 1}}, 'a filter has no operator "= 1 OR true --"'),
        ({"year": {}}, "the filter for column year is empty"),
        ({"year": {">": None}}, 'compares column year with null by ">"'),
        ({"year": {"=": [1]}}, "compares column year with an array"),
        ({"year": {"=": {}}}, "compares column year with an object"),
        ({"year": {"in": 1}}, 'the filter\'s "in" for column year does not fit'),
        ({"year": [2000, None]}, 'the filter\'s "in" for column year has a null'),
        ({"tags": {"in": ["t1"]}}, 'the filter\'s "in" for column tags does not fit'),
        ({"year": {"like": "2%"}}, 'the filter\'s "like" for column year does not fit'),
        ({"body": {"like": 2}}, 'the filter\'s "like" for column body does not fit'),
        ({"body": {"contains": "x"}}, 'the filter\'s "contains" for column body does not fit'),
        ({"lang": {"is_null": "yes"}}, 'the filter\'s "is_null" for column lang is "yes"'),
        ({"and": []}, 'the filter\'s "and" needs a list of filters'),
        ({"or": {"lang": "en"}}, 'the filter\'s "or" needs a list of filters'),
        ({"or": ["en"]}, "a filter is a JSON object"),
        ({"not": [{"lang": "en"}]}, "a filter is a JSON object"),
    ],
)
def test_what_is_no_filter_is_told(docs: Connection, filter: Any, told: str) -> None:
    state, message, hint = refused(docs, SEARCH, Jsonb(filter))
    assert state == "PE003"
    assert told in message
    assert hint


def test_a_value_of_another_type_is_told(docs: Connection) -> None:
    for filter in (
        {"year": "soon"},
        {"year": 1.5},
        {"day": "2026-13-01"},
        {"feeling": "bored"},
        {"flag": "maybe"},
    ):
        state, message, _ = refused(docs, SEARCH, Jsonb(filter))
        assert state in ("22P02", "22008")
        assert str(next(iter(filter.values()))) in message


def test_a_value_of_a_type_of_somebody_s_is_never_sql(docs: Connection) -> None:
    docs.execute("ALTER TYPE mood ADD VALUE 'o''k %s \\$$'")
    docs.execute("UPDATE docs SET feeling = 'o''k %s \\$$' WHERE id = 7")
    for filter in (
        {"feeling": "o'k %s \\$$"},
        {"feeling": ["o'k %s \\$$"]},
        {"feeling": {">=": "o'k %s \\$$"}},
    ):
        assert ids(docs, filter) == {7}
    assert refused(docs, SEARCH, Jsonb({"feeling": "sad' OR true --"}))[0] == "22P02"
    assert refused(docs, SEARCH, Jsonb({"feelings": {"contains": "sad}' OR true --"}}))[0] == "22P02"
    assert ids(docs, {"feelings": {"contains": None}}) == set()


@pytest.mark.parametrize("exact_rows", [0, 10**6])
def test_a_cast_that_a_type_s_owner_made_is_not_run(docs: Connection, exact_rows: int) -> None:
    docs.execute(
        "CREATE FUNCTION harm(text) RETURNS mood LANGUAGE plpgsql AS $$ BEGIN RAISE 'run'; END $$;"
        "CREATE CAST (text AS mood) WITH FUNCTION harm(text);"
        "CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)"
    )
    docs.execute(f"SET embed.exact_rows = {exact_rows}".encode())
    for filter in ({"feeling": "sad"}, {"feeling": ["sad"]}, {"feelings": {"contains": "sad"}}):
        assert ids(docs, filter)


def test_no_filter_is_no_filter(docs: Connection) -> None:
    assert len(docs.execute(SEARCH.encode(), [None]).fetchall()) == COUNT
