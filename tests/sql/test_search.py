"""sql/functions/77_search.sql: embed.search against the same formulas in numpy, over a played sidecar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from pg_embed.records import Float32
from tests.fix_search import (
    OPTIONS,
    answer,
    calls,
    create_docs,
    embeddings,
    fill,
    play_sidecar,
    texts,
    vectorize,
)
from tests.fix_worker import Connection, create_fake_model
from tests.sql.helpers import refused, value
from tests.sql.test_rerank import create_reranker

QUERY = "quick red fox 7"
COUNT = 300
Row = tuple[Any, ...]


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 300 rows and both their vectors."""
    create_docs(db, COUNT)
    answer(db, QUERY)
    return db


def search(db: Connection, arguments: str = "", table: str = "docs") -> list[Row]:
    """Ids, scores and ranks of embed.search."""
    return db.execute(
        "SELECT (hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score, rerank_score"
        f" FROM embed.search(NULL::{table}, '{QUERY}'{arguments})"
    ).fetchall()


def ids(rows: list[Row]) -> list[int]:
    return [row[0] for row in rows]


def scores() -> tuple[Float32, Float32]:
    """The cosine and the sparse product of every row with the query."""
    rows, query = embeddings(texts(COUNT)), embeddings([QUERY])
    return (rows.dense @ query.dense[0]).astype(np.float64), _matrix(rows) @ _matrix(query)[0]


def _matrix(found: Any) -> Any:
    matrix = np.zeros((len(found.dense), OPTIONS["sparse_dimensions"]))
    for number in range(len(matrix)):
        indices, weights = found.sparse.row(number)
        matrix[number, indices] = weights
    return matrix


def best(leg: Any, count: int) -> list[int]:
    """Numbers of the rows with the highest scores, equal ones by their number."""
    return np.lexsort((np.arange(len(leg)), -leg))[:count].tolist()


def expected(
    fusion: str, count: int, weights: tuple[float, float] | None, rows: Any = None
) -> list[tuple[int, float]]:
    """The ids and scores that a fusion gives, by its formula; without weights, those by the legs' leads."""
    dense, sparse = scores()
    allowed = np.arange(COUNT) if rows is None else np.asarray(rows)
    first = [int(allowed[n]) for n in best(dense[allowed], count)]
    second = [int(allowed[n]) for n in best(sparse[allowed], count) if sparse[allowed][n] > 0]
    pool = sorted({*first, *second})
    total = np.zeros(len(pool))
    if weights is None:
        leads = [(leg.max() - leg.mean()) / leg.std() for leg in (dense[pool], sparse[pool])]
        weights = (leads[0] / sum(leads), leads[1] / sum(leads))
    for weight, leg, listed in ((weights[0], dense[pool], first), (weights[1], sparse[pool], second)):
        standard = (leg - leg.mean()) / leg.std()
        if fusion == "convex":
            total += weight * standard
        elif fusion == "dbsf":
            total += weight * np.clip((leg - (leg.mean() - 3 * leg.std())) / (6 * leg.std()), 0, 1)
        else:
            total += [weight / (61 + listed.index(row)) if row in listed else 0 for row in pool]
    return [(pool[n], float(total[n])) for n in best(total.round(9), len(pool))]


@pytest.mark.parametrize("fusion", ["convex", "rrf", "dbsf"])
@pytest.mark.parametrize("candidates", [5, 100])
def test_each_fusion_is_its_formula(docs: Connection, fusion: str, candidates: int) -> None:
    rows = search(docs, f", k => 10, fusion => '{fusion}', candidates => {candidates}")
    wanted = expected(fusion, max(candidates, 10), None if fusion == "convex" else (1, 1))[:10]
    assert np.allclose([row[1] for row in rows], [score for _, score in wanted], atol=1e-5)
    assert set(ids(rows)) == {row for row, score in wanted if score > wanted[-1][1] + 1e-6} | set(
        ids(rows)[-3:]
    )
    for row, score in wanted[:7]:
        assert any(found[0] == row and found[1] == pytest.approx(score, abs=1e-5) for found in rows)


