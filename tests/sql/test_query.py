"""sql/functions/70_query.sql: embed() as a reader types it, over a sidecar that a function plays."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_docs, create_fake_model
from tests.sql.helpers import refused, value

# Answers every text with its length, its kind and the model's place in the alphabet; says what it was asked.
SIDECAR = """
CREATE TABLE embed.asked (request jsonb);
CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, embed, pg_temp AS $$
DECLARE
    r jsonb := request;
BEGIN
    INSERT INTO embed.asked VALUES (r || jsonb_build_object('waited', timeout));
    IF r #>> '{texts,0}' LIKE 'error %' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'error', jsonb_build_object(
            'code', split_part(r #>> '{texts,0}', ' ', 2), 'message', 'no', 'hint', 'do this'));
    ELSIF r #>> '{texts,0}' = 'another' THEN
        RETURN '{"id": "another", "vectors": ["[1,2,3,4]"]}';
    ELSIF r #>> '{texts,0}' = 'nothing' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'vectors', jsonb_build_array());
    ELSIF r #>> '{texts,0}' = 'no json' THEN
        RETURN '<html>';
    ELSIF r ->> 'op' = 'card' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'card', jsonb_build_object(
            'dimensions', 3, 'metric', 'cosine', 'space_id', 'asked for', 'max_tokens', 9),
            'price', CASE WHEN r #>> '{model,name}' = 'known' THEN 0.02 END,
            'family', 'fake', 'options', (r #> '{model,options}') || '{"delay": 0}');
    ELSIF r ->> 'output' = 'sparse' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'vectors', jsonb_build_array(
            format('{2:%s}/9', length(r #>> '{texts,0}'))));
    ELSIF r ->> 'output' = 'multi' THEN
        RETURN jsonb_build_object('id', r -> 'id', 'vectors', jsonb_build_array(
            format('{"[%s,1]","[0,1]"}', length(r #>> '{texts,0}'))));
    END IF;
    RETURN jsonb_build_object('id', r -> 'id', 'vectors', jsonb_build_array(format('[%s,%s,%s,0]',
        length(r #>> '{texts,0}'), CASE r ->> 'kind' WHEN 'query' THEN 1 ELSE 2 END,
        ascii(r #>> '{model,name}'))));
END $$;
"""
A, B = 97, 98


@pytest.fixture
def asked(db: Connection) -> Connection:
    """A database with that sidecar and a model `a`."""
    db.execute(SIDECAR)
    create_fake_model(db, "a")
    return db


def test_embed_is_the_vector_of_a_query_and_embed_document_that_of_a_text(asked: Connection) -> None:
    assert value(asked, "SELECT embed('four')::text") == f"[4,1,{A},0]"
    assert value(asked, "SELECT embed.embed('four')::text") == f"[4,1,{A},0]"
    assert value(asked, "SELECT embed.embed_document('four')::text") == f"[4,2,{A},0]"


def test_the_other_outputs_have_functions_of_their_own(asked: Connection) -> None:
    create_fake_model(asked, "b", sparse_dimensions=9, multi_dimensions=2)
    assert value(asked, "SELECT embed_sparse('four', 'b')::text") == "{2:4}/9"
    assert value(asked, "SELECT embed_multi('four', 'b')::text") == '{"[4,1]","[0,1]"}'
    assert value(asked, "SELECT embed('four', 'b')::text") == f"[4,1,{B},0]"
    told = value(asked, "SELECT array_agg(request ->> 'output') FROM embed.asked")
    assert told == ["sparse", "multi", "dense"]
    assert value(asked, "SELECT pg_typeof(embed_sparse(NULL, 'b'))::text") == "sparsevec"


def test_without_a_name_an_output_is_of_the_model_that_makes_it(asked: Connection) -> None:
    create_fake_model(asked, "b", sparse_dimensions=9)
    assert value(asked, "SELECT embed_sparse('four')::text") == "{2:4}/9"
    create_fake_model(asked, "c", sparse_dimensions=10)
    assert refused(asked, "SELECT embed_sparse('four')")[0] == "PE002"
    create_docs(asked)
    asked.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'c', column_name => NULL,"
        " sparse_column => 's')"
    )
    asked.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'a')")
    assert value(asked, "SELECT embed_sparse('four')::text") == "{2:4}/9"
    assert (
        value(asked, "SELECT request #>> '{model,name}' FROM embed.asked ORDER BY ctid DESC LIMIT 1") == "c"
    )
    assert value(asked, "SELECT embed('four')::text") == f"[4,1,{A},0]"


def test_an_output_that_a_model_lacks_is_an_error(asked: Connection) -> None:
    error = refused(asked, "SELECT embed_multi('four', 'a')")
    assert error == ("PE003", "model 'a' makes no token vectors", "it makes dense vectors")


@pytest.mark.parametrize("path", ["''", "pg_catalog", "elsewhere"])
def test_the_caller_s_search_path_need_not_have_pgvector(asked: Connection, path: str) -> None:
    asked.execute("CREATE SCHEMA elsewhere; CREATE TYPE elsewhere.vector AS ENUM ('a')")
    create_fake_model(asked, "b", sparse_dimensions=9, multi_dimensions=2)
    calls = ("embed('x', 'b')", "embed_document('x', 'b')", "embed_sparse('x', 'b')", "embed_multi('x', 'b')")
    found = [value(asked, f"SELECT embed.{call}::text") for call in calls]
    asked.execute(f"SET search_path = {path}")
    assert [value(asked, f"SELECT embed.{call}::text") for call in calls] == found
    assert value(asked, "SELECT public.embed('x', 'b')::text") == found[0]


def test_null_is_null_and_asks_nobody(asked: Connection) -> None:
    assert value(asked, "SELECT embed(NULL)") is None
    assert value(asked, "SELECT embed.embed_document(NULL, 'a')") is None
    assert value(asked, "SELECT count(*) FROM embed.asked") == 0


def test_texts_arrive_whole(asked: Connection) -> None:
    for text in ("", " ", "Zwölf 模型 🦆", "%s :x $1 \\ {} '\"", "x" * 999_999, "line\nbreak\ttab"):
        length = value(asked, "SELECT split_part(embed(%s)::text, ',', 1)", text)
        assert length == f"[{len(text)}"


def test_the_request_says_what_the_sidecar_needs(asked: Connection) -> None:
    asked.execute("SELECT embed('x')")
    request = value(asked, "SELECT request FROM embed.asked")
    assert request["v"] == 1
    assert request["op"] == "embed"
    assert request["kind"] == "query"
    assert request["texts"] == ["x"]
    assert request["model"] == {"name": "a", "family": "fake", "options": {"dimensions": 4}}
    assert request["space_id"] == value(asked, "SELECT space_id FROM embed.models")
    assert request["timeout"] == request["waited"] == 30


def test_the_model_is_the_one_the_vectorizers_use(asked: Connection) -> None:
    create_fake_model(asked, "b", document_prompt="b")
    create_docs(asked, "one")
    asked.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'b')")
    assert value(asked, "SELECT embed('x')::text") == f"[1,1,{B},0]"
    assert value(asked, "SELECT embed('x', 'a')::text") == f"[1,1,{A},0]"


def test_several_models_in_use_are_ambiguous_until_one_is_named(asked: Connection) -> None:
    create_fake_model(asked, "b", document_prompt="b")
    create_docs(asked, "one")
    asked.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'a')")
    asked.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'b', column_name => 'other')")
    state, _, hint = refused(asked, "SELECT embed('x')")
    assert state == "PE002"
    assert "'a', 'b'" in hint
    assert "embed.default_model" in hint
    asked.execute("SET embed.default_model = 'b'")
    assert value(asked, "SELECT embed('x')::text") == f"[1,1,{B},0]"
    assert value(asked, "SELECT embed('x', 'a')::text") == f"[1,1,{A},0]"
    asked.execute("SET embed.default_model = ''")
    assert refused(asked, "SELECT embed('x')")[0] == "PE002"


def test_without_vectorizers_the_catalog_s_default_is_taken(asked: Connection) -> None:
    create_fake_model(asked, "b", document_prompt="b")
    assert refused(asked, "SELECT embed('x')")[0] == "PE002"
    asked.execute("SELECT embed.alter_model('b', is_default => true)")
    assert value(asked, "SELECT embed('x')::text") == f"[1,1,{B},0]"


def test_an_unknown_model_is_told_with_those_that_are_known(asked: Connection) -> None:
    assert refused(asked, "SELECT embed('x', 'no')") == (
        "PE001",
        "there is no model 'no'",
        "the models are: 'a'; embed.create_model makes others",
    )
    asked.execute("SET embed.default_model = 'no'")
    assert refused(asked, "SELECT embed('x')")[0] == "PE001"


def test_no_model_at_all_says_how_to_make_one(db: Connection) -> None:
    state, _, hint = refused(db, "SELECT embed('x')")
    assert state == "PE002"
    assert "embed.create_model" in hint


@pytest.mark.parametrize("code", ["PE010", "PE011", "PE012", "PE020", "PE021", "PE022", "PE023", "PE030"])
def test_the_sidecar_s_errors_are_errors_of_sql(asked: Connection, code: str) -> None:
    assert refused(asked, "SELECT embed(%s)", f"error {code}") == (code, "no", "do this")
    assert value(asked, "SELECT embed('fine') IS NOT NULL"), "an error leaves nothing behind"


@pytest.mark.parametrize("text", ["another", "nothing", "no json"])
def test_an_answer_that_is_none_is_never_a_vector(asked: Connection, text: str) -> None:
    state, _, _ = refused(asked, "SELECT embed(%s)", text)
    assert state in ("PE020", "22P02")


@pytest.mark.parametrize("timeout", ["0", "-1", "3601"])
def test_the_timeout_has_bounds(asked: Connection, timeout: str) -> None:
    asked.execute(f"SET embed.timeout = '{timeout}'")
    assert refused(asked, "SELECT embed('x')")[0] == "PE003"


def test_the_timeout_of_the_session_goes_with_the_request(asked: Connection) -> None:
    asked.execute("SET embed.timeout = '2.5'")
    asked.execute("SELECT embed('x')")
    assert value(asked, "SELECT request ->> 'waited' FROM embed.asked") == "2.5"


@pytest.mark.parametrize("timeout", ["soon", "5s", "NaN", "1.2.3", "1e999"])
def test_a_timeout_that_is_no_number_is_told(asked: Connection, timeout: str) -> None:
    asked.execute(f"SET embed.timeout = '{timeout}'")
    assert refused(asked, "SELECT embed('x')") == (
        "PE003",
        f"embed.timeout is '{timeout}'",
        "set it to a number of seconds, without a unit",
    )


@pytest.mark.parametrize("timeout", ["2.", ".5", " 3 ", "1e1", "+4"])
def test_a_timeout_may_be_any_number(asked: Connection, timeout: str) -> None:
    asked.execute(f"SET embed.timeout = '{timeout}'")
    asked.execute("SELECT embed('x')")
    assert float(value(asked, "SELECT request ->> 'waited' FROM embed.asked")) == float(timeout)


def test_the_same_text_is_asked_for_once_in_a_session(asked: Connection) -> None:
    for _ in range(3):
        asked.execute("SELECT embed('x'), embed('x', 'a'), embed('y')")
    assert value(asked, "SELECT count(*) FROM embed.asked") == 2


def test_texts_that_share_a_slot_are_not_taken_for_each_other(asked: Connection) -> None:
    for number in range(300):
        text = "x" * number
        assert value(asked, "SELECT embed(%s)::text", text) == f"[{number},1,{A},0]"


def test_what_was_remembered_in_a_transaction_that_failed_is_asked_again(asked: Connection) -> None:
    with asked.transaction(force_rollback=True):
        assert value(asked, "SELECT embed('x')::text") == f"[1,1,{A},0]"
    assert value(asked, "SELECT embed('x')::text") == f"[1,1,{A},0]"
    asked.execute("DISCARD ALL")
    assert value(asked, "SELECT embed('x')::text") == f"[1,1,{A},0]"


def test_a_model_made_anew_under_its_name_is_not_answered_from_memory(asked: Connection) -> None:
    asked.execute("SELECT embed('x')")
    asked.execute("SELECT embed.drop_model('a')")
    create_fake_model(asked, "a", document_prompt="another space")
    asked.execute("SELECT embed('x')")
    assert value(asked, "SELECT count(*) FROM embed.asked") == 2


def test_create_model_asks_the_sidecar_for_the_card(asked: Connection) -> None:
    asked.execute("SELECT embed.create_model('b', 'fake', '{\"dimensions\": 3}')")
    found = asked.execute("SELECT dimensions, space_id FROM embed.models WHERE name = 'b'").fetchall()
    assert found == [(3, "asked for")]
    request = value(asked, "SELECT request FROM embed.asked")
    assert (request["op"], request["model"]["family"]) == ("card", "fake")
    asked.execute("SELECT embed.alter_model('b', options => '{\"dimensions\": 3, \"delay\": 0}')")
    assert value(asked, "SELECT count(*) FROM embed.asked WHERE request ->> 'op' = 'card'") == 2


def test_create_model_without_a_family_takes_what_the_sidecar_knows(asked: Connection) -> None:
    asked.execute("SELECT embed.create_model('known', options => '{\"dimensions\": 3}')")
    found = asked.execute("SELECT family, options FROM embed.models WHERE name = 'known'").fetchall()
    assert found == [("fake", {"dimensions": 3, "delay": 0})]
    assert value(asked, "SELECT request #> '{model,family}' IS NULL FROM embed.asked") is False
    assert value(asked, "SELECT request #>> '{model,family}' FROM embed.asked") is None
    assert str(value(asked, "SELECT per_million_tokens FROM embed._price")) == "0.02"


@pytest.fixture
def reader(asked: Connection, make_role: MakeRole) -> Iterator[Connection]:
    """A connection of a role that is only embed_reader."""
    with psycopg.connect(make_role("embed_reader").dsn, autocommit=True) as connection:
        yield connection


def test_a_reader_may_ask(reader: Connection) -> None:
    assert value(reader, "SELECT embed('four')::text") == f"[4,1,{A},0]"
    assert value(reader, "SELECT embed.embed_document('four', 'a')::text") == f"[4,2,{A},0]"


def test_a_reader_cannot_ask_past_the_catalog(reader: Connection) -> None:
    for statement in (
        'SELECT embed._ask(\'{"op": "embed", "model": {"family": "evil"}}\')',
        "SELECT embed._call('{}', 1)",
        "SELECT embed._vector_asked('x', 'a', 'evil', '{}', 's', 'query', 'dense', 'm', '1')",
    ):
        assert refused(reader, statement)[0] == "42501"


def test_embed_in_queries_of_every_shape(asked: Connection) -> None:
    asked.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, e vector(4))")
    asked.execute(
        "INSERT INTO docs SELECT i, repeat('x', i), format('[%s,1,97,0]', i)::vector"
        " FROM generate_series(1, 20) AS i"
    )
    nearest = "SELECT id FROM docs ORDER BY e <-> embed('xxxxx') LIMIT 1"
    assert value(asked, nearest) == 5
    assert value(asked, f"WITH found AS ({nearest}) SELECT id FROM found") == 5
    assert value(asked, "SELECT id FROM docs ORDER BY e <-> (SELECT embed('xxxxx')) LIMIT 1") == 5
    assert value(asked, "SELECT count(*) FROM docs WHERE e <-> embed('xxxxx') < 2") == 3
    assert value(asked, "SELECT count(*) FROM docs WHERE e = embed(body)") == 20
    asked.execute("PREPARE nearest (text) AS SELECT id FROM docs ORDER BY e <-> embed($1) LIMIT 1")
    for number in range(1, 11):
        assert value(asked, f"EXECUTE nearest ('{'x' * number}')") == number
    asked.execute("CREATE VIEW found AS " + nearest)
    assert value(asked, "SELECT id FROM found") == 5
    asked.execute(
        "CREATE FUNCTION nearest(q text) RETURNS int LANGUAGE plpgsql STABLE AS"
        " $$ BEGIN RETURN (SELECT id FROM docs ORDER BY e <-> embed(q) LIMIT 1); END $$"
    )
    assert value(asked, "SELECT nearest('xxx')") == 3
    asked.execute("INSERT INTO docs VALUES (21, 'new', embed('xyz'))")
    asked.execute("UPDATE docs SET e = embed(body) WHERE id = 21")


def test_the_model_of_a_column_is_the_one_that_fills_it(asked: Connection) -> None:
    create_fake_model(asked, "b")
    create_docs(asked)
    asked.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'a')")
    asked.execute("SELECT embed.create_vectorizer('docs', 'title', model => 'b', column_name => 'second')")
    assert value(asked, "SELECT embed._column_model_v1(NULL::docs, 'embedding')") == "a"
    assert value(asked, "SELECT embed._column_model_v1(NULL::docs, 'second')") == "b"
    asked.execute("ALTER TABLE docs RENAME second TO titles")
    assert value(asked, "SELECT embed._column_model_v1(NULL::docs, 'titles')") == "b"
    told = refused(asked, "SELECT embed._column_model_v1(NULL::docs, 'second')")
    assert told[:2] == ("PE003", "no vectorizer fills column second of public.docs")
