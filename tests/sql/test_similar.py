"""embed.similar: more rows like one, by the vectors that it has."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_search import answer, calls, create_docs, fill, play_sidecar, texts, vectorize
from tests.fix_worker import Connection
from tests.sql.helpers import refused

COUNT = 100
COLUMNS = "(hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score"


@pytest.fixture
def docs(db: Connection) -> Connection:
    create_docs(db, COUNT)
    return db


def similar(db: Connection, key: str, arguments: str = "") -> list[tuple[Any, ...]]:
    statement = f"SELECT {COLUMNS} FROM embed.similar(NULL::docs, %s{arguments})"
    return db.execute(statement.encode(), [key]).fetchall()


def test_it_is_a_search_for_the_row_s_text_without_the_row(docs: Connection) -> None:
    for key in (3, 50):
        answer(docs, texts(COUNT)[key])
        for arguments in ("", ", mode => 'dense'", ", mode => 'sparse'", ', filter => \'{"lang": "en"}\''):
            extra = f"(embedding IS NOT NULL) AND id <> {key}"
            wanted = docs.execute(
                f"SELECT {COLUMNS} FROM embed._search_v1(NULL::docs, %s, 10, {_mode(arguments)},"
                f" {_filter(arguments)}, 'convex', NULL, 100, NULL, NULL, NULL, %s)".encode(),
                [texts(COUNT)[key], extra],
            ).fetchall()
            before = calls(docs)
            assert similar(docs, str(key), arguments) == wanted
            assert calls(docs) == before, "no model is asked"


def _mode(arguments: str) -> str:
    return arguments.partition("mode => ")[2] or "NULL"


def _filter(arguments: str) -> str:
    return arguments.partition("filter => ")[2] or "NULL"


def test_the_index_finds_the_same(docs: Connection) -> None:
    exact = similar(docs, "7")
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    docs.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
    assert similar(docs, "7") == exact
    assert 7 not in [row[0] for row in exact]


def test_a_row_without_vectors_is_like_none(docs: Connection) -> None:
    docs.execute("UPDATE docs SET words = NULL, embedding = NULL WHERE id = 5")
    assert similar(docs, "5") == []


def test_a_row_that_is_not_there_is_told(docs: Connection) -> None:
    state, message, hint = refused(docs, "SELECT embed.similar(NULL::docs, '1000')")
    assert (state, message) == ("PE003", "table docs has no row with the key 1000")
    assert "may not see it" in hint
    assert refused(docs, "SELECT embed.similar(NULL::docs, '1 OR true')")[0] == "22P02"
    assert docs.execute("SELECT * FROM embed.similar(NULL::docs, NULL)").fetchall() == []


def test_a_key_of_several_columns(db: Connection) -> None:
    play_sidecar(db)
    db.execute("CREATE TABLE docs (a text, b int, id int, body text, PRIMARY KEY (a, b))")
    vectorize(db, "docs")
    db.execute(
        "INSERT INTO docs SELECT 'it''s', n, n, b FROM unnest(%s::text[]) WITH ORDINALITY AS u(b, n)",
        [texts(30)],
    )
    fill(db, "docs")
    found = similar(db, '["it\'s", "4"]', ", k => 50")
    assert {row[0] for row in found} == set(range(1, 31)) - {4}


def test_a_row_that_is_hidden_is_not_there(docs: Connection, make_role: MakeRole) -> None:
    role = make_role("embed_reader")
    docs.execute(
        f'GRANT SELECT ON docs TO "{role.name}"; ALTER TABLE docs ENABLE ROW LEVEL SECURITY;'
        "CREATE POLICY english ON docs FOR SELECT USING (lang = 'en')"
    )
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert {row[0] % 3 for row in similar(connection, "3")} == {0}
        assert refused(connection, "SELECT embed.similar(NULL::docs, '1')")[0] == "PE003"