def test_weights_are_those_that_are_given(docs: Connection) -> None:
    for fusion in ("convex", "rrf", "dbsf"):
        rows = search(docs, f", fusion => '{fusion}', weights => '{{0.9, 0.2}}'")
        wanted = expected(fusion, 100, (0.9, 0.2))[:10]
        assert np.allclose([row[1] for row in rows], [score for _, score in wanted], atol=1e-5)
    dense, sparse = scores()
    assert ids(search(docs, ", weights => '{1, 0}'")) == best(dense, 10)
    assert search(docs, ", weights => '{0, 1}'")[0][0] == best(sparse, 1)[0]


def test_a_hit_is_told_with_both_its_scores_and_its_ranks(docs: Connection) -> None:
    dense, sparse = scores()
    first, second = best(dense, 100), best(sparse, 100)
    rows = search(docs, ", k => 50")
    assert len(rows) == 50
    for row in rows:
        assert row[3] == pytest.approx(dense[row[0]], abs=1e-5)
        assert row[5] == pytest.approx(sparse[row[0]])
        assert row[2] == (first.index(row[0]) + 1 if row[0] in first else None)
        assert row[4] == (second.index(row[0]) + 1 if row[0] in second else None)
        assert row[6] is None
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_one_leg_alone_has_its_own_scores(docs: Connection) -> None:
    dense, sparse = scores()
    rows = search(docs, ", mode => 'dense', k => 20")
    assert ids(rows) == best(dense, 20)
    assert np.allclose([row[1] for row in rows], dense[best(dense, 20)], atol=1e-5)
    assert [row[2] for row in rows] == list(range(1, 21))
    assert {row[4:6] for row in rows} == {(None, None)}
    rows = search(docs, ", mode => 'sparse', k => 20")
    assert ids(rows) == best(sparse, 20)
    assert [row[1] for row in rows] == [row[5] for row in rows] == sparse[best(sparse, 20)].tolist()
    assert {row[2:4] for row in rows} == {(None, None)}


def test_a_sparse_search_finds_no_row_without_a_word_of_the_query(docs: Connection) -> None:
    _, sparse = scores()
    assert 0 < (sparse > 0).sum() < COUNT
    assert len(search(docs, ", mode => 'sparse', k => 10000")) == (sparse > 0).sum()
    assert len(search(docs, ", mode => 'dense', k => 10000")) == COUNT
    assert len(search(docs, ", k => 10000")) == COUNT


def test_the_whole_row_comes_as_it_is(docs: Connection) -> None:
    row = docs.execute(f"SELECT (hit).* FROM embed.search(NULL::docs, '{QUERY}', k => 1)").fetchone()
    assert row is not None
    assert row == docs.execute("SELECT * FROM docs WHERE id = %s", [row[0]]).fetchone()
    assert (
        value(docs, f"SELECT pg_typeof(hit)::text FROM embed.search(NULL::docs, '{QUERY}', k => 1)") == "docs"
    )


def test_the_index_finds_what_the_exact_pass_finds(docs: Connection) -> None:
    docs.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_cosine_ops)")
    docs.execute("ANALYZE docs")
    for arguments in (
        "",
        ", mode => 'dense'",
        ", mode => 'sparse'",
        ", fusion => 'rrf', k => 30",
        ', filter => \'{"lang": "en"}\'',
        ", mode => 'dense', filter => '{\"year\": 2004}', k => 20",
    ):
        exact = search(docs, arguments)
        docs.execute("SET embed.exact_rows = 0; SET enable_seqscan = off; SET hnsw.ef_search = 40")
        approximate = search(docs, arguments)
        docs.execute("RESET embed.exact_rows; RESET enable_seqscan")
        assert approximate == exact
        assert value(docs, "SHOW hnsw.ef_search") == "40"
        assert value(docs, "SHOW hnsw.iterative_scan") == "off"


def test_the_query_is_embedded_once_for_each_output(docs: Connection) -> None:
    search(docs)
    assert calls(docs) == 2
    search(docs, ", k => 3")
    assert calls(docs) == 2, "the session remembers"
    answer(docs, "another")
    docs.execute("SELECT * FROM embed.search(NULL::docs, 'another', mode => 'dense')")
    assert calls(docs) == 3


def test_nothing_is_asked_for_nothing(docs: Connection) -> None:
    assert docs.execute("SELECT * FROM embed.search(NULL::docs, NULL)").fetchall() == []
    assert refused(docs, "SELECT * FROM embed.search(NULL::docs, 'x', k => 0)")[0] == "PE003"
    assert calls(docs) == 0


