"""Identifiers with quotes, capitals, spaces, keywords and letters of any language, everywhere at once."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from tests.fix_worker import Connection, StartWorker, broken_rows, create_fake_model, vector
from tests.sql.helpers import value

NAMES = [
    "Capitals",
    "with space",
    'double "quotes"',
    "single 'quotes'",
    "select",
    "Ünïcode",
    "模型",
    "a.b",
    "semi;colon",
    "dollar$1",
    "$body$",
    "%s %I",
    "a WHERE b",
    "pg_embed_other",
    "{brace",
    "back\\slash",
    "-- comment",
    "q",
    "r",
    "n",
    "NEW",
    "key",
    "e" * 63,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_any_name_works_everywhere(
    db: Connection, dsn: str, start_worker: StartWorker, name: str, partitioned: bool
) -> None:
    create_fake_model(db, name)
    schema = name.removeprefix("pg_")
    words = {
        "schema": sql.Identifier(schema),
        "table": sql.Identifier(schema, name),
        "key": sql.Identifier((name + "_k")[-63:]),
        "text": sql.Identifier((name + "_t")[-63:]),
        "flag": sql.Identifier((name + "_f")[-63:]),
        "column": sql.Identifier(name),
    }
    spelled = {word: part.as_string(db) for word, part in words.items()}
    db.execute(sql.SQL("CREATE SCHEMA {schema}").format(**words))
    suffix = " PARTITION BY RANGE ({key})" if partitioned else ""
    db.execute(
        sql.SQL("CREATE TABLE {table} ({flag} int, {text} text, {key} text PRIMARY KEY)" + suffix).format(
            **words
        )
    )
    if partitioned:
        part = sql.Identifier(schema, (name + "_p")[-63:])
        db.execute(sql.SQL("CREATE TABLE {} PARTITION OF {table} DEFAULT").format(part, **words))
    db.execute(sql.SQL("INSERT INTO {table} VALUES (1, 'one', 'a'), (0, 'two', 'b')").format(**words))
    db.execute(
        "SELECT embed.create_vectorizer(%s::regclass, %s, column_name => %s, name => %s, filter => %s)",
        [
            spelled["table"],
            (name + "_t")[-63:],
            name,
            name,
            f"{spelled['flag']} = 1 AND {spelled['text']} <> 'WHERE'",
        ],
    )
    start_worker(dsn)
    db.execute("SELECT embed.wait(%s)", [spelled["table"]])
    db.execute(sql.SQL("INSERT INTO {table} VALUES (1, 'three', 'c')").format(**words))
    db.execute(sql.SQL("UPDATE {table} SET {flag} = 1 - {flag}, {text} = {text} || '!'").format(**words))
    db.execute("SELECT embed.wait(%s)", [spelled["table"]])
    text = f"CASE WHEN {spelled['flag']} = 1 THEN {spelled['text']} END"
    assert broken_rows(db, spelled["table"], f"{spelled['key']}::text", text, spelled["column"], name) == []
    embedded = sql.SQL("SELECT {key} FROM {table} WHERE {column} IS NOT NULL").format(**words)
    assert db.execute(embedded).fetchall() == [("b",)]
    assert value(db, "SELECT embed.why(%s::regclass, 'b') IS NOT NULL", spelled["table"])
    db.execute("SELECT * FROM embed.status(%s)", [name])
    db.execute("SELECT embed.retry(%s), embed.pause(%s), embed.resume(%s)", [name, name, name])
    db.execute("SELECT embed.alter_vectorizer(%s, %s)", [name, (name + "_t")[-63:]])
    db.execute("SELECT embed.drop_vectorizer(%s, drop_column => true)", [name])
    assert value(db, "SELECT count(*) FROM embed.vectorizers") == 0


def test_a_template_names_columns_as_they_are_stored(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    db.execute('CREATE TABLE docs (id int PRIMARY KEY, "The Title" text, "Ünter""x" text, "select" text)')
    db.execute(
        "SELECT embed.create_vectorizer('docs', template => '{The Title}: {Ünter\"x} ({select}) 100%')"
    )
    db.execute("INSERT INTO docs VALUES (1, 'T', 'U', NULL)")
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT embedding = %s::halfvec FROM docs", vector("T: U () 100%"))


def test_backslashes_mean_themselves_in_a_session_that_takes_them_for_escapes(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute(f"ALTER DATABASE {db.info.dbname} SET standard_conforming_strings = off")
    with psycopg.connect(dsn, autocommit=True) as old:
        assert value(old, "SHOW standard_conforming_strings") == "off"
        old.execute(
            "SELECT embed.create_vectorizer('docs', template => %s, filter => %s)",
            [r"{body} \{{n", r"body ~ '^\w+\\?$'"],
        )
        start_worker(dsn)
        for number, body in enumerate(["one", "two\\", "not this", "other one"]):
            old.execute("INSERT INTO docs VALUES (%s, %s)", [number, body])
        old.execute("UPDATE docs SET body = 'three\\\\' WHERE id = 3")
        old.execute("SELECT embed.wait('public.docs')")
        assert value(old, "SELECT filter FROM embed.vectorizers") == r"(body ~ '^\w+\\?$'::text)"
        assert value(old, "SELECT state FROM embed.why('docs', 2)") == "no input"
        old.execute("SELECT embed.alter_vectorizer('public.docs', template => '{body}')")
        old.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT array_agg(id ORDER BY id) FROM docs WHERE embedding IS NOT NULL") == [0, 1, 3]
    assert broken_rows(db, text=r"CASE WHEN body ~ '^\w+\\?$' THEN body END") == []
