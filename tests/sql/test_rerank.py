"""sql/functions/75_rerank.sql: embed.rerank() as a reader types it, over a sidecar that a function plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_fake_model
from tests.sql.helpers import refused, value

# Scores every text by its length, or answers what the first text says; remembers what it was asked.
SIDECAR = """
CREATE TABLE embed.asked (request jsonb);
CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, embed, pg_temp AS $$
DECLARE
    r jsonb := request;
BEGIN
    INSERT INTO embed.asked VALUES (r);
    IF r #>> '{texts,0}' LIKE 'error %' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'error', jsonb_build_object(
            'code', split_part(r #>> '{texts,0}', ' ', 2), 'message', 'no', 'hint', 'do this'));
    ELSIF r #>> '{texts,0}' = 'one score' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'scores', '[1]'::jsonb);
    ELSIF r #>> '{texts,0}' = 'no scores' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'vectors', '["[1]"]'::jsonb);
    END IF;
    RETURN jsonb_build_object('id', r -> 'id', 'tokens', 1, 'scores',
        (SELECT jsonb_agg(length(t.body) / 8.0 ORDER BY t.place)
            FROM jsonb_array_elements_text(r -> 'texts') WITH ORDINALITY AS t (body, place)));
END $$;
"""
CARD = {"outputs": ["score"], "dimensions": 1, "metric": "ip", "space_id": "scores", "max_tokens": 100}


def create_reranker(db: Connection, name: str) -> None:
    db.execute(
        "SELECT embed.create_model(%s, 'fake_reranker', '{\"delay\": 0}', card => %s)", [name, Jsonb(CARD)]
    )


@pytest.fixture
def asked(db: Connection) -> Connection:
    """A database with that sidecar, an embedder `a` and a reranker `r`."""
    db.execute(SIDECAR)
    create_fake_model(db, "a")
    create_reranker(db, "r")
    return db


def rows(db: Connection, statement: str, *parameters: Any) -> list[Any]:
    return db.execute(statement, parameters or None).fetchall()


def test_the_best_come_first_and_equal_ones_in_their_order(asked: Connection) -> None:
    found = rows(asked, "SELECT * FROM embed.rerank('q', ARRAY['aa', 'bbbb', 'cc', 'd'])")
    assert found == [(2, 0.5), (1, 0.25), (3, 0.25), (4, 0.125)]
    assert rows(asked, "SELECT index, score FROM embed.rerank('q', '{a}', 'r')") == [(1, 0.125)]


def test_scores_keep_the_order_of_the_texts(asked: Connection) -> None:
    assert value(asked, "SELECT embed.rerank_scores('q', '{aa,bbbb,c}')") == [0.25, 0.5, 0.125]


def test_texts_that_are_null_have_no_score(asked: Connection) -> None:
    texts = [None, "aa", None, "bbbb", None]
    assert value(asked, "SELECT embed.rerank_scores('q', %s)", texts) == [None, 0.25, None, 0.5, None]
    assert rows(asked, "SELECT * FROM embed.rerank('q', %s)", texts) == [(4, 0.5), (2, 0.25)]
    assert value(asked, "SELECT request -> 'texts' FROM embed.asked LIMIT 1") == ["aa", "bbbb"]


def test_where_there_is_nothing_to_ask_nobody_is_asked(asked: Connection) -> None:
    for query, texts in (("q", "NULL"), ("NULL", "'{a}'"), ("q", "'{}'"), ("q", "'{NULL,NULL}'")):
        spelled = query if query == "NULL" else f"'{query}'"
        assert rows(asked, f"SELECT * FROM embed.rerank({spelled}, {texts})") == []
    assert value(asked, "SELECT embed.rerank_scores('q', NULL)") is None
    assert value(asked, "SELECT embed.rerank_scores(NULL, '{a}')") is None
    assert value(asked, "SELECT embed.rerank_scores('q', '{}')") == []
    assert value(asked, "SELECT embed.rerank_scores('q', '{NULL,NULL}')") == [None, None]
    assert value(asked, "SELECT count(*) FROM embed.asked") == 0


def test_arrays_of_any_shape_are_read_in_their_order(asked: Connection) -> None:
    assert value(asked, "SELECT embed.rerank_scores('q', '{{a,bb},{ccc,NULL}}')") == [
        0.125,
        0.25,
        0.375,
        None,
    ]
    assert rows(asked, "SELECT index FROM embed.rerank('q', '[5:6]={a,bb}')") == [(2,), (1,)]


def test_the_request_says_what_the_sidecar_needs(asked: Connection) -> None:
    texts = ["", "Zwölf 模型 🦆", "%s :x $1 \\ {} '\"", "line\nbreak\ttab"]
    asked.execute("SELECT embed.rerank('the \"query\"', %s)", [texts])
    request = value(asked, "SELECT request FROM embed.asked")
    assert (request["v"], request["op"], request["timeout"]) == (1, "rerank", 30)
    assert (request["query"], request["texts"]) == ('the "query"', texts)
    assert request["model"] == {"name": "r", "family": "fake_reranker", "options": {"delay": 0}}


def test_an_empty_query_is_a_query(asked: Connection) -> None:
    assert rows(asked, "SELECT * FROM embed.rerank('', '{aa}')") == [(1, 0.25)]


def test_several_rerankers_are_ambiguous_until_one_is_named(asked: Connection) -> None:
    create_reranker(asked, "s")
    state, _, hint = refused(asked, "SELECT * FROM embed.rerank('q', '{a}')")
    assert (state, hint) == ("PE002", "name one of: 'r', 's', or set embed.default_reranker")
    asked.execute("SELECT embed.rerank('q', '{a}', 's')")
    asked.execute("SET embed.default_reranker = 'r'")
    asked.execute("SELECT embed.rerank('q', '{a}')")
    assert [row[0] for row in rows(asked, "SELECT request #>> '{model,name}' FROM embed.asked")] == ["s", "r"]
    asked.execute("SET embed.default_reranker = ''")
    assert refused(asked, "SELECT * FROM embed.rerank('q', '{a}')")[0] == "PE002"


def test_without_a_reranker_it_says_how_to_make_one(db: Connection) -> None:
    create_fake_model(db, "a")
    state, message, hint = refused(db, "SELECT * FROM embed.rerank('q', '{a}')")
    assert (state, message) == ("PE002", "this database has no reranker")
    assert "embed.create_model" in hint
    state, _, hint = refused(db, "SELECT * FROM embed.rerank('q', '{a}', 'a')")
    assert state == "PE003"
    assert "embed.create_model" in hint


def test_a_model_that_makes_vectors_is_refused(asked: Connection) -> None:
    wrong = ("PE003", "model 'a' makes vectors, and no scores of texts for a query", "name a reranker: 'r'")
    assert refused(asked, "SELECT * FROM embed.rerank('q', '{a}', 'a')") == wrong
    asked.execute("SET embed.default_reranker = 'a'")
    assert refused(asked, "SELECT embed.rerank_scores('q', '{a}')") == wrong
    assert value(asked, "SELECT count(*) FROM embed.asked") == 0


def test_an_unknown_model_is_told_with_those_that_are_known(asked: Connection) -> None:
    assert refused(asked, "SELECT embed.rerank('q', '{a}', 'no')") == (
        "PE001",
        "there is no model 'no'",
        "the models are: 'a', 'r'; embed.create_model makes others",
    )


@pytest.mark.parametrize("code", ["PE003", "PE010", "PE011", "PE012", "PE020", "PE021", "PE023"])
def test_the_sidecar_s_errors_are_errors_of_sql(asked: Connection, code: str) -> None:
    assert refused(asked, "SELECT embed.rerank('q', ARRAY[%s])", f"error {code}") == (code, "no", "do this")


@pytest.mark.parametrize("text", ["one score", "no scores"])
def test_an_answer_that_is_none_is_never_a_score(asked: Connection, text: str) -> None:
    assert refused(asked, "SELECT embed.rerank('q', ARRAY[%s, 'b'])", text)[0] == "PE020"


def test_the_candidates_of_a_search_are_reranked_by_one_call(asked: Connection) -> None:
    asked.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    asked.execute("INSERT INTO docs SELECT 100 - i, repeat('x', i) FROM generate_series(1, 20) AS i")
    found = rows(
        asked,
        "WITH found AS (SELECT array_agg(d.id) AS ids, array_agg(d.body) AS bodies FROM docs AS d)"
        " SELECT f.ids[r.index], r.score FROM found AS f, embed.rerank('q', f.bodies) AS r"
        " ORDER BY r.score DESC LIMIT 2",
    )
    assert found == [(80, 2.5), (81, 2.375)]
    found = rows(
        asked,
        "WITH found AS (SELECT array_agg(d.id) AS ids, array_agg(d.body) AS bodies FROM docs AS d)"
        " SELECT s.id FROM found AS f,"
        " unnest(f.ids, embed.rerank_scores('q', f.bodies)) AS s (id, score) ORDER BY s.score DESC LIMIT 2",
    )
    assert found == [(80,), (81,)]
    assert value(asked, "SELECT count(*) FROM embed.asked") == 2


def test_what_python_asks_knows_the_rerankers(asked: Connection) -> None:
    assert rows(asked, "SELECT r FROM embed._rerankers_v1() AS r") == [("r",)]


@pytest.mark.parametrize("role", ["embed_reader", "embed_owner", "embed_worker"])
def test_each_role_may_rerank_and_none_may_ask_past_the_catalog(
    asked: Connection, make_role: MakeRole, role: str
) -> None:
    with psycopg.connect(make_role(role).dsn, autocommit=True) as connection:
        assert rows(connection, "SELECT * FROM embed.rerank('q', '{aa}')") == [(1, 0.25)]
        assert value(connection, "SELECT embed.rerank_scores('q', '{aa}', 'r')") == [0.25]
        assert refused(connection, "SELECT embed._reranker_id('r')")[0] == "42501"
        assert refused(connection, 'SELECT embed._ask(\'{"op": "rerank"}\')')[0] == "42501"


@pytest.fixture
def stranger(asked: Connection, make_role: MakeRole) -> Iterator[Connection]:
    """A connection of a role with no right of ours."""
    with psycopg.connect(make_role().dsn, autocommit=True) as connection:
        yield connection


def test_somebody_without_a_role_may_not(stranger: Connection) -> None:
    assert refused(stranger, "SELECT embed.rerank('q', '{a}')")[0] == "42501"