def test_the_least_score_cuts_the_end_off(docs: Connection) -> None:
    everything = search(docs, ", mode => 'dense', k => 50")
    floor = everything[9][1]
    assert search(docs, f", mode => 'dense', k => 50, min_score => '{floor}'") == everything[:10]
    assert all(row[1] >= 1 for row in search(docs, ", k => 50, min_score => 1"))
    assert search(docs, ", min_score => 1000") == []


def test_an_empty_table_has_no_answer(docs: Connection) -> None:
    docs.execute("TRUNCATE docs")
    for mode in ("hybrid", "dense", "sparse"):
        assert search(docs, f", mode => '{mode}'") == []


def test_rows_without_vectors_stand_last_or_nowhere(docs: Connection) -> None:
    docs.execute("UPDATE docs SET embedding = NULL WHERE id % 2 = 0")
    docs.execute("UPDATE docs SET words = NULL WHERE id % 4 < 2")
    assert all(row[0] % 2 == 1 for row in search(docs, ", mode => 'dense', k => 300"))
    assert all(row[0] % 4 >= 2 for row in search(docs, ", mode => 'sparse', k => 300"))
    rows = search(docs, ", k => 300")
    assert rows
    assert all(row[0] % 4 != 0 for row in rows)
    assert {row[0] % 4 for row in rows if row[3] is None} == {2}
    assert {row[0] % 4 for row in rows if row[5] is None} == {1}
    assert all(np.isfinite(row[1]) for row in rows)
    docs.execute("UPDATE docs SET embedding = NULL, words = NULL")
    assert search(docs) == []


def test_vectors_of_zeros_and_equal_vectors_do_no_harm(docs: Connection) -> None:
    docs.execute("UPDATE docs SET embedding = '[0,0,0,0,0,0,0,0]' WHERE id % 2 = 0")
    rows = search(docs, ", k => 300")
    assert {row[0] % 2 for row in rows if row[3] is None} == {0}
    assert all(np.isfinite(row[1]) for row in rows)
    docs.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 1)")
    rows = search(docs, ", k => 5")
    sparse = search(docs, ", k => 5, mode => 'sparse'")
    assert [row[5] for row in rows] == [row[5] for row in sparse], "a leg that tells nothing counts nothing"
    docs.execute("UPDATE docs SET words = '{}/1000'")
    assert ids(search(docs, ", k => 5")) == [0, 1, 2, 3, 4]


def test_two_vectorizers_of_a_table_are_searched_together(db: Connection) -> None:
    play_sidecar(db)
    answer(db, QUERY)
    create_fake_model(db, "other", **{**OPTIONS, "document_prompt": "x"})
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT n, b FROM unnest(%s::text[]) WITH ORDINALITY AS u(b, n)", [texts(20)])
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'three', column_type => 'vector')")
    assert search(db) == [], "no row has a vector yet"
    state, message, hint = refused(db, f"SELECT embed.search(NULL::docs, '{QUERY}', mode => 'hybrid')")
    assert (state, message) == ("PE003", "no vectorizer of public.docs makes sparse vectors")
    assert "dense vectors" in hint
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'other', column_name => NULL,"
        " sparse_column => 'words', name => 'lexical')"
    )
    fill(db, "docs")
    rows = search(db, ", k => 5")
    assert all(row[3] is not None and row[5] is not None for row in rows)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'other', column_name => 'second')")
    state, _, hint = refused(db, f"SELECT embed.search(NULL::docs, '{QUERY}')")
    assert state == "PE002"
    assert "'docs_embedding', 'docs_second'" in hint
    assert search(db, ", k => 5, vectorizer => 'docs_embedding'") == rows
    assert len(search(db, ", k => 5, mode => 'sparse'")) == 5


