"""A vectorizer of two models: the dense vectors of one, the sparse ones of another."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_bm25_model, create_docs, create_fake_model
from tests.sql.helpers import queued, refused, value
from tests.sql.test_postings import difference
from tests.sql.test_usage import claimed, use, vectorizer

MADE = "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25')"
CARD = {"dimensions": 4, "metric": "cosine", "space_id": "another"}


@pytest.fixture
def models(db: Connection) -> Connection:
    """`docs` with a row, and two models; no vectorizer yet."""
    create_fake_model(db)
    create_bm25_model(db)
    create_docs(db, "one")
    return db


@pytest.fixture
def docs(models: Connection) -> Connection:
    """The same, with a vectorizer of both."""
    models.execute(MADE)
    return models


def test_both_models_stand_in_the_view(docs: Connection) -> None:
    told = (
        "SELECT name, model, sparse_model, outputs, columns, column_name, column_type FROM embed.vectorizers"
    )
    assert docs.execute(told).fetchall() == [
        (
            "docs_embedding",
            "fake",
            "bm25",
            ["dense", "sparse"],
            ["embedding", "sparse"],
            "embedding",
            "halfvec(4)",
        )
    ]
    assert value(
        docs,
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'docs'::regclass AND attname = 'sparse'",
    ) == ("sparsevec(1000000000)")
    assert docs.execute("SELECT model, sparse_model FROM embed.status").fetchone() == ("fake", "bm25")


def test_of_one_model_there_is_no_other(models: Connection) -> None:
    models.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
    for view in ("vectorizers", "status"):
        assert value(models, f"SELECT sparse_model FROM embed.{view}") is None


def test_the_columns_have_the_names_that_are_given(models: Connection) -> None:
    made = (
        "SELECT embed.create_vectorizer('docs', ARRAY['title', 'body'], model => 'fake', sparse => 'bm25',"
        " column_name => 'v', sparse_column => 'words', if_not_exists => true)"
    )
    assert value(models, made) == "docs_v"
    assert value(models, "SELECT columns FROM embed.vectorizers") == ["v", "words"]
    assert value(models, made) == "docs_v"


def test_the_sparse_vectors_may_replace_those_of_the_first_model(models: Connection) -> None:
    create_fake_model(models, "both", sparse_dimensions=100)
    models.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'both', sparse => 'bm25')")
    work = models.execute("SELECT model, outputs, sizes, sparse_model ->> 'name' FROM embed._work_v1()")
    assert work.fetchall() == [("both", ["dense", "sparse"], [4, 1_000_000_000], "bm25")]


def test_a_model_of_token_vectors_may_have_a_sparse_one_beside_it(models: Connection) -> None:
    card = {**CARD, "outputs": ["multi"]}
    models.execute("SELECT embed.create_model('late', 'fake', card => %s)", [Jsonb(card)])
    models.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'late', sparse => 'bm25')")
    found = models.execute("SELECT outputs, columns FROM embed.vectorizers").fetchone()
    assert found == (["sparse", "multi"], ["sparse", "embedding"])


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("model => 'fake', sparse => 'nobody'", "there is no model 'nobody'", "'bm25'"),
        ("model => 'fake', sparse => 'other'", "'other' makes no sparse vectors", "it makes dense vectors"),
        ("model => 'fake', sparse => 'judge'", "'judge' makes no sparse vectors", "it makes scores"),
        ("model => 'both', sparse => 'both'", "'both' is named as model and as sparse", "sparse_column"),
        ("model => 'fake', sparse => 'fake'", "'fake' makes no sparse vectors", "name another"),
        ("model => 'bm25', sparse => 'both'", "'bm25' and 'both' both make sparse vectors", "name a model"),
        ("model => 'bm25', sparse => 'bm25'", "'bm25' is named as model and as sparse", "leave sparse out"),
        ("model => 'fake', sparse => 'bm25', column_name => NULL", "needs a name", "leave column_name out"),
        (
            "model => 'fake', sparse => 'bm25', column_name => NULL, sparse_column => 's'",
            "no column is named for what model 'fake' makes",
            "it makes dense vectors",
        ),
        ("model => 'fake', sparse => 'bm25', multi_column => 't'", "'fake' makes no token vectors", ""),
        (
            "model => 'fake', sparse => 'bm25', sparse_column => 'embedding'",
            "two outputs cannot have the same column",
            "",
        ),
        ("model => 'fake', sparse => 'bm25', sparse_column => 'title'", "exists with type text", ""),
    ],
)
def test_what_cannot_be_is_refused(models: Connection, arguments: str, message: str, hint: str) -> None:
    create_fake_model(models, "both", sparse_dimensions=100)
    for name, outputs in (("other", ["dense"]), ("judge", ["score"])):
        card = {**CARD, "outputs": outputs}
        models.execute("SELECT embed.create_model(%s, 'fake', card => %s)", [name, Jsonb(card)])
    state, told, way_out = refused(
        models, f"SELECT embed.create_vectorizer('docs', 'body'::text, {arguments})"
    )
    assert state in ("PE001", "PE003")
    assert message in told
    assert hint in way_out


def test_the_catalog_holds_no_pair_that_makes_no_sense(docs: Connection) -> None:
    for wrong in ("sparse_model_id = model_id", "outputs = '{dense,multi}'", "outputs = '{sparse}'"):
        assert refused(docs, f"UPDATE embed._vectorizer SET {wrong}")[0] == "23514"


def test_neither_model_can_be_dropped_or_changed_under_it(docs: Connection) -> None:
    for model in ("fake", "bm25"):
        state, message, _ = refused(docs, "SELECT embed.drop_model(%s)", model)
        assert state == "PE003"
        assert message == f"model '{model}' is used by the vectorizers 'docs_embedding'"
        assert refused(docs, "SELECT embed.alter_model(%s, card => %s)", model, Jsonb(CARD))[0] == "PE030"
    docs.execute("SELECT embed.drop_vectorizer('docs', drop_column => true), embed.drop_model('bm25')")
    left = "SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute"
    left += " WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped"
    assert value(docs, left) == ["id", "title", "body"]
    assert value(docs, "SELECT count(*) FROM pg_class WHERE relname ~ '^_postings_[0-9]'") == 0


def test_postings_follow_the_sparse_column(docs: Connection) -> None:
    docs.execute("UPDATE docs SET sparse = '{3:1,7:2}/1000000000'")
    docs.execute("INSERT INTO docs (id, sparse) VALUES (2, '{7:1}/1000000000')")
    assert difference(docs, column="sparse") == 0
    assert value(docs, f"SELECT count(*) FROM embed._postings_{vectorizer(docs)} WHERE term = 7") == 2


def test_a_query_asks_the_model_of_its_output(docs: Connection) -> None:
    asked = "SELECT m.name FROM embed._model AS m, embed._vectorizer AS v WHERE m.id = embed._model_of(v, %s)"
    assert [value(docs, asked, output) for output in ("dense", "sparse", "multi")] == ["fake", "bm25", "fake"]
    for function, model in (("embed", "fake"), ("embed_sparse", "bm25")):
        docs.execute(
            "CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text"
            " LANGUAGE plpgsql VOLATILE AS"
            " $$ BEGIN RAISE EXCEPTION '%', request::jsonb #>> '{model,name}'; END $$"
        )
        assert refused(docs, f"SELECT embed.{function}('q')")[1] == model


def test_a_refusal_of_either_pauses_both(docs: Connection) -> None:
    docs.execute("INSERT INTO docs VALUES (2, NULL, 'two')")
    due = "SELECT live_due FROM embed._work_v1()"
    assert value(docs, due)
    assert value(docs, "SELECT embed._refuse_v1('bm25', 'no balance')") is True
    assert not value(docs, due)
    assert not claimed(docs, 1)
    assert "the account of model 'bm25' is refused" in value(docs, "SELECT reason FROM embed.vectorizers")
    assert "the account of model 'bm25' is refused" in value(docs, "SELECT reason FROM embed.status")
    docs.execute("SELECT embed.pause('docs'), embed.resume('docs')")
    assert claimed(docs, 1), "one that tries it"
    assert not claimed(docs, 1)
    docs.execute("SELECT embed._refuse_v1('fake', 'no key')")
    docs.execute("UPDATE embed._limit SET probe_at = now() WHERE model_id = embed._model_id('fake')")
    assert not claimed(docs, 1), "the other one would still refuse"
    reason = value(docs, "SELECT reason FROM embed.vectorizers")
    assert "'fake'" in reason
    assert "'bm25'" in reason
    docs.execute("UPDATE embed._limit SET probe_at = now()")
    assert claimed(docs, 1)
    docs.execute(
        "UPDATE embed._queue SET last_error = 'no balance', available_at = now() + interval '1 hour'"
    )
    use(docs, 1, model="bm25")
    assert not value(docs, due), "the other one refuses"
    assert value(docs, "SELECT available_at <= now() FROM embed._queue")
    use(docs, 1, model="fake")
    assert value(docs, due)
    assert claimed(docs, 1)
    assert value(docs, "SELECT reason FROM embed.vectorizers") is None


def test_usage_is_each_models_and_the_budget_is_of_both(docs: Connection) -> None:
    assert refused(docs, "SELECT embed.set_budget('docs', cost => 1)")[0] == "PE003"
    docs.execute("SELECT embed.price_model('fake', 2)")
    docs.execute("SELECT embed.set_budget('docs', tokens => 1000, cost => 1)")
    assert refused(docs, "SELECT embed.price_model('fake')")[0] == "PE003"
    use(docs, 600)
    use(docs, 300, model="bm25")
    docs.execute("INSERT INTO docs VALUES (2, NULL, 'two')")
    assert claimed(docs, 1)
    used = docs.execute("SELECT model, tokens, cost FROM embed.usage ORDER BY model").fetchall()
    assert used == [("bm25", 300, None), ("fake", 600, Decimal("0.0012"))]
    use(docs, 100, model="bm25")
    assert not claimed(docs, 1)
    spent = docs.execute("SELECT tokens_used, cost_used FROM embed.budgets").fetchone()
    assert spent == (1000, Decimal("0.0012"))


def test_an_estimate_adds_both_models_up(models: Connection) -> None:
    models.execute("INSERT INTO docs SELECT n, NULL, repeat('word ', 20) FROM generate_series(2, 100) AS n")
    models.execute("SELECT embed.price_model('fake', 2), embed.price_model('bm25', 1)")
    models.execute("SELECT embed.limit_model('fake', tokens_per_minute => 100)")
    models.execute("SELECT embed.limit_model('bm25', tokens_per_minute => 1000)")
    each = "SELECT rows, tokens, cost, seconds FROM embed.estimate('docs', 'body', model => %s)"
    dense, sparse = (models.execute(each, [model]).fetchone() for model in ("fake", "bm25"))
    assert dense is not None
    assert sparse is not None
    models.execute(MADE)
    both = models.execute("SELECT rows, tokens, cost, seconds FROM embed.estimate('docs')").fetchone()
    assert both == (100, dense[1] + sparse[1], dense[2] + sparse[2], dense[3])


def test_a_row_without_either_vector_is_missing(docs: Connection) -> None:
    docs.execute("UPDATE docs SET embedding = '[1,1,1,1]'")
    assert value(docs, "SELECT embed._page_v1(id, 10) FROM embed._vectorizer") is True
    assert queued(docs, priority=2) == ["1"]
    docs.execute("DELETE FROM embed._queue")
    docs.execute("UPDATE docs SET sparse = '{1:1}/1000000000'")
    docs.execute("SELECT embed.backfill('docs')")
    docs.execute("SELECT embed._page_v1(id, 10) FROM embed._vectorizer")
    assert queued(docs, priority=2) == []
    docs.execute("SELECT embed.backfill('docs', 'all')")
    docs.execute("SELECT embed._page_v1(id, 10) FROM embed._vectorizer")
    assert queued(docs, priority=2) == ["1"]


def test_a_dropped_column_stops_it(docs: Connection) -> None:
    assert value(docs, "SELECT embed._problem(v) FROM embed._vectorizer AS v") is None
    docs.execute("ALTER TABLE docs DROP COLUMN sparse CASCADE")
    problem = value(docs, "SELECT embed._problem(v) FROM embed._vectorizer AS v")
    assert "a column of its vectors was dropped" in problem


def test_an_owner_makes_and_steers_one_and_the_worker_gets_both_columns(
    models: Connection, make_role: MakeRole
) -> None:
    role = make_role("embed_owner")
    models.execute(f'ALTER TABLE docs OWNER TO "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as owner:
        owner.execute(MADE)
        owner.execute("SELECT embed.alter_vectorizer('docs', ARRAY['title', 'body'], filter => 'id > 0')")
        owner.execute("SELECT embed.pause('docs'), embed.resume('docs'), embed.backfill('docs')")
        owner.execute("SELECT embed.set_budget('docs', tokens => 5)")
        assert value(owner, "SELECT rows FROM embed.estimate('docs')") == 1
        for column in ("embedding", "sparse"):
            may = "SELECT has_column_privilege('embed_worker', 'docs', %s, 'UPDATE')"
            assert value(owner, may, column)
        owner.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    assert value(models, "SELECT count(*) FROM embed.vectorizers") == 0
