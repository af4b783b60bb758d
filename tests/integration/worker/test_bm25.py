"""Family bm25 from end to end: a real worker writes, postings follow, a real sidecar embeds the query."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from pg_embed.models.bm25 import load
from pg_embed.models.words import term_number
from pg_embed.records import ModelSpec
from tests.fix_serve import spool_place, with_transport
from tests.fix_worker import Connection, StartWorker, create_docs, insert_docs
from tests.sql.helpers import value

OPTIONS = {"average_length": 5}
TEXTS = [
    "The cat sat on the mat",
    "Dogs and cats are pets",
    "You may send anything back within thirty days",
    "東京都に住む猫",
    None,
    "",
]
SEARCH = "SELECT key FROM embed._sparse_top_v1(%(id)s, embed._sparse_query_v1(%(id)s, %(query)s), 10)"


@pytest.fixture
def docs(db: Connection, dsn: str, start_worker: StartWorker) -> Connection:
    """`docs` with a column of BM25's vectors, embedded."""
    card = load(ModelSpec("words", "bm25", OPTIONS)).card.as_dict()
    db.execute("SELECT embed.create_model('words', 'bm25', %s, card => %s)", [Jsonb(OPTIONS), Jsonb(card)])
    create_docs(db, *TEXTS)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'words', column_name => 'words')")
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs', '60 seconds')")
    return db


@pytest.fixture
def asked(docs: Connection, dsn: str, serve_folder: Path) -> Iterator[Connection]:
    """The same, with a sidecar that embeds queries."""
    with with_transport(spool_place(dsn, serve_folder)) as place, place.sidecar():
        yield docs


def search(db: Connection, query: str) -> list[int]:
    number = value(db, "SELECT id FROM embed._vectorizer")
    return [int(row[0]) for row in db.execute(SEARCH, {"id": number, "query": query}).fetchall()]


def test_the_column_holds_bm25s_values_and_the_postings_the_column(docs: Connection) -> None:
    assert value(
        docs, "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'words'"
    ) == ("sparsevec(1000000000)")
    terms = dict(
        docs.execute(
            "SELECT t.term, t.weight FROM docs, embed._sparse_terms(words::text) AS t WHERE id = 1"
        ).fetchall()
    )
    weight = 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / 5))
    assert terms == {term_number(term) + 1: pytest.approx(weight) for term in ("cat", "sat", "mat")}
    number = value(docs, "SELECT id FROM embed._vectorizer")
    kept = docs.execute(
        f"SELECT term, weight FROM embed._postings_{number} WHERE id = 1 AND term <> 0"
    ).fetchall()
    assert dict(kept) == terms
    assert value(docs, f"SELECT count(*) FROM embed._postings_{number} WHERE term = 0") == 5  # not the NULL


def test_words_are_found_in_any_form_and_script(asked: Connection) -> None:
    assert search(asked, "a cat") == [1, 2]  # of the same length: by the key
    assert search(asked, "SENDING back") == [3]
    assert search(asked, "東京") == [4]
    assert search(asked, "elephants") == []
    assert search(asked, "the of and") == []


def test_rarity_follows_the_table(asked: Connection) -> None:
    number = value(asked, "SELECT id FROM embed._vectorizer")

    def weight(term: str) -> float:
        spelled = "SELECT t.weight FROM embed._sparse_terms(embed._sparse_query_v1(%s, %s)::text) AS t"
        return float(value(asked, spelled, number, term))

    def rarity(rows: int, found: int) -> float:
        return math.log(1 + (rows - found + 0.5) / (found + 0.5))

    assert weight("cat") == pytest.approx(rarity(5, 2), rel=1e-5)
    assert weight("elephant") == pytest.approx(rarity(5, 0), rel=1e-5)
    insert_docs(asked, "an elephant", "two elephants")
    asked.execute("SELECT embed.wait('docs', '60 seconds')")
    assert weight("elephant") == pytest.approx(rarity(7, 2), rel=1e-5)
    asked.execute("UPDATE docs SET body = 'a dog' WHERE body LIKE '%elephants'")
    asked.execute("DELETE FROM docs WHERE id = 1")
    asked.execute("SELECT embed.wait('docs', '60 seconds')")
    assert weight("elephant") == pytest.approx(rarity(6, 1), rel=1e-5)
    assert weight("cat") == pytest.approx(rarity(6, 1), rel=1e-5)


def test_a_rare_word_counts_for_more_than_a_frequent_one(asked: Connection) -> None:
    insert_docs(asked, *["a cat of many"] * 20)
    asked.execute("SELECT embed.wait('docs', '60 seconds')")
    assert search(asked, "cat dog")[0] == 2
    assert search(asked, "cat mat")[0] == 1


def test_embed_search_weighs_words_by_their_rarity(asked: Connection) -> None:
    insert_docs(asked, *["dogs bark at night"] * 20)
    asked.execute("SELECT embed.wait('docs', '60 seconds')")
    found = asked.execute(
        "SELECT (hit).id, score FROM embed.search(NULL::docs, 'dogs and a mat', k => 5)"
    ).fetchall()
    assert found[0][0] == 1  # by the rare word, though the frequent one stands in shorter texts
    assert {row[0] for row in found[1:]} <= {2, *range(7, 27)}
    number = value(asked, "SELECT id FROM embed._vectorizer")
    top = asked.execute(
        "SELECT key::int, score FROM embed._sparse_top_v1(%(id)s, embed._sparse_query_v1(%(id)s,"
        " 'dogs and a mat'), 5)",
        {"id": number},
    ).fetchall()
    assert [(key, pytest.approx(score, rel=1e-5)) for key, score in top] == found