def test_composite_keys_partitions_and_names_that_need_quotes(db: Connection) -> None:
    play_sidecar(db)
    answer(db, QUERY)
    db.execute('CREATE SCHEMA "my Schema"')
    db.execute(
        'CREATE TABLE "my Schema"."Do""cs" ("the Key" int, p int, r0 text, body text, k1 text DEFAULT \'x\','
        ' score text, s text, d text, PRIMARY KEY ("the Key", p)) PARTITION BY LIST (p)'
    )
    for part in range(3):
        db.execute(
            f'CREATE TABLE "my Schema".part{part} PARTITION OF "my Schema"."Do""cs" FOR VALUES IN ({part})'
        )
    vectorize(db, '"my Schema"."Do""cs"')
    db.execute(
        'INSERT INTO "my Schema"."Do""cs" ("the Key", p, body) SELECT n / 3, n %% 3, b'
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u(b, n)",
        [texts(60)],
    )
    fill(db, '"my Schema"."Do""cs"')
    nearest = 'SELECT body FROM "my Schema"."Do""cs" ORDER BY embedding <=> embed(%s) LIMIT 9'
    wanted = set(search_bodies(db, nearest))
    statement = 'SELECT (hit).body FROM embed.search(NULL::"my Schema"."Do""cs", %s, k => 9'
    assert set(search_bodies(db, statement + ", mode => 'dense')")) == wanted
    hybrid = search_bodies(db, statement + ")")
    assert len(hybrid) == 9
    db.execute('CREATE INDEX ON "my Schema"."Do""cs" USING hnsw (embedding vector_cosine_ops)')
    db.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
    assert search_bodies(db, statement + ")") == hybrid
    filtered = search_bodies(db, statement + ', filter => \'{"the Key": {"<": 4}, "k1": "x"}\')')
    assert 0 < len(filtered) <= 12
    create_reranker(db, "judge")
    assert len(search_bodies(db, statement + ", rerank => 'judge')")) == 9


def search_bodies(db: Connection, statement: str) -> list[str]:
    return [row[0] for row in db.execute(statement.encode(), [QUERY]).fetchall()]


def test_keys_of_enums_domains_and_texts(db: Connection) -> None:
    play_sidecar(db)
    answer(db, QUERY)
    db.execute("CREATE TYPE colour AS ENUM ('red', 'blue'); CREATE DOMAIN small AS int CHECK (VALUE < 99)")
    db.execute(
        "CREATE TABLE docs (c colour, n small, u uuid DEFAULT gen_random_uuid(), f char(3) DEFAULT 'a',"
        " v varchar DEFAULT 'b', id int, body text, PRIMARY KEY (c, n, u, f, v))"
    )
    vectorize(db, "docs")
    db.execute(
        "INSERT INTO docs (c, n, id, body) SELECT CASE WHEN n < 20 THEN 'red' ELSE 'blue' END::colour,"
        " n, n, b FROM unnest(%s::text[]) WITH ORDINALITY AS u(b, n)",
        [texts(40)],
    )
    fill(db, "docs")
    exact = search(db, ", k => 20")
    assert len(exact) == 20
    db.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    db.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
    assert search(db, ", k => 20") == exact


def test_tables_that_inherit_are_searched_without_their_children(docs: Connection) -> None:
    docs.execute("CREATE TABLE more () INHERITS (docs)")
    docs.execute("INSERT INTO more SELECT * FROM docs")
    assert len(search(docs, ", mode => 'dense', k => 1000")) == COUNT


def test_other_metrics_have_their_operators(docs: Connection) -> None:
    dense, _ = scores()
    for metric, wanted in (("ip", dense), ("l2", -np.sqrt(np.maximum(2 - 2 * dense, 0)))):
        docs.execute("UPDATE embed._model SET metric = %s", [metric])
        rows = search(docs, ", mode => 'dense'")
        assert np.allclose([row[1] for row in rows], np.sort(wanted)[::-1][:10], atol=1e-4)


def test_a_reranker_has_the_last_word(docs: Connection) -> None:
    create_reranker(docs, "judge")
    pool = {row[0]: row for row in search(docs, ", k => 50")}
    rows = search(docs, ", k => 5, rerank => 'judge'")
    assert calls(docs) == 3
    given = texts(COUNT)
    wanted = sorted(pool, key=lambda number: (-len(given[number]), -pool[number][1]))[:5]
    assert [row[1] for row in rows] == [row[6] for row in rows] == [len(given[n]) / 8 for n in wanted]
    assert ids(rows) == wanted
    assert all(row[2:6] == pool[row[0]][2:6] for row in rows)
    assert len(search(docs, ", k => 60, rerank => 'judge'")) == 60
    few = search(docs, ", k => 3, candidates => 4, rerank => 'judge', mode => 'dense'")
    assert set(ids(few)) <= set(ids(search(docs, ", k => 4, mode => 'dense'")))
    assert search(docs, ", k => 5, rerank => 'judge', min_score => 1000") == []


