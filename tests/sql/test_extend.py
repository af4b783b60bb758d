"""sql/functions/78_extend.sql: diversity, boosts and pages of embed.search against formulas in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from pg_embed.records import Float32
from tests.fix_pg import MakeRole
from tests.fix_search import answer, calls, create_docs, embeddings, fill, play_sidecar, texts, vectorize
from tests.fix_worker import Connection, create_fake_model
from tests.sql.helpers import refused, value
from tests.sql.test_rerank import create_reranker

QUERY = "quick red fox 7"
COUNT = 300
Row = tuple[Any, ...]
MODES = ["mode => 'hybrid'", "mode => 'dense'", "mode => 'sparse'", "fusion => 'rrf'", "fusion => 'dbsf'"]


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with 300 rows, both their vectors, and columns to boost by."""
    create_docs(db, COUNT)
    answer(db, QUERY)
    db.execute(
        "ALTER TABLE docs ADD likes numeric, ADD pinned boolean, ADD day date, ADD at timestamp,"
        " ADD seen timestamptz;"
        "UPDATE docs SET likes = id % 40 - 5, pinned = id % 10 = 0, day = current_date - id::int,"
        " at = now()::timestamp - id * interval '1 hour', seen = now() - id * interval '1 minute'"
    )
    return db


def search(db: Connection, arguments: str = "", query: str = QUERY) -> list[Row]:
    """Ids, scores and ranks of embed.search."""
    return db.execute(
        "SELECT (hit).id, score, dense_rank, dense_score, sparse_rank, sparse_score, rerank_score"
        f" FROM embed.search(NULL::docs, '{query}'{arguments and ', ' + arguments})"
    ).fetchall()


def ids(rows: list[Row]) -> list[int]:
    return [row[0] for row in rows]


def marginal(pool: list[Row], diversity: float, count: int, vectors: Float32) -> list[int]:
    """Maximal marginal relevance over rows that stand in order, by its formula."""
    given = np.array([row[1] for row in pool], dtype=np.float64)
    relevance = (given - given.min()) / (given.max() - given.min())
    dense = vectors[[row[0] for row in pool]].astype(np.float64)
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    dense /= np.where(norms > 0, norms, 1)
    alike = dense @ dense.T
    picked = [0]
    while len(picked) < min(count, len(pool)):
        score = (1 - diversity) * relevance - diversity * alike[:, picked].max(axis=1)
        score[picked] = -np.inf
        picked.append(int(score.argmax()))
    return [pool[number][0] for number in picked]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("diversity", [0.3, 0.8, 1])
def test_diversity_is_maximal_marginal_relevance(docs: Connection, mode: str, diversity: float) -> None:
    pool = search(docs, f"{mode}, k => 60, candidates => 60")
    wanted = marginal(pool, diversity, 12, embeddings(texts(COUNT)).dense)
    rows = search(docs, f"{mode}, k => 12, candidates => 60, diversity => {diversity}")
    assert ids(rows) == wanted
    assert ids(rows) != ids(pool[:12])
    plain = {row[0]: row for row in pool}
    assert rows == [plain[number] for number in wanted], "the score stays the relevance"


@pytest.mark.parametrize("mode", MODES)
def test_diversity_of_0_and_of_null_is_the_plain_order(docs: Connection, mode: str) -> None:
    plain = search(docs, mode)
    assert search(docs, f"{mode}, diversity => 0") == plain
    assert search(docs, f"{mode}, diversity => NULL, boost => NULL") == plain


def test_diversity_reads_halfvec_too_and_rows_without_a_vector(docs: Connection) -> None:
    docs.execute("UPDATE docs SET embedding = NULL WHERE id % 3 = 0")
    docs.execute("UPDATE docs SET embedding = '[0,0,0,0,0,0,0,0]' WHERE id % 3 = 1")
    vectors = embeddings(texts(COUNT)).dense.copy()
    vectors[np.arange(COUNT) % 3 < 2] = 0
    pool = search(docs, "mode => 'sparse', k => 50, candidates => 50")
    rows = search(docs, "mode => 'sparse', k => 50, candidates => 50, diversity => 0.5")
    assert ids(rows) == marginal(pool, 0.5, 50, vectors)
    docs.execute("ALTER TABLE docs ALTER embedding TYPE halfvec(8)")
    assert ids(search(docs, "mode => 'sparse', k => 50, candidates => 50, diversity => 0.5")) == ids(rows)


