"""embed.search at its edges: ties, empty queries, more rows wanted than there are, harmful arguments."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb

from tests.fix_search import answer, calls, create_docs, fill, literals, play_sidecar, vectorize
from tests.fix_worker import Connection
from tests.sql.helpers import refused, value
from tests.sql.test_search import QUERY, ids, search

COUNT = 60
MODES = ["hybrid", "dense", "sparse"]
HARM = [
    "'; DROP TABLE docs; --",
    '"); DROP TABLE docs; --',
    "x' OR true --",
    "$$ || (SELECT 1/0) || $$",
    "%s %1$s %I %",
    "$1 $3[1]",
    "\\'; DROP TABLE docs; --",
    "*/ DROP TABLE docs; /*",
]
SEARCH = (
    "SELECT * FROM embed.search(NULL::docs, %s, k => 5, mode => %s, filter => %s, fusion => %s,"
    " rerank => %s, vectorizer => %s)"
)


def told(query: str = QUERY, **others: object) -> list[object]:
    """The arguments of `SEARCH`."""
    return [
        query,
        *(others.get(name) for name in ("mode", "filter")),
        others.get("fusion", "rrf"),
        *(others.get(name) for name in ("rerank", "vectorizer")),
    ]


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 60 rows and both their vectors."""
    create_docs(db, COUNT)
    answer(db, QUERY)
    return db


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fusion", ["convex", "rrf", "dbsf"])
def test_equal_rows_stand_by_their_key_wherever_they_lie(docs: Connection, mode: str, fusion: str) -> None:
    docs.execute(
        "UPDATE docs SET (embedding, words) = (SELECT embedding, words FROM docs WHERE id = 7) WHERE id <> 3"
    )
    arguments = f", mode => '{mode}', fusion => '{fusion}', k => 20"
    rows = search(docs, arguments)
    tied = [row[0] for row in rows if row[0] != 3]
    assert len(tied) >= 19
    assert tied == sorted(tied)
    docs.execute("UPDATE docs SET year = year + 1 WHERE id % 3 = 1")  # these lie elsewhere now
    docs.execute("VACUUM FULL docs")
    assert search(docs, arguments) == rows


def test_a_query_without_a_word_finds_nothing_by_words(docs: Connection) -> None:
    """What an empty text and one of stop words are to a model of words: a vector of nothing."""
    for query in ("", "the of and"):
        docs.execute("INSERT INTO embed.answers VALUES (%s, 'sparse', '{}/1000')", [query])
        (row,) = literals(["x"])
        docs.execute("INSERT INTO embed.answers VALUES (%s, 'dense', %s)", [query, row["dense"]])
        statement = "SELECT (hit).id, score FROM embed.search(NULL::docs, %s, mode => %s)"
        assert docs.execute(statement, [query, "sparse"]).fetchall() == []
        dense = docs.execute(statement, [query, "dense"]).fetchall()
        hybrid = docs.execute(statement, [query, "hybrid"]).fetchall()
        assert len(dense) == 10
        assert [row[0] for row in hybrid] == [row[0] for row in dense], "the dense leg alone decides"


@pytest.mark.parametrize("k", ["0", "-1", "NULL", "10001"])
def test_no_rows_or_too_many_are_refused_before_the_model_is_asked(docs: Connection, k: str) -> None:
    state, message, hint = refused(docs, f"SELECT embed.search(NULL::docs, 'x', k => {k})")
    assert (state, hint) == ("PE003", "both lie between 1 and 10000")
    assert f"k is {k}" in message
    assert calls(docs) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exact", [True, False])
def test_more_rows_wanted_than_there_are_gives_all_once(docs: Connection, mode: str, exact: bool) -> None:
    if not exact:
        docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
        docs.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
    found = ids(search(docs, f", mode => '{mode}', k => 10000"))
    assert len(found) == len(set(found))
    if mode != "sparse":
        assert set(found) == set(range(COUNT))


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_wait_for_their_vectors_are_found_when_they_have_them(docs: Connection, mode: str) -> None:
    docs.execute("INSERT INTO docs (id, body) VALUES (100, %s)", [QUERY])
    arguments = f", mode => '{mode}', k => 1000"
    assert 100 not in ids(search(docs, arguments))
    fill(docs, "docs")
    assert 100 in ids(search(docs, arguments))


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("argument", ["mode", "fusion", "rerank", "vectorizer"])
def test_what_an_argument_says_is_never_sql(docs: Connection, argument: str, harm: str) -> None:
    state, message, hint = refused(docs, SEARCH, *told(**{argument: harm}))
    assert state in {"PE001", "PE003"}
    assert hint
    assert harm in message.replace("''", "'") or "\\" in harm
    assert value(docs, "SELECT count(*) FROM docs") == COUNT


@pytest.mark.parametrize("harm", HARM)
def test_what_a_query_or_a_filter_says_is_never_sql(docs: Connection, harm: str) -> None:
    answer(docs, harm)
    found = docs.execute(SEARCH, told(harm)).fetchall()
    assert len(found) == 5
    for condition in ({"lang": harm}, {"lang": [harm]}, {"tags": {"contains": harm}}, {"meta": {"=": harm}}):
        assert docs.execute(SEARCH, told(filter=Jsonb(condition))).fetchall() == []
    for condition in ({harm: 1}, {"lang": {harm: "en"}}, {"or": [{"not": {harm: 1}}]}):
        assert refused(docs, SEARCH, *told(filter=Jsonb(condition)))[0] == "PE003"
    assert refused(docs, "SELECT * FROM embed.similar(NULL::docs, %s)", harm)[0] in {"22P02", "PE003"}
    assert value(docs, "SELECT count(*) FROM docs") == COUNT


@pytest.mark.parametrize("by_index", [False, True])
def test_names_are_never_sql_nor_a_format(db: Connection, by_index: bool) -> None:
    play_sidecar(db)
    answer(db, QUERY)
    db.execute(
        """CREATE TABLE "a'; -- %s" ("k'%1$s" int, "r0" int DEFAULT 1, "r7" int, body text,"""
        """ PRIMARY KEY ("k'%1$s"))"""
    )
    vectorize(db, """ "a'; -- %s" """)
    db.execute(
        """INSERT INTO "a'; -- %s" ("k'%1$s", body) SELECT n, 'red ' || n FROM generate_series(1, 30) n"""
    )
    fill(db, """ "a'; -- %s" """)
    db.execute("""ALTER TABLE "a'; -- %s" RENAME embedding TO "e""%2$s'"; """)
    db.execute("""ALTER TABLE "a'; -- %s" RENAME words TO "w %I $1" """)
    if by_index:
        db.execute("""CREATE INDEX ON "a'; -- %s" USING hnsw ("e""%2$s'" vector_cosine_ops)""")
        db.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
    for mode in MODES:
        for filtered in ("NULL", """'{"k''%1$s": {">": 0}}'"""):
            rows = db.execute(
                f"""SELECT (hit)."k'%1$s" FROM embed.search(NULL::"a'; -- %s", '{QUERY}', k => 3,"""
                f" mode => '{mode}', filter => {filtered})"
            ).fetchall()
            assert len(rows) == 3
