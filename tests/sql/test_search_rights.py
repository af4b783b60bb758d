"""embed.search with the caller's rights: row-level security, columns, and no way to write."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.fix_pg import MakeRole, Role
from tests.fix_search import answer, create_docs
from tests.fix_worker import Connection
from tests.sql.helpers import refused, value

COUNT = 90
SEARCH = "SELECT (hit).id FROM embed.search(NULL::docs, 'red', mode => 'dense', k => 100{})"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, which a policy shows to each role by its language."""
    create_docs(db, COUNT)
    answer(db, "red")
    # A policy that leans on the search_path of who asks, as policies do.
    db.execute(
        "CREATE TABLE allowed (role name, lang text); GRANT SELECT ON allowed TO PUBLIC;"
        "CREATE FUNCTION may_see(lang text) RETURNS boolean LANGUAGE plpgsql STABLE AS"
        " $$ BEGIN RETURN EXISTS (SELECT FROM allowed AS a WHERE a.role = current_user"
        " AND a.lang = may_see.lang); END $$;"
        "ALTER TABLE docs ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY by_lang ON docs FOR SELECT USING (may_see(lang))"
    )
    return db


@pytest.fixture
def english(docs: Connection, make_role: MakeRole) -> Role:
    return _role(docs, make_role, "en")


@pytest.fixture
def german(docs: Connection, make_role: MakeRole) -> Role:
    return _role(docs, make_role, "de")


def _role(docs: Connection, make_role: MakeRole, lang: str) -> Role:
    role = make_role("embed_reader")
    docs.execute(f'GRANT SELECT ON docs TO "{role.name}"')
    docs.execute("INSERT INTO allowed VALUES (%s, %s)", [role.name, lang])
    return role


@pytest.fixture
def reader(english: Role) -> Iterator[Connection]:
    with psycopg.connect(english.dsn, autocommit=True) as connection:
        yield connection


def ids(db: Connection, arguments: str = "") -> set[int]:
    return {row[0] for row in db.execute(SEARCH.format(arguments).encode()).fetchall()}


def test_each_role_finds_the_rows_that_it_may_see(docs: Connection, english: Role, german: Role) -> None:
    for role, rest in ((english, 0), (german, 1)):
        with psycopg.connect(role.dsn, autocommit=True) as connection:
            wanted = {number for number in range(COUNT) if number % 3 == rest}
            assert ids(connection) == wanted
            assert ids(connection, ', filter => \'{"lang": "de"}\'') == (wanted if rest else set())
            assert (
                ids(
                    connection,
                    ', filter => \'{"or": [{"lang": "en"}, {"lang": null}, {"not": {"id": -1}}]}\'',
                )
                == wanted
            )
    assert len(ids(docs)) == COUNT


def test_the_index_shows_no_more(docs: Connection, reader: Connection) -> None:
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    docs.execute("ANALYZE docs")
    reader.execute("SET embed.exact_rows = 0; SET enable_seqscan = off")
    hybrid = "SELECT (hit).id FROM embed.search(NULL::docs, 'red', k => 100)"
    assert {row[0] % 3 for row in reader.execute(hybrid).fetchall()} == {0}
    assert ids(reader) == {number for number in range(COUNT) if number % 3 == 0}


def test_scores_do_not_tell_of_rows_that_are_hidden(docs: Connection, reader: Connection) -> None:
    statement = "SELECT (hit).id, score, dense_rank FROM embed.search(NULL::docs, 'red', k => 5)"
    before = reader.execute(statement).fetchall()
    docs.execute("UPDATE docs SET words = (SELECT words FROM docs WHERE id = 0) WHERE lang = 'de'")
    docs.execute("DELETE FROM docs WHERE lang IS NULL")
    assert reader.execute(statement).fetchall() == before


def test_who_may_not_read_the_table_finds_nothing(docs: Connection, make_role: MakeRole) -> None:
    with psycopg.connect(make_role("embed_reader").dsn, autocommit=True) as connection:
        assert refused(connection, SEARCH.format(""))[0] == "42501"