def test_a_reranker_reads_the_text_of_the_vectorizer_s_template(docs: Connection) -> None:
    create_reranker(docs, "judge")
    docs.execute(
        "SELECT embed.alter_vectorizer('docs', template => '{lang}: {body}', filter => 'year > 2010')"
    )
    fill(docs, "docs")
    rows = search(docs, ", k => 3, rerank => 'judge', filter => '{\"lang\": \"de\"}'")
    given = texts(COUNT)
    assert [row[1] for row in rows] == [len("de: " + given[row[0]]) / 8 for row in rows]


def test_a_reranker_of_nothing_is_not_asked(docs: Connection) -> None:
    create_reranker(docs, "judge")
    assert search(docs, ", rerank => 'judge', filter => '{\"year\": 1}'") == []
    assert calls(docs) == 2
    assert refused(docs, f"SELECT embed.search(NULL::docs, '{QUERY}', rerank => 'three')")[0] == "PE003"
    assert refused(docs, f"SELECT embed.search(NULL::docs, '{QUERY}', rerank => 'no')")[0] == "PE001"


def test_stored_token_vectors_have_the_last_word(db: Connection) -> None:
    create_docs(db, COUNT, multi=True)
    answer(db, QUERY)
    rows = search(db, ", k => 5, rerank => 'multi'")
    assert calls(db) == 3
    pool = {row[0]: row for row in search(db, ", k => 100")}
    found, query = embeddings(texts(COUNT)).multi, embeddings([QUERY]).multi
    assert found is not None
    assert query is not None
    late = {n: float((query.row(0) @ found.row(n).T).max(axis=1).mean()) for n in pool}
    wanted = sorted(pool, key=lambda number: (-round(late[number], 3), -pool[number][1]))
    assert np.allclose([row[1] for row in rows], [late[n] for n in wanted[:5]], atol=2e-3)
    assert np.allclose([row[1] for row in rows], [late[row[0]] for row in rows], atol=2e-3)
    assert all(row[1] == row[6] and row[2:6] == pool[row[0]][2:6] for row in rows)
    db.execute(
        "UPDATE docs SET tokens = NULL WHERE id % 2 = 0; UPDATE docs SET tokens = '{}' WHERE id % 4 = 1"
    )
    rows = search(db, ", k => 100, rerank => 'multi'")
    assert len(rows) == 100
    assert all((row[1] is None) == (row[0] % 4 != 3) for row in rows)
    assert None not in [row[1] for row in search(db, ", k => 100, rerank => 'multi', min_score => -1")]


def test_without_token_vectors_there_is_nothing_to_judge_by(docs: Connection) -> None:
    state, message, hint = refused(docs, "SELECT embed.search(NULL::docs, 'x', rerank => 'multi')")
    assert (state, message) == ("PE003", "no vectorizer of public.docs makes token vectors")
    assert hint


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("mode => 'fuzzy'", "there is no mode 'fuzzy'"),
        ("fusion => 'sum'", "there is no fusion 'sum'"),
        ("fusion => NULL", "there is no fusion NULL"),
        ("k => 10001", "k is 10001"),
        ("k => NULL", "k is NULL"),
        ("candidates => 0", "candidates is 0"),
        ("weights => '{1}'", "the weights are {1}"),
        ("weights => '{1,-1}'", "the weights are"),
        ("weights => '{0,0}'", "the weights are"),
        ("weights => '{NaN,1}'", "the weights are"),
        ("weights => '{NULL,1}'", "the weights are"),
        ("vectorizer => 'no'", "table public.docs has no vectorizer 'no'"),
        ("filter => '[]'", "a filter is a JSON object, not []"),
    ],
)
def test_what_cannot_be_is_told(docs: Connection, arguments: str, told: str) -> None:
    state, message, hint = refused(docs, f"SELECT embed.search(NULL::docs, 'x', {arguments})")
    assert state == "PE003"
    assert told in message
    assert hint
    assert calls(docs) == 0, "before the model is asked"


def test_what_is_no_table_with_a_vectorizer_is_told(docs: Connection) -> None:
    docs.execute("CREATE TABLE bare (id int)")
    for row, told in (("NULL::bare", "table public.bare has no vectorizer"), ("NULL::text", "rows of text")):
        state, message, hint = refused(docs, f"SELECT embed.search({row}, 'x')")
        assert (state, told in message) == ("PE003", True)
        assert hint
    docs.execute("ALTER TABLE docs DROP COLUMN embedding, DROP COLUMN words")
    assert refused(docs, "SELECT embed.search(NULL::docs, 'x')")[0] == "PE003"