def test_diversity_takes_apart_what_is_said_twice(docs: Connection) -> None:
    first = search(docs, "k => 1")[0][0]
    docs.execute(
        "INSERT INTO docs (id, body, embedding, words) SELECT 1000 + n, body, embedding, words FROM docs,"
        " generate_series(1, 5) AS n WHERE id = %s",
        [first],
    )
    same = {first, *range(1001, 1006)}
    assert set(ids(search(docs, "k => 6"))) == same
    assert len(set(ids(search(docs, "k => 6, diversity => 0.6"))) & same) == 1


def test_diversity_works_on_what_a_reranker_gave(docs: Connection) -> None:
    create_reranker(docs, "judge")
    pool = search(docs, "k => 50, rerank => 'judge'")
    before = calls(docs)
    rows = search(docs, "k => 7, rerank => 'judge', diversity => 0.4")
    assert calls(docs) == before + 1
    assert ids(rows) == marginal(pool, 0.4, 7, embeddings(texts(COUNT)).dense)
    assert all(row[1] == row[6] == len(texts(COUNT)[row[0]]) / 8 for row in rows)


def test_diversity_of_nothing_and_of_little(docs: Connection) -> None:
    assert search(docs, "diversity => 0.5, filter => '{\"year\": 1}'") == []
    assert len(search(docs, 'diversity => 0.5, k => 50, filter => \'{"id": {"<": 3}}\'')) == 3
    docs.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 4) WHERE id = 5")
    rows = search(docs, "mode => 'dense', diversity => 0.5, filter => '{\"id\": [4, 5]}'")
    assert ids(rows) == [4, 5]


def test_the_least_score_is_met_before_diversity(docs: Connection) -> None:
    pool = search(docs, "mode => 'dense', k => 50")
    rows = search(docs, f"mode => 'dense', diversity => 0.9, k => 20, min_score => '{pool[9][1]}'")
    assert set(ids(rows)) == set(ids(pool[:10]))


def test_diversity_needs_dense_vectors(db: Connection) -> None:
    play_sidecar(db)
    create_fake_model(db, "words", dimensions=8, sparse_dimensions=1000)
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'words', column_name => NULL,"
        " sparse_column => 'words')"
    )
    state, message, hint = refused(db, "SELECT embed.search(NULL::docs, 'x', diversity => 0.3)")
    assert (state, hint) == ("PE003", "leave diversity out")
    assert message == "diversity is by dense vectors, and no vectorizer of public.docs makes any"


