"""embed.search by words against bm25s: the same scores, also after rows were deleted and changed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_embed.models.bm25 import Bm25Embedder, Bm25Options, average_length
from pg_embed.models.words import Words
from pg_embed.records import Kind
from tests.fix_bm25s import Bm25sScores
from tests.fix_models import PATIENCE
from tests.fix_search import SIDECAR, WORDS
from tests.fix_worker import Connection

QUERIES = ["red fox", "lazy dog house house", "money", "blue cats returning", "zebra fox"]
COUNT = 120
BLOCKED = "SELECT pg_backend_pid() = ANY (pg_blocking_pids(%s))"


class Corpus:
    """`docs` with BM25's vectors, and what stands in it."""

    def __init__(self, db: Connection, texts: list[str]) -> None:
        self.texts = dict(enumerate(texts))
        self._db = db
        self._model = Bm25Embedder(Bm25Options(average_length=average_length(texts)))
        card = self._model.card.as_dict()
        db.execute(SIDECAR)
        db.execute("SELECT embed.create_model('words', 'bm25', '{}', card => %s)", [Jsonb(card)])
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'words', column_name => 'words')")
        db.execute("SELECT embed.create_postings('docs')")
        self.write(self.texts)
        for query in QUERIES:
            db.execute(
                "INSERT INTO embed.answers VALUES (%s, 'sparse', %s)", [query, self._spell(query, "query")]
            )

    def write(self, texts: dict[int, str]) -> None:
        """New rows, or rows anew, with their vectors."""
        self.texts |= texts
        for number, text in texts.items():
            self._db.execute(
                "INSERT INTO docs (id, body, words) VALUES (%s, %s, %s)"
                " ON CONFLICT (id) DO UPDATE SET body = excluded.body, words = excluded.words",
                [number, text, self._spell(text, "document")],
            )

    def delete(self, *numbers: int) -> None:
        for number in numbers:
            del self.texts[number]
        self._db.execute("DELETE FROM docs WHERE id = ANY (%s)", [list(numbers)])

    def search(self, query: str) -> dict[int, float]:
        return dict(
            self._db.execute(
                "SELECT (hit).id, score FROM embed.search(NULL::docs, %s, k => 1000)", [query]
            ).fetchall()
        )

    def _spell(self, text: str, kind: Kind) -> str:
        found = self._model.embed([text], kind).sparse
        assert found is not None
        pairs = zip(*map(np.ndarray.tolist, found.row(0)), strict=True)
        return "{" + ",".join(f"{i + 1}:{w!r}" for i, w in pairs) + f"}}/{self._model.card.dimensions}"


def compared(corpus: Corpus, bm25s_scores: Bm25sScores) -> None:
    """Every score of every query is bm25s's, and what has none is not found."""
    words = Words("english")
    terms = [[str(number) for number in words.numbers(text)] for text in corpus.texts.values()]
    asked = [[str(number) for number in words.numbers(query)] for query in QUERIES]
    for query, row in zip(QUERIES, bm25s_scores(terms, asked), strict=True):
        wanted = {n: float(score) for n, score in zip(corpus.texts, row, strict=True) if score > 0}
        found = corpus.search(query)
        assert found == pytest.approx(wanted, rel=1e-4)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def _texts(lengths: Any) -> list[str]:
    rng = np.random.default_rng(11)
    common = np.arange(len(WORDS), 0, -1) / sum(range(len(WORDS) + 1))
    return [" ".join(rng.choice(WORDS, length, p=common)) for length in lengths]


def test_scores_are_those_of_bm25s(db: Connection, bm25s_scores: Bm25sScores) -> None:
    compared(Corpus(db, _texts(np.arange(COUNT) % 17 + 1)), bm25s_scores)


def test_deleted_and_changed_rows_move_the_rarity_of_words(db: Connection, bm25s_scores: Bm25sScores) -> None:
    # texts of one length, so that its mean, which is the model's, stays the mean of what is there
    corpus = Corpus(db, _texts([6] * COUNT))
    before = corpus.search("red fox")
    compared(corpus, bm25s_scores)
    corpus.delete(*[n for n, text in corpus.texts.items() if "fox" in text][::2])
    after = corpus.search("red fox")
    assert any(after[n] != pytest.approx(before[n], rel=1e-3) for n in after), "foxes are rarer now"
    compared(corpus, bm25s_scores)
    corpus.write(dict.fromkeys(list(corpus.texts)[:30], "fox house money back return blue"))
    corpus.write({1000 + n: "zebra zebra cat dog lazy quick" for n in range(5)})
    compared(corpus, bm25s_scores)


def test_a_search_and_a_truncate_do_not_wait_in_a_circle(db: Connection, dsn: str) -> None:
    corpus = Corpus(db, _texts([6] * COUNT))
    weighed = "SELECT embed._sparse_query_v1(v.id, 'red fox') FROM embed._vectorizer AS v"
    with psycopg.connect(dsn, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        with db.transaction():
            db.execute(weighed)  # what a search does first: it reads postings
            waiting = pool.submit(other.execute, "TRUNCATE docs")
            deadline = time.monotonic() + PATIENCE
            while db.execute(BLOCKED, [other.info.backend_pid]).fetchone() != (True,):
                assert time.monotonic() < deadline, "the TRUNCATE does not wait"
            assert corpus.search("red fox")
        waiting.result(PATIENCE)
    assert corpus.search("red fox") == {}
