"""Nobody gets the rights of our SECURITY DEFINER functions: by shadowed names, quoting, casts."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from pg_embed.resources import sql_dir
from tests.fix_pg import MakeRole, Role
from tests.fix_worker import Connection, StartWorker, create_docs, create_fake_model
from tests.sql.helpers import queued, refused, value

INLINED = {
    "_hash",
    "_home",
    "_keys",
    "_memo_key",
    "embed",
    "embed_document",
    "embed_sparse",
    "embed_multi",
    "_dense_vector",
    "_sparse_vector",
    "_size",
    "_models",
    "_model_of",
    "search",
    "search_chunks",
    "_sparse_column",
    "_sparse_terms",
    "_sparse_top_v1",
    "similar",
}  # must have no SET clause, or they would not inline
CALLERS = {
    "_search_v1",
    "_search_chunks_v1",
    "_search_estimate",
    "_search_settings",
    "_search_explained",
    "_search_explain_v1",
    "explain_search",
    "_serves",
}  # run with the caller's search_path, or settings

LEAK = """
CREATE FUNCTION {schema}.leak() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> session_user THEN
        CREATE TABLE IF NOT EXISTS public.leaked AS SELECT current_user AS by;
    END IF;
    RETURN 'x';
END $$
"""


@pytest.fixture
def owner(db: Connection, make_role: MakeRole) -> Role:
    """A member of embed_owner with a schema of its own; whoever else runs its code leaves a mark."""
    create_fake_model(db)
    role = make_role("embed_owner")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{role.name}"')
    db.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    return role


@pytest.fixture
def attacker(owner: Role) -> Iterator[Connection]:
    """A connection of that owner, with its schema first."""
    with psycopg.connect(owner.dsn, autocommit=True) as connection:
        connection.execute("SET search_path = mine, public")
        yield connection


def leaked(db: Connection) -> bool:
    return bool(value(db, "SELECT to_regclass('public.leaked') IS NOT NULL"))


def test_every_function_pins_its_search_path(db: Connection) -> None:
    found = db.execute(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'embed'::regnamespace AND prokind <> 'p'"
    ).fetchall()
    assert len(found) > 50
    path = "search_path=pg_catalog, embed, pg_temp"
    assert {name for name, settings in found if path not in (settings or [])} == INLINED | CALLERS


def test_no_procedure_defines_its_security(db: Connection) -> None:
    found = value(
        db,
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'embed'::regnamespace AND"
        " prokind = 'p' AND prosecdef",
    )
    assert found == 0, "one that commits cannot pin its search_path"


def test_no_function_that_defines_its_security_is_inlined(db: Connection) -> None:
    names = db.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'embed'::regnamespace AND prosecdef"
    ).fetchall()
    assert not {name for (name,) in names} & INLINED


def test_every_function_has_a_comment(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    found = db.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p WHERE obj_description(p.oid, 'pg_proc') IS NULL"
        " AND (p.pronamespace = 'embed'::regnamespace OR p.proname = 'embed')"
    ).fetchall()
    assert found == []


def test_every_table_and_view_has_a_comment(db: Connection) -> None:
    found = db.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'embed'::regnamespace AND relkind IN ('r', 'v')"
        " AND obj_description(oid, 'pg_class') IS NULL"
    ).fetchall()
    assert found == []


def test_every_column_that_users_see_has_a_comment(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', storage => 'table')")
    found = db.execute(
        "SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL"
        " AND (c.relnamespace = 'embed'::regnamespace AND c.relkind = 'v' AND c.relname NOT LIKE '\\_%'"
        " OR c.relname = 'docs_embedding' AND a.attname <> 'id')"
    ).fetchall()
    assert found == []


def test_every_role_says_what_it_may(db: Connection) -> None:
    found = db.execute(
        "SELECT rolname FROM pg_roles WHERE rolname IN ('embed_reader', 'embed_owner', 'embed_worker')"
        " AND shobj_description(oid, 'pg_authid') LIKE 'pg_embed: may %'"
    ).fetchall()
    assert len(found) == 3


@pytest.mark.parametrize("storage", ["column", "table"])
def test_making_and_dropping_a_vectorizer_tells_of_nothing_that_was_not_there(
    db: Connection, storage: str
) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    told: list[str | None] = []
    db.add_notice_handler(lambda notice: told.append(notice.message_primary))
    db.execute("SELECT embed.create_vectorizer('docs', 'body', name => 'docs', storage => %s)", [storage])
    db.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', name => 'docs', storage => %s)", [storage])
    db.execute("SELECT embed.drop_vectorizer('docs')")
    assert told == []


def test_every_function_says_its_volatility_and_whether_it_is_parallel() -> None:
    files = [*(sql_dir() / "functions").glob("*.sql"), *(sql_dir() / "transports").glob("*.sql")]
    for file in files:
        text = file.read_text(encoding="utf-8")
        for head in re.findall(r"(?s)CREATE OR REPLACE FUNCTION (embed\..*?)\nAS ", text):
            assert re.search(r"\b(VOLATILE|STABLE|IMMUTABLE)\b", head), f"{file.name}: {head}"
            assert re.search(r"\bPARALLEL (SAFE|UNSAFE|RESTRICTED)\b", head), f"{file.name}: {head}"


def test_public_may_execute_nothing_of_ours(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    found = db.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p, aclexplode(coalesce(p.proacl,"
        " acldefault('f', p.proowner))) AS a"
        " WHERE p.pronamespace = 'embed'::regnamespace AND a.grantee = 0"
    ).fetchall()
    assert found == []


def test_public_may_read_nothing_of_ours(db: Connection) -> None:
    found = db.execute(
        "SELECT c.relname FROM pg_class AS c, aclexplode(c.relacl) AS a"
        " WHERE c.relnamespace = 'embed'::regnamespace AND a.grantee = 0"
    ).fetchall()
    assert found == []
    assert not value(db, "SELECT has_schema_privilege('public', 'embed', 'USAGE')")


@pytest.mark.parametrize("schema", ["public", "mine", "pg_temp"])
def test_functions_operators_and_types_of_others_are_not_taken(
    db: Connection, owner: Role, attacker: Connection, schema: str
) -> None:
    attacker.execute(LEAK.format(schema=schema))
    attacker.execute(f"SET search_path = {schema}, pg_catalog, public")
    for name, arguments, result in (
        ("format", "text, VARIADIC text[]", "text"),
        ("array_agg", "text", "text[]"),
        ("clock_timestamp", "", "timestamptz"),
        ("now", "", "timestamptz"),
        ("pg_notify", "text, text", "void"),
        ("quote_ident", "text", "text"),
        ("current_setting", "text, boolean", "text"),
        ("hashtext", "text", "integer"),
        ("length", "text", "integer"),
        ("pg_try_advisory_lock_shared", "integer, integer", "boolean"),
        ("pg_get_indexdef", "integer, integer, boolean", "text"),
        ("to_regclass", "text", "regclass"),
        ("gen_random_uuid", "", "uuid"),
    ):
        body = (
            f"SELECT {schema}.leak(); SELECT NULL::{result}"
            if result != "void"
            else f"SELECT {schema}.leak()::void"
        )
        if result == "void":
            body = f"SELECT {schema}.leak()"
        attacker.execute(
            f"CREATE FUNCTION {schema}.{name}({arguments}) RETURNS {'text' if result == 'void' else result}"
            f" LANGUAGE sql AS $$ {body} $$"
        )
    for symbol, left, right in (
        ("=", "integer", "integer"),
        ("=", "text", "text"),
        ("<=", "timestamptz", "timestamptz"),
        ("+", "timestamptz", "interval"),
        ("||", "text", "text"),
        ("=", "oid", "oid"),
        ("=", "oid", "regclass"),
    ):
        result = {"=": "boolean", "<=": "boolean", "+": "timestamptz", "||": "text"}[symbol]
        name = f"op_{abs(hash((symbol, left, right)))}"
        attacker.execute(
            f"CREATE FUNCTION {schema}.{name}({left}, {right}) RETURNS {result} LANGUAGE sql"
            f" AS $$ SELECT {schema}.leak(); SELECT NULL::{result} $$"
        )
        attacker.execute(
            f"CREATE OPERATOR {schema}.{symbol} (FUNCTION = {schema}.{name}, LEFTARG ="
            f" {left}, RIGHTARG = {right})"
        )
    for name in ("bigint", "text", "regclass", "interval", "jsonb"):
        attacker.execute(
            f'CREATE DOMAIN {schema}."{name}" AS pg_catalog.text CHECK ({schema}.leak() IS NOT NULL)'
        )
    attacker.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body pg_catalog.text)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    attacker.execute("INSERT INTO mine.docs VALUES (1, 'one')")
    attacker.execute("UPDATE mine.docs SET body = 'two'")
    attacker.execute("SELECT * FROM embed.status('mine.docs')")
    attacker.execute("SELECT * FROM embed.failures('mine.docs')")
    attacker.execute("SELECT * FROM embed.why('mine.docs', '1')")
    with pytest.raises(psycopg.Error):
        attacker.execute("SELECT embed.wait('mine.docs', '0')")
    with pytest.raises(psycopg.Error):
        attacker.execute("SELECT embed.embed('x')")
    attacker.execute("SELECT embed.retry('mine.docs')")
    attacker.execute("SELECT embed.drop_vectorizer('mine.docs')")
    assert not leaked(db)


@pytest.mark.parametrize(
    "column",
    [
        "id $body$ LANGUAGE plpgsql; CREATE TABLE public.leaked (a int); --",
        "id $function$; CREATE TABLE public.leaked (a int); --",
        "id'); CREATE TABLE public.leaked (a int); --",
        "id', false) IS NULL; CREATE TABLE public.leaked (a int); --",
        "$1",
        "%s %I %L",
        "/* */ --",
    ],
)
def test_a_column_s_name_does_not_break_out(
    db: Connection, owner: Role, attacker: Connection, column: str
) -> None:
    quoted = '"' + column.replace('"', '""') + '"'
    attacker.execute(f"CREATE TABLE mine.docs ({quoted} int PRIMARY KEY, body text)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    attacker.execute("INSERT INTO mine.docs VALUES (1, 'one')")
    attacker.execute("UPDATE mine.docs SET body = 'two'")
    attacker.execute(f"ALTER TABLE mine.docs RENAME {quoted} TO other")
    attacker.execute("INSERT INTO mine.docs VALUES (2, 'two')")
    attacker.execute(f"ALTER TABLE mine.docs RENAME other TO {quoted}")
    assert queued(db) == ["1", "1", "2"]
    assert not leaked(db)


def test_a_vectorizer_s_name_does_not_break_out(db: Connection, owner: Role, attacker: Connection) -> None:
    name = "v'; $body$; $function$; CREATE TABLE public.leaked (a int); --"
    attacker.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body', name => %s)", [name])
    attacker.execute("INSERT INTO mine.docs VALUES (1, 'one')")
    assert queued(db, name) == ["1"]
    assert not leaked(db)


def test_a_key_of_an_enum_with_a_cast_of_its_owner_s_is_written_by_postgres_itself(
    db: Connection, owner: Role, attacker: Connection
) -> None:
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute("CREATE TYPE mine.mood AS ENUM ('sad', 'happy')")
    attacker.execute(
        "CREATE FUNCTION mine.cast(mine.mood) RETURNS text LANGUAGE sql AS $$ SELECT mine.leak() $$"
    )
    attacker.execute("CREATE TABLE mine.docs (id mine.mood PRIMARY KEY, n int, body text)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    attacker.execute("CREATE CAST (mine.mood AS text) WITH FUNCTION mine.cast(mine.mood) AS ASSIGNMENT")
    attacker.execute("INSERT INTO mine.docs VALUES ('sad', 1, 'one')")
    attacker.execute("UPDATE mine.docs SET body = 'two'")
    attacker.execute("ALTER TABLE mine.docs RENAME id TO renamed")
    attacker.execute("INSERT INTO mine.docs VALUES ('happy', 1, 'two')")
    attacker.execute("UPDATE mine.docs SET body = 'three' WHERE renamed = 'happy'")
    assert queued(db) == ["sad", "sad", "happy", "happy"]
    assert not leaked(db)


def test_a_composite_key_has_the_same_guard(db: Connection, owner: Role, attacker: Connection) -> None:
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute("CREATE TYPE mine.mood AS ENUM ('sad', 'happy')")
    attacker.execute(
        "CREATE FUNCTION mine.cast(mine.mood) RETURNS text LANGUAGE sql AS $$ SELECT mine.leak() $$"
    )
    attacker.execute("CREATE TABLE mine.docs (a mine.mood, b int, body text, PRIMARY KEY (b, a))")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    attacker.execute("CREATE CAST (mine.mood AS text) WITH FUNCTION mine.cast(mine.mood) AS ASSIGNMENT")
    attacker.execute("INSERT INTO mine.docs VALUES ('sad', 1, 'one')")
    assert queued(db) == ['["1", "sad"]']
    assert not leaked(db)


@pytest.mark.parametrize("key", ["bigint", "text", "uuid"])
def test_a_key_that_is_given_a_type_of_its_owner_s_is_not_cast(
    db: Connection, owner: Role, attacker: Connection, key: str
) -> None:
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute("CREATE TYPE mine.evil AS (a int)")
    for target, answer in (("text", "'1'::text"), ("bigint", "1::bigint"), ("uuid", "gen_random_uuid()")):
        attacker.execute(
            f"CREATE FUNCTION mine.to_{target}(mine.evil) RETURNS {target} LANGUAGE sql"
            f" AS $$ SELECT mine.leak(); SELECT {answer} $$"
        )
        attacker.execute(
            f"CREATE CAST (mine.evil AS {target}) WITH FUNCTION mine.to_{target}(mine.evil) AS IMPLICIT"
        )
    attacker.execute(f"CREATE TABLE mine.docs (id {key} PRIMARY KEY, body text)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    identity = value(db, "SELECT id FROM embed._vectorizer")
    attacker.execute(f"DROP TRIGGER pg_embed_{identity}_update ON mine.docs")
    attacker.execute("ALTER TABLE mine.docs ALTER id TYPE mine.evil USING ROW(1)::mine.evil")
    attacker.execute("INSERT INTO mine.docs VALUES (ROW(2), 'two')")
    attacker.execute(
        f"CREATE TRIGGER again BEFORE INSERT ON mine.docs FOR EACH ROW EXECUTE FUNCTION"
        f" embed._enqueue_{identity}()"
    )
    attacker.execute("INSERT INTO mine.docs VALUES (ROW(4), 'four')")
    assert refused(attacker, f"SELECT embed._build_trigger_function({identity})")[0] == "PE003"
    attacker.execute("INSERT INTO mine.docs VALUES (ROW(5), 'five')")
    assert not leaked(db)
    db.execute("SELECT embed._tend_v1()")
    assert value(db, "SELECT state FROM embed.vectorizers") == "stopped"
    attacker.execute("INSERT INTO mine.docs VALUES (ROW(3), 'three')")
    assert not leaked(db)


def test_a_key_of_a_user_s_own_type_is_refused(db: Connection, owner: Role, attacker: Connection) -> None:
    attacker.execute("CREATE TYPE mine.pair AS (a int, b int)")
    attacker.execute("CREATE DOMAIN mine.twin AS mine.pair")
    for kind in ("mine.pair", "mine.twin", "public.vector(3)"):
        attacker.execute(f"CREATE TABLE mine.docs (id {kind} PRIMARY KEY, body text)")
        state, message, hint = refused(attacker, "SELECT embed.create_vectorizer('mine.docs', 'body')")
        assert state == "PE003"
        assert kind in message
        assert "enums" in hint
        attacker.execute("DROP TABLE mine.docs")


@pytest.mark.parametrize(
    ("filter", "word"),
    [
        ("mine.steal(body)", "mine.steal(text)"),
        ("body OPERATOR(mine.~) body", "mine.steal_both(text,text)"),
        ("body::mine.checked <> ''", "mine.checked"),
        ("'{x}'::mine.checked[] <> ARRAY[body::mine.checked]", "mine.checked"),
        ("quote_literal(kind) = 'x'", "quote_literal(anyelement)"),
    ],
)
def test_a_filter_runs_no_code_of_its_owner_s(
    db: Connection, attacker: Connection, filter: str, word: str
) -> None:
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute(
        "CREATE FUNCTION mine.steal(text) RETURNS boolean LANGUAGE sql AS $$ SELECT mine.leak() = 'x' $$;"
        "CREATE FUNCTION mine.steal_both(text, text) RETURNS boolean LANGUAGE sql"
        " AS $$ SELECT mine.steal($1) $$;"
        "CREATE OPERATOR mine.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.steal_both);"
        "CREATE DOMAIN mine.checked AS text CHECK (mine.steal(VALUE));"
        "CREATE TYPE mine.kind AS ENUM ('a');"
        "CREATE TABLE mine.docs (id int PRIMARY KEY, body text, kind mine.kind)"
    )
    state, message, hint = refused(
        attacker, "SELECT embed.create_vectorizer('mine.docs', 'body', filter => %s)", filter
    )
    assert state == "PE003"
    assert word in message
    assert "column of the table" in hint
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body', filter => $$kind = 'a'$$)")


def test_a_filter_that_is_written_into_the_catalog_is_read_as_any_other(attacker: Connection) -> None:
    attacker.execute(
        "CREATE FUNCTION mine.steal(text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;"
        "CREATE TABLE mine.docs (id int PRIMARY KEY, body text)"
    )
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body', filter => 'id > 1')")
    update = "UPDATE embed._vectorizer SET filter = %s::jsonb"
    state, message, _ = refused(attacker, update, '["mine.steal(", 2, ")"]')
    assert state == "PE003"
    assert "mine.steal(text)" in message
    assert refused(attacker, update, '["true) OR (mine.steal(", 2, ")"]')[0] == "PE003"
    attacker.execute(update, ['["2 < ", 1]'])
    assert value(attacker, "SELECT filter FROM embed.vectorizers") == "(2 < id)"
    attacker.execute("SELECT embed.alter_vectorizer('mine.docs', rename_to => 'other')")


def test_a_function_that_its_owner_added_to_an_extension_is_his_all_the_same(
    db: Connection, attacker: Connection
) -> None:
    attacker.execute(
        "CREATE FUNCTION mine.steal(text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;"
        "CREATE TABLE mine.docs (id int PRIMARY KEY, body text)"
    )
    db.execute("ALTER EXTENSION vector ADD FUNCTION mine.steal(text)")
    call = "SELECT embed.create_vectorizer('mine.docs', 'body', filter => 'mine.steal(body)')"
    assert refused(attacker, call)[0] == "PE003"
    db.execute("ALTER EXTENSION vector DROP FUNCTION mine.steal(text)")


def test_a_text_of_an_enum_with_a_cast_of_its_owner_s_is_read_by_postgres_itself(
    db: Connection, attacker: Connection, dsn: str, start_worker: StartWorker
) -> None:
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute("CREATE TYPE mine.kind AS ENUM ('a', 'b')")
    attacker.execute(
        "CREATE FUNCTION mine.to_text(mine.kind) RETURNS text LANGUAGE plpgsql AS $$"
        " BEGIN CREATE TABLE public.leaked (); RETURN 'x'; END $$;"
        "CREATE CAST (mine.kind AS text) WITH FUNCTION mine.to_text(mine.kind);"
        "CREATE TABLE mine.docs (id int PRIMARY KEY, kind mine.kind)"
    )
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'kind')")
    attacker.execute("INSERT INTO mine.docs VALUES (1, 'a')")
    start_worker(dsn)
    db.execute("SELECT embed.wait('mine.docs')")
    assert value(db, "SELECT count(embedding) FROM mine.docs") == 1
    assert not leaked(db)


def test_the_trigger_function_works_on_no_other_table(
    db: Connection, owner: Role, attacker: Connection
) -> None:
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute("CREATE TYPE mine.evil AS (a int)")
    attacker.execute(
        "CREATE FUNCTION mine.to_bigint(mine.evil) RETURNS bigint LANGUAGE sql AS $$"
        " SELECT mine.leak(); SELECT 1::bigint $$"
    )
    attacker.execute("CREATE CAST (mine.evil AS bigint) WITH FUNCTION mine.to_bigint(mine.evil) AS IMPLICIT")
    attacker.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
    attacker.execute("CREATE TABLE mine.parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    attacker.execute("CREATE TABLE mine.other (id mine.evil) PARTITION BY LIST (id)")
    attacker.execute("CREATE TABLE mine.other_rest PARTITION OF mine.other DEFAULT")
    attacker.execute("CREATE TABLE mine.trap (id mine.evil)")
    for table in ("docs", "parts"):
        attacker.execute(f"SELECT embed.create_vectorizer('mine.{table}', 'body')")
    for (identity,) in db.execute("SELECT id FROM embed._vectorizer").fetchall():
        for table in ("trap", "other"):
            attacker.execute(
                f"CREATE TRIGGER t{identity} AFTER INSERT ON mine.{table} FOR EACH ROW"
                f" EXECUTE FUNCTION embed._enqueue_{identity}()"
            )
            state, message, _ = refused(attacker, f"INSERT INTO mine.{table} VALUES (ROW(1))")
            assert state == "42501"
            assert "another table" in message
            attacker.execute(f"DROP TRIGGER t{identity} ON mine.{table}")
    assert not leaked(db)


def test_another_owner_may_not_use_the_trigger_function(
    db: Connection, attacker: Connection, make_role: MakeRole
) -> None:
    attacker.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    identity = value(db, "SELECT id FROM embed._vectorizer")
    other = make_role("embed_owner")
    assert not value(
        db, "SELECT has_function_privilege(%s, %s, 'EXECUTE')", other.name, f"embed._enqueue_{identity}()"
    )


def make_evil(attacker: Connection) -> None:
    """A type of the owner's, whose casts leave a mark."""
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute("CREATE TYPE mine.evil AS (a int)")
    for target in ("text", "bigint"):
        attacker.execute(
            f"CREATE FUNCTION mine.to_{target}(mine.evil) RETURNS {target} LANGUAGE sql"
            f" AS $$ SELECT mine.leak(); SELECT '1'::{target} $$;"
            f"CREATE CAST (mine.evil AS {target}) WITH FUNCTION mine.to_{target}(mine.evil)"
        )


