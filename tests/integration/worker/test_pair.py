"""A vectorizer of two models, from end to end: both are asked for a text, and one write has what they say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pg_embed.errors import InputRejected, ModelMisconfigured, ModelUnavailable
from pg_embed.models import bm25
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.records import ModelSpec
from tests.fix_serve import spool_place, with_transport
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import value
from tests.sql.test_postings import difference

TERMS = 1_000
WORDS = {"average_length": 5}
WRITES = """
CREATE TABLE writes (id bigint, dense boolean, sparse boolean);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.writes VALUES (NEW.id, NEW.embedding IS NOT NULL, NEW.sparse IS NOT NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION note();
"""


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, empty, with a vectorizer of a fake dense model and BM25."""
    create_fake_model(db)
    create_bm25_model(db, **WORDS)
    create_docs(db)
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25', backfill => false)"
    )
    db.execute(WRITES)
    return db


@pytest.fixture
def pair(db: Connection) -> Connection:
    """The same of two fake models, `fake` and `words`, and three attempts."""
    create_fake_model(db)
    create_fake_model(db, "words", sparse_dimensions=TERMS)
    create_docs(db)
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'words',"
        " max_attempts => 3, backfill => false)"
    )
    return db


def models(**options: Any) -> dict[str, GatedFake]:
    """Both fakes, which count their calls; the options are the second's."""
    return {"fake": GatedFake(), "words": GatedFake(sparse_dimensions=TERMS, **options)}


def wait(db: Connection) -> None:
    db.execute("SELECT embed.wait('docs', '60 seconds')")


def broken_words(db: Connection, model: bm25.Bm25Embedder | FakeEmbedder, dimensions: int) -> list[Any]:
    """Rows whose sparse vector is not the model's of their text, less those that failed."""
    present = db.execute("SELECT DISTINCT body FROM docs WHERE body IS NOT NULL").fetchall()
    texts = [row[0] for row in present]
    found = model.embed(texts, "document").sparse if texts else None
    db.execute("DROP TABLE IF EXISTS pg_temp.words")
    db.execute("CREATE TEMPORARY TABLE words (input text, vector text)")
    with db.cursor().copy("COPY pg_temp.words FROM STDIN") as copy:
        for row, text in enumerate(texts):
            assert found is not None
            pairs = zip(*found.row(row), strict=True)
            copy.write_row(
                (text, "{" + ",".join(f"{i + 1}:{float(v)!r}" for i, v in pairs) + f"}}/{dimensions}")
            )
    return db.execute(
        "SELECT d.id, d.body, d.sparse::text, w.vector"
        " FROM docs AS d LEFT JOIN pg_temp.words AS w ON w.input = d.body"
        " WHERE d.sparse IS DISTINCT FROM w.vector::sparsevec"
        " AND NOT EXISTS (SELECT FROM embed.failures AS f WHERE f.key = d.id::text)"
    ).fetchall()