def test_who_may_not_read_a_column_gets_no_whole_row(
    docs: Connection, english: Role, reader: Connection
) -> None:
    docs.execute(f'REVOKE SELECT ON docs FROM "{english.name}"')
    docs.execute(f'GRANT SELECT (id, body, embedding, words, lang) ON docs TO "{english.name}"')
    assert refused(reader, SEARCH.format(""))[0] == "42501"
    assert refused(reader, SEARCH.format(", filter => '{\"year\": 2000}'"))[0] == "42501"


def test_somebody_without_our_role_may_not_search(docs: Connection, make_role: MakeRole) -> None:
    role = make_role()
    docs.execute(f'GRANT SELECT ON docs TO "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert refused(connection, SEARCH.format(""))[0] == "42501"


def test_a_condition_in_sql_has_the_caller_s_rights_and_cannot_write(
    docs: Connection, reader: Connection
) -> None:
    docs.execute(
        "CREATE TABLE secrets (s text); INSERT INTO secrets VALUES ('x');"
        "CREATE FUNCTION writes() RETURNS boolean LANGUAGE sql VOLATILE AS"
        " $$ DELETE FROM secrets RETURNING true $$"
    )
    statement = (
        "SELECT (hit).id FROM embed._search_v1(NULL::docs, 'red', 5, NULL, NULL, 'convex', NULL, 100, NULL,"
        " NULL, NULL, %s)"
    )
    assert reader.execute(statement, ["year > 2010 -- new"]).fetchall()
    for condition in ("EXISTS (SELECT FROM secrets)", "writes()", "embed._ask('{}') IS NULL"):
        assert refused(reader, statement, condition)[0] == "42501"
    assert refused(reader, statement, "true); DELETE FROM docs; --")[0] == "42601"
    assert value(docs, "SELECT count(*) FROM docs") == COUNT


@pytest.mark.parametrize("name", ["vector", "vector, harm()", "halfvec) IS NULL OR harm() IS NOT NULL --"])
@pytest.mark.parametrize("column", ["embedding", "words"])
def test_a_column_that_was_given_a_type_of_its_owner_s_is_no_column_of_vectors(
    docs: Connection, name: str, column: str
) -> None:
    own = sql.Identifier("own", "sparsevec" if name == "vector" and column == "words" else name)
    docs.execute(
        "CREATE SCHEMA own; CREATE FUNCTION harm() RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'run' USING ERRCODE = 'ZZ001'; END $$"
    )
    docs.execute(sql.SQL("CREATE TYPE {} AS (a int)").format(own))
    for target in ("vector", "sparsevec"):
        docs.execute(
            sql.SQL(
                "CREATE FUNCTION own.made({0}, OUT {1}) LANGUAGE plpgsql AS $$ BEGIN PERFORM harm(); END $$;"
                "CREATE CAST ({0} AS {1}) WITH FUNCTION own.made({0}) AS IMPLICIT"
            ).format(own, sql.Identifier(target))
            if target == ("sparsevec" if column == "words" else "vector")
            else sql.SQL("SELECT 1")
        )
    docs.execute(
        sql.SQL("ALTER TABLE docs ALTER {0} TYPE {1} USING ROW(1)::{1}").format(sql.Identifier(column), own)
    )
    mode = "dense" if column == "embedding" else "sparse"
    for statement in (
        f"SELECT * FROM embed.search(NULL::docs, 'red', mode => '{mode}')",
        f"SELECT * FROM embed.similar(NULL::docs, '1', mode => '{mode}')",
    ):
        state, message, hint = refused(docs, statement)
        assert state == "PE003"
        assert f"makes {mode}" in message
        assert hint


def test_a_worker_and_an_owner_search_what_is_theirs(db: Connection, make_role: MakeRole) -> None:
    create_docs(db, 5)
    answer(db, "red")
    role = make_role("embed_owner")
    db.execute(f'GRANT CREATE ON SCHEMA public TO "{role.name}"; ALTER TABLE docs OWNER TO "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        assert ids(connection) == set(range(5))
    with psycopg.connect(make_role("embed_worker").dsn, autocommit=True) as connection:
        assert refused(connection, SEARCH.format(""))[0] == "42501", "it reads the columns that it needs only"
