"""The two servers that all other tests rely on."""

from __future__ import annotations

import psycopg
import pytest

from tests.fix_pg import MakeRole, Server
from tests.fix_second_server import SecondServer


def test_default_server_has_pgvector(bare_db: psycopg.Connection) -> None:
    bare_db.execute("CREATE EXTENSION vector")
    distance = bare_db.execute("SELECT '[1,2]'::vector <-> '[4,6]'::vector").fetchone()
    assert distance == (5.0,)


def test_every_test_has_a_database_of_its_own(
    server: Server, bare_dsn: str, bare_db: psycopg.Connection
) -> None:
    assert bare_db.info.dbname.startswith("test_")
    assert bare_db.info.dsn.split() != server.dsn().split()
    assert bare_db.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'embed'").fetchone() == (0,)


@pytest.mark.plpython
@pytest.mark.dblink
def test_second_server_has_all_extensions(bare_db15: psycopg.Connection) -> None:
    for extension in ("plpython3u", "dblink", "vector"):
        bare_db15.execute(f"CREATE EXTENSION {extension}")
    bare_db15.execute("DO LANGUAGE plpython3u 'plpy.execute(\"SELECT 1\")'")


@pytest.mark.dblink
def test_second_server_asks_for_a_password_by_tcp(server15: SecondServer) -> None:
    with psycopg.connect(server15.tcp_dsn()) as connection:
        assert connection.pgconn.used_password
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server15.dsn(host="127.0.0.1", password="wrong"))


def test_template_has_our_schema(db: psycopg.Connection, make_role: MakeRole) -> None:
    assert db.execute("SELECT to_regnamespace('embed') IS NOT NULL").fetchone() == (True,)
    role = make_role()
    with psycopg.connect(role.dsn) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role.name,)


def test_second_template_has_our_schema(db15: psycopg.Connection, make_role15: MakeRole) -> None:
    assert db15.execute("SELECT to_regnamespace('embed') IS NOT NULL").fetchone() == (True,)
    role = make_role15()
    with psycopg.connect(role.dsn) as connection:
        assert connection.pgconn.used_password
