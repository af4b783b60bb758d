"""An installation that belongs to an ordinary role, with no more than CREATE on the database."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pg_embed import install as installing
from pg_embed.errors import PgEmbedError
from tests.fix_pg import Server, fresh_database, role_maker
from tests.fix_worker import Connection, StartWorker, broken_rows, create_docs, create_fake_model, insert_docs
from tests.sql.helpers import refused, value


@pytest.fixture(params=["roles are there", "roles are not there"])
def owner_dsn(request: pytest.FixtureRequest, server: Server, bare_dsn: str) -> Iterator[str]:
    """The connection string of a role that may only CREATE in a database that has pgvector."""
    with psycopg.connect(bare_dsn, autocommit=True) as admin, role_maker(bare_dsn) as make:
        admin.execute("CREATE EXTENSION vector")
        role = make()
        admin.execute(f'GRANT CREATE ON DATABASE "{admin.info.dbname}" TO "{role.name}"')
        hidden = request.param == "roles are not there"
        renamed = (
            [(name, f"hidden_{name}") for name in ("embed_reader", "embed_owner", "embed_worker")]
            if hidden
            else []
        )
        present = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles").fetchall()}
        renamed = [(old, new) for old, new in renamed if old in present]
        for old, new in renamed:
            admin.execute(f"ALTER ROLE {old} RENAME TO {new}")
        try:
            yield role.dsn
        finally:
            for old, new in renamed:
                admin.execute(f"ALTER ROLE {new} RENAME TO {old}")


def test_an_ordinary_role_installs_works_and_removes(owner_dsn: str, start_worker: StartWorker) -> None:
    report = installing.install(owner_dsn)
    assert report.transport in ("none", "dblink")
    assert report.query_schema == "embed", "nobody but its owner may create in schema public"
    assert any("embed() stands in schema embed" in notice for notice in report.notices)
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA mine; SET search_path = mine, public")
        create_fake_model(owner)
        create_docs(owner, "one", "two")
        owner.execute("SELECT embed.create_vectorizer('docs', 'body')")
        start_worker(owner_dsn, tend_every=0.05)
        insert_docs(owner, "three")
        owner.execute("UPDATE docs SET body = 'changed' WHERE id = 1")
        owner.execute("SELECT embed.wait('docs')")
        assert broken_rows(owner, "docs") == []
        assert refused(owner, "SELECT embed.embed('x')")[0] == "PE013"
        owner.execute("SELECT embed.pause('docs'), embed.resume('docs'), embed.retry('docs')")
        owner.execute("SELECT embed.alter_vectorizer('docs', template => '{id} {body}')")
        owner.execute("SELECT embed.wait('docs')")
        assert broken_rows(owner, "docs", text="concat(id, ' ', body)") == []
        start_worker.end()
        again = installing.install(owner_dsn)
        assert again.revision == report.revision
        installing.uninstall(owner_dsn)
        assert value(owner, "SELECT count(embedding) FROM docs") == 3
        assert value(owner, "SELECT to_regnamespace('embed')") is None


def test_an_owner_of_the_installation_may_not_do_what_only_a_table_s_owner_may(
    owner_dsn: str, bare_db: Connection
) -> None:
    installing.install(owner_dsn)
    bare_db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        create_fake_model(owner)
        assert refused(owner, "SELECT embed.create_vectorizer('docs', 'body')")[0] == "42501"
    bare_db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        assert refused(owner, "SELECT embed.drop_vectorizer('docs')")[0] == "42501"
        owner.execute("SELECT embed.pause('docs')")


@pytest.mark.parametrize("made", ["CREATE SCHEMA embed", "an installation", "a function"])
def test_a_schema_of_somebody_else_s_is_not_installed_into(
    owner_dsn: str, bare_dsn: str, bare_db: Connection, made: str
) -> None:
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        if made == "an installation":
            installing.install(owner_dsn)
        elif made == "a function":
            bare_db.execute("CREATE SCHEMA embed; GRANT USAGE, CREATE ON SCHEMA embed TO PUBLIC")
            owner.execute(
                "CREATE FUNCTION embed._hash(text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'"
            )
        else:
            owner.execute(made)
    with pytest.raises(PgEmbedError, match="could take over") as caught:
        installing.install(bare_dsn)
    assert "REASSIGN OWNED" in (caught.value.hint or "")


def test_roles_that_come_later_get_their_rights_by_an_upgrade(
    server: Server, start_worker: StartWorker
) -> None:
    with fresh_database(server) as name:
        dsn = server.dsn(name)
        with psycopg.connect(dsn, autocommit=True) as admin:
            present = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles").fetchall()}
            if "embed_worker" in present:
                admin.execute("ALTER ROLE embed_worker RENAME TO hidden_embed_worker")
            try:
                admin.execute("CREATE EXTENSION vector")
                _make_without_worker_role(dsn, admin)
                admin.execute("CREATE ROLE embed_worker NOLOGIN")
                installing.install(dsn)
                assert value(
                    admin, "SELECT has_column_privilege('embed_worker', 'docs', 'embedding', 'UPDATE')"
                )
                assert not value(
                    admin, "SELECT has_column_privilege('embed_worker', 'docs', 'title', 'SELECT')"
                )
            finally:
                admin.execute("DROP OWNED BY embed_worker; DROP ROLE embed_worker")
                if "embed_worker" in present:
                    admin.execute("ALTER ROLE hidden_embed_worker RENAME TO embed_worker")


def _make_without_worker_role(dsn: str, admin: Connection) -> None:
    with role_maker(dsn) as make:
        creator = make()
        admin.execute(f'GRANT CREATE ON DATABASE "{admin.info.dbname}" TO "{creator.name}"')
        installing.install(make_conninfo(creator.dsn))
        create_fake_model(admin)
        create_docs(admin, "one")
        admin.execute("SELECT embed.create_vectorizer('docs', 'body')")
        admin.execute(f'REASSIGN OWNED BY "{creator.name}" TO postgres')


def test_a_function_embed_of_the_user_s_own_is_left_alone(bare_dsn: str, bare_db: Connection) -> None:
    bare_db.execute("CREATE EXTENSION vector")
    bare_db.execute(
        "CREATE FUNCTION public.embed(query text, model text DEFAULT NULL) RETURNS vector LANGUAGE sql"
        " AS $$ SELECT '[1,2]'::vector $$"
    )
    report = installing.install(bare_dsn)
    assert report.query_schema == "embed"
    assert any("embed() stands in schema embed" in notice for notice in report.notices)
    assert value(bare_db, "SELECT public.embed('x')::text") == "[1,2]"
    installing.uninstall(bare_dsn)
    assert value(bare_db, "SELECT public.embed('x')::text") == "[1,2]"