def test_both_vectors_are_right_and_written_at_once(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(docs, "The cat sat on the mat", None, "", "東京都に住む猫", "the of and")
    start_worker(dsn)
    wait(docs)
    insert_docs(docs, "Dogs and cats are pets")
    docs.execute("UPDATE docs SET body = 'a dog' WHERE id = 1")
    docs.execute("UPDATE docs SET body = NULL WHERE id = 3")
    wait(docs)
    spec = ModelSpec("bm25", "bm25", WORDS)
    assert broken_rows(docs) == []
    assert broken_words(docs, bm25.load(spec), 1_000_000_000) == []
    assert difference(docs, column="sparse") == 0
    assert value(docs, "SELECT count(*) FROM docs WHERE num_nulls(embedding, sparse) = 0") == 4
    ours = "SELECT count(*) FROM writes WHERE dense <> sparse"
    assert value(docs, ours) == 0, "no write had one without the other"
    # two of the user's; of ours one for each text, and for the new, the changed and the lost one
    assert value(docs, "SELECT count(*) FROM writes") == 2 + 4 + 3


def test_each_model_is_asked_once_for_a_text(pair: Connection, dsn: str, start_worker: StartWorker) -> None:
    insert_docs(pair, *(f"text {number}" for number in range(50)))
    named = models()
    start_worker(dsn, named)
    wait(pair)
    for model in named.values():
        assert sorted(model.texts) == sorted(f"text {number}" for number in range(50))
    assert broken_rows(pair) == []
    assert broken_words(pair, FakeEmbedder(FakeOptions(dimensions=4, sparse_dimensions=TERMS)), TERMS) == []


def test_both_are_asked_at_the_same_time(pair: Connection, dsn: str, start_worker: StartWorker) -> None:
    named = {"fake": GatedFake(shut=True), "words": GatedFake(shut=True, sparse_dimensions=TERMS)}
    start_worker(dsn, named)
    insert_docs(pair, "one")
    calls = [model.next_call() for model in named.values()]
    assert value(pair, "SELECT count(*) FROM docs WHERE num_nonnulls(embedding, sparse) > 0") == 0
    for call in calls:
        call.go()
    wait(pair)
    assert value(pair, "SELECT num_nulls(embedding, sparse) FROM docs") == 0


@pytest.mark.parametrize("rejecting", ["fake", "words", "both"])
def test_a_text_that_one_rejects_is_dead_and_it_alone(
    pair: Connection, dsn: str, start_worker: StartWorker, rejecting: str
) -> None:
    named = models()
    for name, word in (("fake", "poison"), ("words", "venom")):
        if rejecting in (name, "both"):
            named[name].refuse = lambda texts, word=word, name=name: (
                InputRejected(f"{name} does not take it") if any(word in text for text in texts) else None
            )
    insert_docs(pair, *(["text", "poison", "venom", "poison venom"][number % 4] for number in range(60)))
    start_worker(dsn, named)
    wait(pair)
    told = pair.execute(
        "SELECT DISTINCT d.body, f.error FROM embed.failures AS f JOIN docs AS d ON d.id::text = f.key"
        " ORDER BY 1"
    ).fetchall()
    by_first = [("poison", "fake does not take it"), ("poison venom", "fake does not take it")]
    by_second = [("poison venom", "words does not take it"), ("venom", "words does not take it")]
    expected = {"fake": by_first, "words": by_second, "both": [*by_first, by_second[1]]}[rejecting]
    assert told == expected
    dead = value(pair, "SELECT count(*) FROM embed.failures")
    assert dead == 15 * len(expected)
    whole = "SELECT count(*) FILTER (WHERE num_nulls(embedding, sparse) = 0), count(*) FILTER"
    whole += " (WHERE num_nonnulls(embedding, sparse) = 0) FROM docs"
    assert pair.execute(whole).fetchone() == (60 - dead, dead)
    assert broken_rows(pair) == []
    if rejecting == "words":
        assert len(named["fake"].texts) == 60, "the other model is not asked again for the halves"


def test_token_vectors_of_the_first_model_go_along(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db, "three", sparse_dimensions=TERMS, multi_dimensions=4)
    create_fake_model(db, "words", sparse_dimensions=TERMS, fail_on="poison")
    create_docs(db)
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', sparse => 'words',"
        " multi_column => 'tokens', backfill => false)"
    )
    texts = ["poison" if number % 5 == 2 else "word " * (number + 1) for number in range(12)]
    insert_docs(db, *texts)
    start_worker(dsn)
    wait(db)
    found = "SELECT id, cardinality(tokens), num_nulls(embedding, sparse, tokens) FROM docs ORDER BY id"
    assert db.execute(found).fetchall() == [
        (number, None, 3) if text == "poison" else (number, len(text.split()), 0)
        for number, text in enumerate(texts, start=1)
    ]
    assert broken_rows(db) == []
    assert broken_words(db, FakeEmbedder(FakeOptions(dimensions=4, sparse_dimensions=TERMS)), TERMS) == []