def test_dropped_and_added_columns_change_nothing(docs: Connection) -> None:
    before = ids(search(docs))
    docs.execute("ALTER TABLE docs DROP COLUMN lang, ADD COLUMN title text DEFAULT 'new'")
    docs.execute("ALTER TABLE docs RENAME embedding TO dense; ALTER TABLE docs RENAME id TO number")
    rows = docs.execute(
        f"SELECT (hit).number, (hit).title FROM embed.search(NULL::docs, '{QUERY}')"
    ).fetchall()
    assert rows == [(number, "new") for number in before]


def test_it_runs_in_a_transaction_that_may_not_write(docs: Connection) -> None:
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    search(docs)  # the sidecar of this test writes a sequence
    docs.execute("SET embed.exact_rows = 0")
    with docs.transaction():
        docs.execute("SET TRANSACTION READ ONLY")
        assert len(search(docs, ', filter => \'{"lang": "en"}\'')) == 10


def test_it_joins_as_any_function_in_from(docs: Connection) -> None:
    docs.execute("CREATE TABLE questions (q text)")
    docs.execute("INSERT INTO questions VALUES (%s), (%s)", [QUERY, "blue"])
    answer(docs, "blue")
    rows = docs.execute(
        "SELECT q.q, (s.hit).id FROM questions AS q, LATERAL embed.search(NULL::docs, q.q, k => 3) AS s"
    ).fetchall()
    assert len(rows) == 6
    assert [row[1] for row in rows if row[0] == QUERY] == ids(search(docs, ", k => 3"))
    prepared = (
        "PREPARE found (text, jsonb) AS SELECT (hit).id FROM embed.search(NULL::docs, $1, filter => $2)"
    )
    docs.execute(prepared)
    for lang in ("en", "de", "en", "de", "en", "de", "fr"):
        rows = docs.execute(f"EXECUTE found ('{QUERY}', '{{\"lang\": \"{lang}\"}}')").fetchall()
        wanted = [n for n in range(COUNT) if ("en", "de", None)[n % 3] == lang]
        assert {row[0] for row in rows} <= set(wanted)
        assert len(rows) == (10 if wanted else 0)


def test_a_filter_holds_in_both_legs(docs: Connection) -> None:
    allowed = [n for n in range(COUNT) if n % 3 == 0 and 2000 + n % 25 >= 2010]
    condition = Jsonb({"lang": "en", "year": {">=": 2010}})
    rows = docs.execute(
        "SELECT (hit).id, score FROM embed.search(NULL::docs, %s, k => 20, candidates => 15, filter => %s)",
        [QUERY, condition],
    ).fetchall()
    wanted = expected("convex", 20, None, allowed)[:20]
    assert np.allclose([row[1] for row in rows], [score for _, score in wanted], atol=1e-5)
    assert {row[0] for row in rows} <= set(allowed)


@pytest.mark.parametrize("mode", ["sparse", "hybrid"])
def test_postings_find_the_rows_that_a_scan_finds(docs: Connection, mode: str) -> None:
    arguments = f", mode => '{mode}', k => 20"
    scanned = search(docs, arguments)
    docs.execute("SELECT embed.create_postings('docs')")
    docs.execute("SET embed.exact_rows = 0")
    plan = value(
        docs,
        "SELECT embed._search_statement(embed._search_plan('docs'::regtype, 20, %s, NULL, 'convex', NULL,"
        " 100, NULL, NULL, NULL), false)",
        mode,
    )
    assert "_sparse_near_v1" in plan
    found = search(docs, arguments)
    assert ids(found) == ids(scanned)
    for new, old in zip(found, scanned, strict=True):
        assert [part is None for part in new] == [part is None for part in old]
        known = [part for part in old if part is not None]
        assert [part for part in new if part is not None] == pytest.approx(known, rel=1e-5)


def test_under_a_filter_the_sparse_vectors_themselves_are_read(docs: Connection) -> None:
    arguments = """, mode => 'sparse', filter => '{"id": {"<": 40}}'"""
    scanned = search(docs, arguments)
    docs.execute("SELECT embed.create_postings('docs')")
    docs.execute("SET embed.exact_rows = 0")
    assert search(docs, arguments) == scanned
    assert max(ids(scanned)) < 40
