"""sql/functions/20_models.sql: models as a reader makes, changes and drops them."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb

from tests.fix_worker import Connection, create_docs, create_fake_model
from tests.sql.helpers import refused, value

CARD = '{"dimensions": 3, "metric": "cosine", "space_id": "three", "max_tokens": 100}'


def test_create_model_takes_dimensions_metric_and_space_from_the_card(db: Connection) -> None:
    assert value(db, "SELECT embed.create_model('m', 'fake', '{\"dimensions\": 3}', card => %s)", CARD) == "m"
    found = db.execute(
        "SELECT name, family, options, dimensions, max_tokens, metric, is_default, space_id FROM embed.models"
    ).fetchall()
    assert found == [("m", "fake", {"dimensions": 3}, 3, 100, "cosine", False, "three")]


def test_create_model_without_a_card_asks_the_sidecar(db: Connection) -> None:
    state, message, hint = refused(db, "SELECT embed.create_model('m', family => 'fake')")
    assert state == "PE013"
    assert "no transport" in message
    assert "pg-embed doctor" in hint


def test_a_model_that_exists_is_an_error_unless_told_otherwise(db: Connection) -> None:
    create_fake_model(db)
    state, message, hint = refused(db, "SELECT embed.create_model('fake', 'fake', card => %s)", CARD)
    assert (state, message) == ("PE003", "there is a model 'fake' already")
    assert "embed.alter_model" in hint
    assert (
        value(db, "SELECT embed.create_model('fake', 'fake', card => %s, if_not_exists => true)", CARD)
        == "fake"
    )
    assert value(db, "SELECT dimensions FROM embed.models") == 4


@pytest.mark.parametrize("call", ["'', 'fake'", "NULL, 'fake'", "'m', ''", "'m', NULL"])
def test_a_model_needs_a_name_and_a_family(db: Connection, call: str) -> None:
    assert refused(db, f"SELECT embed.create_model({call}, card => %s)", CARD)[0] == "PE003"


@pytest.mark.parametrize(
    "options",
    [
        '{"api_key": "sk-1"}',
        '{"API_KEY": "sk-1"}',
        '{"token": "t"}',
        '{"openai_api_key": "sk-1"}',
        '{"headers": {"Authorization": "Bearer sk-1"}}',
        '{"endpoints": [{"password": "p"}]}',
    ],
)
def test_secrets_are_not_taken_into_the_catalog(db: Connection, options: str) -> None:
    state, message, hint = refused(
        db, "SELECT embed.create_model('m', 'openai', %s, card => %s)", options, CARD
    )
    assert state == "PE003"
    assert "secret" in message
    assert "sk-1" not in message
    assert "api_key_env" in hint
    create_fake_model(db)
    assert (
        refused(db, "SELECT embed.alter_model('fake', options => %s, card => %s)", options, CARD)[0]
        == "PE003"
    )


def test_names_of_keys_and_token_limits_are_no_secrets(db: Connection) -> None:
    options = (
        '{"api_key_env": "OPENAI_API_KEY", "api_key_file": "/run/key", "max_tokens": 10, "tokenizer": "x"}'
    )
    assert value(db, "SELECT embed.create_model('m', 'openai', %s, card => %s)", options, CARD) == "m"


@pytest.mark.parametrize("options", ["[]", "1", '"text"', "null"])
def test_options_are_an_object(db: Connection, options: str) -> None:
    state, _, hint = refused(db, "SELECT embed.create_model('m', 'fake', %s, card => %s)", options, CARD)
    assert state == "PE003"
    assert "options =>" in hint


@pytest.mark.parametrize(
    "card", ["{}", "[]", '{"dimensions": 0, "metric": "cosine", "space_id": "x"}',
             '{"dimensions": 3, "metric": "nearness", "space_id": "x"}', '{"dimensions": "many"}']
)  # fmt: skip
def test_a_card_that_tells_too_little_is_refused(db: Connection, card: str) -> None:
    state, _, hint = refused(db, "SELECT embed.create_model('m', 'fake', card => %s)", card)
    assert state == "PE003"
    assert hint


def test_only_one_model_is_the_default(db: Connection) -> None:
    for name in ("a", "b"):
        db.execute("SELECT embed.create_model(%s, 'fake', card => %s, is_default => true)", [name, CARD])
    assert db.execute("SELECT name FROM embed.models WHERE is_default").fetchall() == [("b",)]
    db.execute("SELECT embed.alter_model('a', is_default => true)")
    assert db.execute("SELECT name FROM embed.models WHERE is_default").fetchall() == [("a",)]
    db.execute("SELECT embed.alter_model('a', is_default => false)")
    assert db.execute("SELECT name FROM embed.models WHERE is_default").fetchall() == []


def test_alter_model_renames(db: Connection) -> None:
    create_fake_model(db)
    assert value(db, "SELECT embed.alter_model('fake', rename_to => 'other')") == "other"
    assert db.execute("SELECT name FROM embed.models").fetchall() == [("other",)]
    create_fake_model(db)
    state, message, _ = refused(db, "SELECT embed.alter_model('other', rename_to => 'fake')")
    assert (state, message) == ("PE003", "there is a model 'fake' already")


def test_a_model_in_use_keeps_its_space(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    state, _, hint = refused(
        db, "SELECT embed.alter_model('fake', options => '{\"dimensions\": 3}', card => %s)", CARD
    )
    assert state == "PE030"
    assert "new model" in hint
    db.execute("SELECT embed.drop_vectorizer('docs')")
    db.execute("SELECT embed.alter_model('fake', options => '{\"dimensions\": 3}', card => %s)", [CARD])
    assert db.execute("SELECT dimensions, space_id FROM embed.models").fetchall() == [(3, "three")]


@pytest.mark.parametrize("change", [{"dimensions": 5}, {"metric": "l2"}])
def test_a_model_in_use_keeps_its_dimensions_and_metric(db: Connection, change: dict[str, object]) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    card = value(db, "SELECT card FROM embed._model")
    statement = "SELECT embed.alter_model('fake', card => %s)"
    assert refused(db, statement, Jsonb({**card, **change}))[0] == "PE030"
    db.execute(statement, [Jsonb({**card, "max_tokens": 7})])


def test_a_model_is_no_default_by_null(db: Connection) -> None:
    db.execute("SELECT embed.create_model('fake', 'fake', card => %s, is_default => NULL)", [CARD])
    assert value(db, "SELECT is_default FROM embed.models") is False


def test_a_model_in_use_is_not_dropped(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    state, message, hint = refused(db, "SELECT embed.drop_model('fake')")
    assert state == "PE003"
    assert "'docs_embedding'" in message
    assert "embed.drop_vectorizer" in hint
    db.execute("SELECT embed.drop_vectorizer('docs')")
    db.execute("SELECT embed.drop_model('fake')")
    assert db.execute("SELECT name FROM embed.models").fetchall() == []


def test_an_unknown_model_is_told_with_those_that_are_known(db: Connection) -> None:
    state, message, hint = refused(db, "SELECT embed.drop_model('no')")
    assert (state, message) == ("PE001", "there is no model 'no'")
    assert "embed.create_model" in hint
    create_fake_model(db, "a")
    create_fake_model(db, "b")
    assert (
        refused(db, "SELECT embed.alter_model('no', is_default => true)")[2]
        == "the models are: 'a', 'b'; embed.create_model makes others"
    )
    assert value(db, "SELECT embed.drop_model('no', if_exists => true) IS NOT NULL")


@pytest.mark.parametrize(
    "name", ['with "quotes"', "with 'apostrophes'", "Ünïcode 模型", "select", "a.b.c", "%s {x}"]
)
def test_a_model_may_have_any_name(db: Connection, name: str) -> None:
    assert value(db, "SELECT embed.create_model(%s, 'fake', card => %s)", name, CARD) == name
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => %s)", [name])
    assert value(db, "SELECT model FROM embed.vectorizers") == name