def test_texts_that_one_rejects_all_end(pair: Connection, dsn: str, start_worker: StartWorker) -> None:
    insert_docs(pair, *["poison"] * 5)
    start_worker(dsn, models(fail_on="poison"))
    wait(pair)
    assert value(pair, "SELECT count(*) FROM embed.failures") == 5
    assert value(pair, "SELECT count(*) FROM docs WHERE num_nonnulls(embedding, sparse) > 0") == 0
    pair.execute("UPDATE docs SET body = 'good'")
    wait(pair)
    assert value(pair, "SELECT count(*) FROM embed.failures") == 0
    assert broken_rows(pair) == []


@pytest.mark.parametrize("down", ["fake", "words"])
def test_while_one_is_down_nothing_is_written(
    pair: Connection, dsn: str, start_worker: StartWorker, down: str
) -> None:
    named = models()
    errors = iter([ModelUnavailable("not now")] * 2)
    named[down].refuse = lambda texts: next(errors, None)
    pair.execute(WRITES)
    insert_docs(pair, "one", "two")
    start_worker(dsn, named)
    wait(pair)
    assert value(pair, "SELECT count(*) FROM writes") == 2
    assert value(pair, "SELECT count(*) FROM writes WHERE dense AND sparse") == 2
    assert broken_rows(pair) == []
    assert len(named[down].calls) == 3


def test_rows_are_given_up_when_their_attempts_are_spent(
    pair: Connection, dsn: str, start_worker: StartWorker
) -> None:
    named = models()
    named["words"].refuse = lambda texts: ModelUnavailable("not now")
    insert_docs(pair, "one", "two")
    start_worker(dsn, named)
    wait(pair)
    assert pair.execute("SELECT key, attempts FROM embed.failures ORDER BY key").fetchall() == [
        ("1", 3),
        ("2", 3),
    ]
    named["words"].refuse = lambda texts: None
    pair.execute("SELECT embed.retry('docs')")
    wait(pair)
    assert value(pair, "SELECT count(*) FROM docs WHERE num_nulls(embedding, sparse) = 0") == 2


@pytest.mark.parametrize("refusing", ["fake", "words"])
def test_a_refused_account_of_either_pauses_and_charges_nobody(
    pair: Connection, dsn: str, start_worker: StartWorker, refusing: str
) -> None:
    named = models()
    named[refusing].refuse = lambda texts: ModelMisconfigured("no balance", refused=True)
    insert_docs(pair, "one", "two")
    start_worker(dsn, named, refused_wait=0.2)
    while not (reason := value(pair, "SELECT reason FROM embed.vectorizers")):
        pass
    assert f"the account of model '{refusing}' is refused" in reason
    named[refusing].refuse = lambda texts: None
    wait(pair)
    assert value(pair, "SELECT count(*) FROM embed.failures") == 0
    assert broken_rows(pair) == []


def test_a_model_of_another_space_writes_nothing(
    pair: Connection, dsn: str, start_worker: StartWorker
) -> None:
    named = {"fake": GatedFake(), "words": GatedFake(sparse_dimensions=TERMS + 1)}
    insert_docs(pair, "one")
    start_worker(dsn, named)
    while not (error := value(pair, "SELECT last_error FROM embed.status")):
        pass
    assert "model 'words' as loaded here gives vectors of another space" in error
    assert value(pair, "SELECT count(*) FROM docs WHERE num_nonnulls(embedding, sparse) > 0") == 0
    assert named["fake"].calls == [], "nothing is paid for vectors that cannot be written"


def test_usage_is_counted_for_each_model(pair: Connection, dsn: str, start_worker: StartWorker) -> None:
    insert_docs(pair, "one two", "three")
    start_worker(dsn).ready()
    wait(pair)
    start_worker.end()
    used = pair.execute("SELECT model, inputs, tokens FROM embed.usage ORDER BY model").fetchall()
    assert [(model, inputs) for model, inputs, _ in used] == [("fake", 2), ("words", 2)]
    assert all(tokens > 0 for _, _, tokens in used)