def drop_triggers(attacker: Connection, table: str) -> None:
    """Remove every trigger of a table's, as its owner may."""
    for (name,) in attacker.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal", [table]
    ).fetchall():
        attacker.execute(f"DROP TRIGGER {name} ON {table}")


@pytest.mark.parametrize("kind", ["VIEW", "TABLE"])
def test_a_trigger_without_its_transition_table_reads_none_of_its_owner_s(
    db: Connection, attacker: Connection, kind: str
) -> None:
    attacker.execute(LEAK.format(schema="mine"))
    attacker.execute(
        "CREATE FUNCTION mine.one() RETURNS int LANGUAGE sql AS $$ SELECT mine.leak(); SELECT 1 $$"
    )
    attacker.execute("CREATE TABLE mine.docs (body text, id int PRIMARY KEY)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    identity = value(db, "SELECT id FROM embed._vectorizer")
    if kind == "VIEW":
        attacker.execute("CREATE TEMPORARY VIEW pg_embed_new AS SELECT mine.one() AS id")
    else:
        attacker.execute("CREATE TEMPORARY TABLE pg_embed_new AS SELECT 77 AS id")
    attacker.execute("INSERT INTO mine.docs VALUES ('one', 1)")
    attacker.execute(
        "CREATE TRIGGER again AFTER INSERT ON mine.docs FOR EACH STATEMENT"
        f" EXECUTE FUNCTION embed._enqueue_{identity}()"
    )
    assert refused(attacker, "INSERT INTO mine.docs VALUES ('two', 2)")[0] == "42703"
    assert queued(db) == ["1"]
    assert not leaked(db)


@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_the_trigger_function_works_on_no_table_of_chunks(
    db: Connection, attacker: Connection, level: str
) -> None:
    make_evil(attacker)
    attacker.execute("CREATE TABLE mine.docs (body text, id int PRIMARY KEY)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body', storage => 'table')")
    identity = value(db, "SELECT id FROM embed._vectorizer")
    attacker.execute("DROP VIEW mine.docs_chunks; DROP POLICY rows_of_the_source ON mine.docs_embedding")
    attacker.execute("ALTER TABLE mine.docs_embedding ALTER id TYPE mine.evil USING ROW(1)::mine.evil")
    attacker.execute(
        "CREATE TRIGGER t AFTER INSERT ON mine.docs_embedding"
        f"{' REFERENCING NEW TABLE AS pg_embed_new' if level == 'STATEMENT' else ''}"
        f" FOR EACH {level} EXECUTE FUNCTION embed._enqueue_{identity}()"
    )
    insert = (
        "INSERT INTO mine.docs_embedding (id, chunk_no, chunk, context, chunk_hash)"
        " VALUES (ROW(1), 1, '', '', 1)"
    )
    state, message, _ = refused(attacker, insert)
    assert (state, message) == ("42501", "this trigger function belongs to another table")
    assert not leaked(db)


def test_a_key_that_is_not_the_primary_one_is_read_by_no_place(db: Connection, attacker: Connection) -> None:
    make_evil(attacker)
    attacker.execute("CREATE TABLE mine.docs (n int, id int PRIMARY KEY, body text)")
    attacker.execute("SELECT embed.create_vectorizer('mine.docs', 'body')")
    identity = value(db, "SELECT id FROM embed._vectorizer")
    attacker.execute("UPDATE embed._vectorizer SET key_columns = '{1}'")
    attacker.execute(f"SELECT embed._build_trigger_function({identity})")
    attacker.execute("ALTER TABLE mine.docs ALTER n TYPE mine.evil USING ROW(1)::mine.evil")
    attacker.execute("INSERT INTO mine.docs VALUES (ROW(1), 1, 'one')")
    assert not leaked(db)


@pytest.mark.parametrize("column", ["id", "words"])
@pytest.mark.parametrize("remade", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
def test_postings_read_no_type_of_the_table_s_owner(
    db: Connection, attacker: Connection, column: str, remade: bool, renamed: bool
) -> None:
    make_evil(attacker)
    create_fake_model(db, "both", sparse_dimensions=1000)
    attacker.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
    attacker.execute(
        "SELECT embed.create_vectorizer('mine.docs', 'body', model => 'both', sparse_column => 'words')"
    )
    attacker.execute("SELECT embed.create_postings('mine.docs')")
    identity = value(db, "SELECT id FROM embed._vectorizer")
    drop_triggers(attacker, "mine.docs")
    attacker.execute(f"ALTER TABLE mine.docs ALTER {column} TYPE mine.evil USING ROW(1)::mine.evil")
    if remade:
        assert refused(attacker, f"SELECT embed._build_postings({identity})")[0] == "PE003"
    if renamed:
        attacker.execute(f"ALTER TABLE mine.docs RENAME {column} TO other")
    attacker.execute(
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON mine.docs FOR EACH ROW"
        f" EXECUTE FUNCTION embed._post_{identity}()"
    )
    values = "ROW(1), 'one', NULL, '{1:1}/1000'" if column == "id" else "1, 'one', NULL, ROW(1)"
    attacker.execute(f"INSERT INTO mine.docs VALUES ({values})")
    assert not leaked(db)


def test_postings_of_chunks_read_no_rows_of_the_table(db: Connection, attacker: Connection) -> None:
    make_evil(attacker)
    create_fake_model(db, "both", sparse_dimensions=1000)
    attacker.execute("CREATE TABLE mine.docs (id int PRIMARY KEY, body text)")
    attacker.execute(
        "SELECT embed.create_vectorizer('mine.docs', 'body', model => 'both', sparse_column => 'words',"
        " storage => 'table')"
    )
    attacker.execute("SELECT embed.create_postings('mine.docs')")
    attacker.execute("ALTER TABLE mine.docs ADD chunk_id mine.evil, ADD words mine.evil")
    identity = value(db, "SELECT id FROM embed._vectorizer")
    attacker.execute(
        f"CREATE TRIGGER t BEFORE INSERT ON mine.docs FOR EACH ROW EXECUTE FUNCTION embed._post_{identity}()"
    )
    assert refused(attacker, "INSERT INTO mine.docs VALUES (1, 'one', ROW(1), ROW(2))")[0] == "42501"
    assert not leaked(db)