ADDED = {
    '{"likes": {"weight": 0.7}}': lambda n: 0.7 * np.log1p(np.maximum(n % 40 - 5, 0)),
    '{"pinned": {"weight": -2}}': lambda n: -2.0 * (n % 10 == 0),
    '{"at": {"half_life": "1 day", "weight": 1.5}}': lambda n: 1.5 * 0.5 ** (n / 24),
    '{"seen": {"half_life": "1 hour", "weight": 3}}': lambda n: 3 * 0.5 ** (n / 60),
    '{"seen": {"half_life": "1 hour", "weight": 1}, "likes": {"weight": 0.5}}': lambda n: (
        0.5 ** (n / 60) + 0.5 * np.log1p(np.maximum(n % 40 - 5, 0))
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boost", ADDED)
def test_a_boost_is_added_to_every_candidate(docs: Connection, mode: str, boost: str) -> None:
    pool = {row[0]: row for row in search(docs, f"{mode}, k => 300")}
    with docs.transaction():
        docs.execute("UPDATE docs SET at = now()::timestamp - id * interval '1 hour'")
        docs.execute("UPDATE docs SET seen = now() - id * interval '1 minute'")
        rows = search(docs, f"{mode}, candidates => 300, boost => '{boost}'")
    added = ADDED[boost](np.arange(COUNT))
    best = sorted((pool[n][1] + added[n] for n in pool), reverse=True)[:10]
    assert np.allclose([row[1] for row in rows], best, atol=1e-5)
    for row in rows:
        assert row[1] == pytest.approx(pool[row[0]][1] + added[row[0]], abs=1e-5)
        assert row[2:] == pool[row[0]][2:], "what the legs say stays as it is"


def test_a_date_is_as_old_as_its_midnight_where_the_session_is(docs: Connection) -> None:
    docs.execute("SET TimeZone = 'Asia/Tokyo'; UPDATE docs SET day = current_date - id::int")
    with docs.transaction():
        days = value(docs, "SELECT extract(epoch FROM now() - current_date::timestamptz) / 86400")
        rows = search(docs, 'mode => \'dense\', boost => \'{"day": {"half_life": "30 days", "weight": 2}}\'')
    for row in rows:
        assert row[1] - row[3] == pytest.approx(2 * 0.5 ** ((row[0] + float(days)) / 30), abs=1e-5)


def test_a_boost_lifts_candidates_and_no_others(docs: Connection) -> None:
    for mode in ("dense", "sparse"):
        pool = search(docs, f"mode => '{mode}', k => 20")
        docs.execute("UPDATE docs SET likes = CASE WHEN id <> ALL (%s) THEN 1e9 END", [ids(pool[:19])])
        rows = search(
            docs, f"mode => '{mode}', k => 3, candidates => 20, boost => '{{\"likes\": {{\"weight\": 1}}}}'"
        )
        assert rows[0][0] == pool[19][0]
        assert set(ids(rows)) <= set(ids(pool))


def test_null_the_future_and_the_endless_are_no_trouble(docs: Connection) -> None:
    plain = search(docs, "mode => 'dense', k => 5")
    seen = ("NULL", "'infinity'", "'-infinity'", "now() + interval '9 days'", "'0001-01-01 BC'")
    for row, time, likes in zip(plain, seen, ("NULL", "-7", "'NaN'", "0", "0"), strict=True):
        docs.execute(f"UPDATE docs SET seen = {time}, likes = {likes} WHERE id = {row[0]}")
    boost = '{"seen": {"half_life": "1 day", "weight": 1}, "likes": {"weight": 1}}'
    rows = {row[0]: row[1] for row in search(docs, f"mode => 'dense', k => 100, boost => '{boost}'")}
    added = [rows[row[0]] - row[1] for row in plain]
    assert added == pytest.approx([0, 1, 0, 1, 0], abs=1e-6)


def test_a_boost_is_added_to_what_a_reranker_gave(docs: Connection) -> None:
    create_reranker(docs, "judge")
    pool = {row[0]: row for row in search(docs, "k => 50, rerank => 'judge'")}
    rows = search(docs, "k => 5, rerank => 'judge', boost => '{\"pinned\": {\"weight\": 9}}'")
    wanted = sorted((pool[n][6] + 9 * (n % 10 == 0) for n in pool), reverse=True)[:5]
    assert [row[1] for row in rows] == wanted
    assert all(row[1] == row[6] + 9 * (row[0] % 10 == 0) for row in rows)
    assert all(row[2:] == pool[row[0]][2:] for row in rows)


def test_boosts_filters_and_the_least_score_go_together(docs: Connection) -> None:
    boost = '{"pinned": {"weight": 5}}'
    options = f"mode => 'dense', filter => '{{\"lang\": \"en\"}}', boost => '{boost}', k => 40"
    rows = search(docs, f"{options}, min_score => 4")
    assert rows
    assert all(row[0] % 30 == 0 for row in rows)
    assert rows == [row for row in search(docs, options) if row[1] >= 4]


def test_a_boost_holds_along_the_indexes(docs: Connection) -> None:
    options = 'k => 8, boost => \'{"likes": {"weight": 0.5}}\', diversity => 0.2, skip => 2'
    exact = search(docs, options)
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops); ANALYZE docs")
    docs.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
    assert search(docs, options) == exact


@pytest.mark.parametrize("options", ["", "mode => 'dense'", "diversity => 0.4", "rerank => 'judge'"])
def test_pages_are_parts_of_one_answer(docs: Connection, options: str) -> None:
    create_reranker(docs, "judge")
    more = options and f", {options}"
    whole = search(docs, f"k => 40{more}")
    pages = [search(docs, f"k => 10, skip => {skip}{more}") for skip in (0, 10, 20, 30)]
    assert [row for page in pages for row in page] == whole
    assert search(docs, f"k => 10, skip => 990{more}") == []


def test_a_boost_in_sql_may_be_any_expression_over_the_table(docs: Connection) -> None:
    call = (
        "SELECT (hit).id, score, dense_score FROM embed._search_v1(NULL::docs, %s, 5, 'dense', NULL,"
        " 'convex', NULL, 100, NULL, NULL, NULL, NULL, boosting => %s)"
    )
    rows = docs.execute(
        call.encode(), [QUERY, "(id % 7) / 2.0 + (SELECT max(year) - 2024 FROM docs) -- why"]
    ).fetchall()
    assert all(row[1] == pytest.approx(row[2] + row[0] % 7 / 2, abs=1e-5) for row in rows)
    assert refused(docs, call, QUERY, "score")[0] == "42703", "the search's own columns are not in sight"
    docs.execute("ALTER TABLE docs ADD score int DEFAULT 3, ADD d int DEFAULT 1")
    rows = docs.execute(call.encode(), [QUERY, "score + d"]).fetchall()
    assert all(row[1] == pytest.approx(row[2] + 4, abs=1e-5) for row in rows)
    rows = docs.execute(call.encode(), [QUERY, "'Infinity'::float8"]).fetchall()
    assert all(np.isfinite(row[1]) for row in rows)
    for wrong in ("'x'::text", "ARRAY[1]"):
        assert refused(docs, call, QUERY, wrong)[0] in ("22P02", "42846")


def test_a_boost_in_sql_has_the_caller_s_rights_and_cannot_write(
    docs: Connection, make_role: MakeRole
) -> None:
    role = make_role("embed_reader")
    docs.execute(
        f'GRANT SELECT ON docs TO "{role.name}"; CREATE TABLE secrets (s int);'
        "CREATE FUNCTION writes() RETURNS int LANGUAGE sql VOLATILE AS"
        " $$ DELETE FROM docs RETURNING 1 $$"
    )
    call = (
        "SELECT (hit).id FROM embed._search_v1(NULL::docs, %s, 5, 'dense', NULL, 'convex', NULL, 100,"
        " NULL, NULL, NULL, NULL, boosting => %s)"
    )
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert connection.execute(call, [QUERY, "year"]).fetchall()
        for expression in ("(SELECT max(s) FROM secrets)", "writes()"):
            assert refused(connection, call, QUERY, expression)[0] == "42501"
        assert refused(connection, call, QUERY, "1); DELETE FROM docs; --")[0] == "42601"
    assert value(docs, "SELECT count(*) FROM docs") == COUNT


def test_a_reader_may_ask_for_all_of_it(docs: Connection, make_role: MakeRole) -> None:
    role = make_role("embed_reader")
    docs.execute(f'GRANT SELECT ON docs TO "{role.name}"')
    options = 'diversity => 0.3, skip => 2, boost => \'{"likes": {"weight": 0.5}}\''
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert search(connection, options) == search(docs, options)
        docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        docs.execute("CREATE POLICY english ON docs FOR SELECT USING (lang = 'en')")
        rows = search(connection, f"{options}, k => 200, candidates => 300")
        assert sorted(ids(rows)) == sorted({*range(0, COUNT, 3)} - _first(connection, options))
    docs.execute(f'REVOKE SELECT ON docs FROM "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert refused(connection, f"SELECT embed.search(NULL::docs, '{QUERY}', {options})")[0] == "42501"


def _first(db: Connection, options: str) -> set[int]:
    """The rows that `skip => 2` leaves out."""
    return set(ids(search(db, f"{options.replace('skip => 2', 'skip => 0')}, k => 2, candidates => 300")))


def test_similar_has_the_same_options(docs: Connection) -> None:
    call = "SELECT (hit).id, score FROM embed.similar(NULL::docs, '9', k => %s{})"
    pool = docs.execute(call.format("").encode(), [100]).fetchall()
    rows = docs.execute(call.format(", diversity => 0.5").encode(), [9]).fetchall()
    assert ids(rows) == marginal(pool, 0.5, 9, embeddings(texts(COUNT)).dense)
    assert docs.execute(call.format(", skip => 4").encode(), [9]).fetchall() == pool[4:13]
    boost = ', boost => \'{"pinned": {"weight": 100}}\''
    assert (
        ids(docs.execute(call.format(boost).encode(), [3]).fetchall())
        == [n for n in ids(pool) if n % 10 == 0][:3]
    )


def test_keys_of_several_columns(db: Connection) -> None:
    play_sidecar(db)
    answer(db, QUERY)
    db.execute(
        "CREATE TYPE colour AS ENUM ('red', 'blue');"
        "CREATE TABLE docs (c colour, f char(3), id int, body text, likes int, PRIMARY KEY (c, f, id))"
    )
    vectorize(db, "docs")
    db.execute(
        "INSERT INTO docs SELECT CASE WHEN n < 20 THEN 'red' ELSE 'blue' END::colour, 'a', n, b, n %% 3"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS u(b, n)",
        [texts(40)],
    )
    fill(db, "docs")
    plain = {row[0]: row[1] for row in search(db, "k => 40")}
    rows = search(db, 'k => 40, boost => \'{"likes": {"weight": 1}}\', diversity => 0.5')
    assert {row[0]: row[1] for row in rows} == pytest.approx(
        {n: score + np.log1p(n % 3) for n, score in plain.items()}, abs=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("diversity => 1.5", "the diversity is 1.5"),
        ("diversity => -0.1", "the diversity is -0.1"),
        ("diversity => 'NaN'", "the diversity is NaN"),
        ("diversity => 0.5, candidates => 1001", "diversity is asked for among 1001 rows"),
        ("diversity => 0.5, k => 10, skip => 995", "diversity is asked for among 1005 rows"),
        ("skip => -1", "skip is -1"),
        ("skip => NULL", "skip is NULL"),
        ("skip => 9991", "skip is 9991"),
        ("boost => '[]'", "a boost is a JSON object of columns, not []"),
        ("boost => '{}'", "a boost is a JSON object of columns, not {}"),
        ('boost => \'{"no": {"weight": 1}}\'', "no column no"),
        ("boost => '{\"likes\": 1}'", "the boost for column likes is 1"),
        ("boost => '{\"likes\": {}}'", "the boost for column likes is {}"),
        ('boost => \'{"likes": {"weight": "1"}}\'', "the boost for column likes is"),
        ('boost => \'{"likes": {"weight": 1e7}}\'', "the boost for column likes is"),
        ('boost => \'{"likes": {"weight": 1, "x": 1}}\'', "the boost for column likes is"),
        ('boost => \'{"likes": {"weight": 1, "half_life": "1 day"}}\'', "and the column is numeric"),
        ('boost => \'{"body": {"weight": 1}}\'', "column body is text, which gives no boost"),
        ('boost => \'{"seen": {"weight": 1}}\'', "the half_life of the boost for column seen is missing"),
        ('boost => \'{"seen": {"weight": 1, "half_life": "soon"}}\'', "is soon"),
        ('boost => \'{"seen": {"weight": 1, "half_life": "-1 day"}}\'', "is -1 day"),
        ('boost => \'{"seen": {"weight": 1, "half_life": "0"}}\'', "is 0"),
        ('boost => \'{"seen": {"weight": 1, "half_life": "999999999999 years"}}\'', "is 999999999999 years"),
    ],
)
def test_what_cannot_be_is_told(docs: Connection, arguments: str, told: str) -> None:
    state, message, hint = refused(docs, f"SELECT embed.search(NULL::docs, 'x', {arguments})")
    assert state == "PE003"
    assert told in message
    assert hint
    assert calls(docs) == 0, "before the model is asked"