def test_a_row_that_its_table_refuses_does_not_keep_others_out(
    pair: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(pair, *(f"text {number}" for number in range(9)))
    pair.execute("ALTER TABLE docs ADD CHECK (id <> 5 OR sparse IS NULL)")
    start_worker(dsn)
    wait(pair)
    assert pair.execute("SELECT key, code FROM embed.failures").fetchall() == [("5", "23514")]
    assert value(pair, "SELECT count(*) FROM docs WHERE num_nulls(embedding, sparse) = 0") == 8


@pytest.fixture
def asked(docs: Connection, dsn: str, serve_folder: Path, start_worker: StartWorker) -> Iterator[Connection]:
    """`docs` with texts and both vectors, and a sidecar that embeds queries."""
    insert_docs(docs, "The cat sat on the mat", "Dogs and cats are pets", "a cat of the city", "two lamps")
    start_worker(dsn)
    wait(docs)
    with with_transport(spool_place(dsn, serve_folder)) as place, place.sidecar():
        yield docs


def test_a_search_uses_both_legs_of_the_one_vectorizer(asked: Connection) -> None:
    for named in ("", ", vectorizer => 'docs_embedding'"):
        found = asked.execute(
            "SELECT (hit).id, dense_score, sparse_rank, sparse_score"
            f" FROM embed.search(NULL::docs, 'cat mat'{named}, k => 4)"
        ).fetchall()
        assert found[0][0] == 1
        assert {row[0] for row in found} == {1, 2, 3, 4}
        assert all(row[1] is not None for row in found)
        assert found[0][2] == 1
        weight = 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / 5))
        rarity = sum(math.log(1 + (4 - rows + 0.5) / (rows + 0.5)) for rows in (3, 1))
        assert found[0][3] == pytest.approx(weight * rarity, rel=1e-5)
    dense = asked.execute(
        "SELECT (hit).id, score::float8"
        " FROM embed.search(NULL::docs, 'a cat of the city', mode => 'dense', k => 1)"
    ).fetchall()
    exact = asked.execute(
        "SELECT id, 1 - (embedding <=> embed('a cat of the city')::halfvec) FROM docs ORDER BY 2 DESC LIMIT 1"
    ).fetchall()
    assert dense == [(exact[0][0], pytest.approx(exact[0][1], abs=1e-3))]
    sparse = asked.execute("SELECT (hit).id FROM embed.search(NULL::docs, 'lamps', mode => 'sparse')")
    assert sparse.fetchall() == [(4,)]


def test_more_rows_like_one_by_both(asked: Connection) -> None:
    found = asked.execute(
        "SELECT (hit).id, dense_rank, sparse_rank FROM embed.similar(NULL::docs, '1', k => 3)"
    ).fetchall()
    assert {row[0] for row in found} == {2, 3, 4}
    ranks = {row[0]: row[2] for row in found}
    assert {ranks[2], ranks[3]} == {1, 2}, "those with cats"
    assert all(row[1] is not None for row in found)


def test_another_vectorizer_beside_it_must_be_told_apart(asked: Connection) -> None:
    create_fake_model(asked, "two", sparse_dimensions=TERMS, document_prompt="d")
    asked.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'two', name => 'other',"
        " column_name => 'e2', sparse_column => 's2')"
    )
    wait(asked)
    found = asked.execute(
        "SELECT (hit).id"
        " FROM embed.search(NULL::docs, 'lamps', mode => 'sparse', vectorizer => 'docs_embedding')"
    ).fetchall()
    assert found == [(4,)]
    legs = value(asked, "SELECT embed._search_legs_v1('docs'::regclass, 'other', NULL, false) -> 'legs'")
    assert [legs[output][0]["model"] for output in ("dense", "sparse")] == ["fake", "two"]
    assert [len(legs[output]) for output in ("dense", "sparse")] == [1, 1]
