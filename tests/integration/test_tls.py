"""A server that demands TLS: who does not fit it is told what to do; the loopback's password stays secret."""

from __future__ import annotations

import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import trustme
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_embed.client import AsyncClient, Client
from pg_embed.engine import Engine
from pg_embed.errors import DatabaseError
from pg_embed.install import install, uninstall
from pg_embed.install.doctor import examine
from pg_embed.models.registry import default_registry
from pg_embed.worker import Worker
from tests.acceptance.command import pg_embed, succeeds
from tests.fix_models import PATIENCE
from tests.fix_pgbouncer import StartPooler
from tests.fix_serve import RunningSidecar, dblink_place
from tests.fix_tls import MD5_LOGIN, TRUSTED_LOGIN, TlsServer
from tests.fix_worker import StartWorker, broken_rows, create_docs, create_fake_model, insert_docs
from tests.sql.helpers import value

pytestmark = pytest.mark.dblink
BOUND = {"sslmode": "require", "channel_binding": "require"}
ELSEWHERE = "127.0.0.2"  # not known as the server itself
SSL_REQUEST = struct.pack("!i", 80877103)
PASSWORD_PLEASE = struct.pack("!cii", b"R", 8, 3)  # AuthenticationCleartextPassword
WRONG = ["wrong root", "other name", "expired", "no file", "no TLS"]


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, tls_server: TlsServer, tls_dsn: str) -> Iterator[tuple[str, str]]:
    """A connection string that TLS prevents, and what the advice says."""
    if request.param == "wrong root":
        yield make_conninfo(tls_dsn, sslrootcert=str(tls_server.other_root)), "present root certificates"
    elif request.param == "other name":
        yield make_conninfo(tls_dsn, host="127.0.0.1"), "the DSN as host"
    elif request.param == "no file":
        yield make_conninfo(tls_dsn, sslrootcert="/nowhere/root.crt"), "download"
    elif request.param == "no TLS":
        yield make_conninfo(tls_dsn, sslmode="disable"), "sslmode=verify-full"
    else:
        assert tls_server.expired is not None
        with tls_server.presenting(tls_server.expired):
            yield tls_dsn, "its time is over"


async def test_who_cannot_connect_is_told_what_to_do(wrong: tuple[str, str]) -> None:
    dsn, advice = wrong
    with Client(dsn) as client, pytest.raises(DatabaseError) as by_client:
        client.search("docs", "x")
    async with AsyncClient(dsn) as other:
        with pytest.raises(DatabaseError) as by_other:
            await other.search("docs", "x")
    engine = Engine(default_registry())
    with pytest.raises(DatabaseError) as by_worker:
        await Worker(dsn, engine).run()
    await engine.close()
    for caught in (by_client, by_other, by_worker):
        assert advice in (caught.value.hint or "")
    (check,) = examine(dsn)
    assert advice in (check.advice or "")


@pytest.mark.parametrize(
    ("wrong", "command"),
    [("expired", ("worker",)), ("other name", ("serve", "--mailbox")), ("wrong root", ("status",))],
    indirect=["wrong"],
)
def test_commands_say_it_in_two_lines(wrong: tuple[str, str], command: tuple[str, ...]) -> None:
    dsn, advice = wrong
    done = pg_embed(*command, dsn)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: connection failed")
    assert hint.startswith("hint: ")
    assert advice in hint


def test_a_worker_waits_for_a_certificate_that_is_renewed(
    tls_server: TlsServer, tls_dsn: str, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    install(tls_dsn, transport="none")
    assert tls_server.expired is not None
    with psycopg.connect(tls_dsn, autocommit=True) as db:
        create_fake_model(db)
        create_docs(db, "returns")
        db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
        start_worker(tls_dsn)
        db.execute("SELECT embed.wait('docs')")
        with tls_server.presenting(tls_server.expired):
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            deadline = time.monotonic() + PATIENCE
            while "the database was lost: connection failed" not in caplog.text:
                assert time.monotonic() < deadline, "the worker was not refused"
                time.sleep(0.05)
        insert_docs(db, "shipping")
        db.execute("SELECT embed.wait('docs')")
        assert broken_rows(db, "docs") == []


def loopback(dsn: str) -> dict[str, Any]:
    """What the foreign server asks of TLS."""
    with psycopg.connect(dsn) as db:
        options = value(db, "SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'pg_embed_loopback'")
    words = dict(option.split("=", 1) for option in options)
    return {name: words[name] for name in BOUND if name in words}


@pytest.mark.parametrize("sslmode", ["verify-full", "prefer"])
def test_the_loopback_wants_the_server_s_proof(tls_dsn: str, sslmode: str) -> None:
    dsn = make_conninfo(tls_dsn, sslmode=sslmode)
    assert install(dsn, transport="dblink").notices == ()
    assert loopback(dsn) == BOUND
    told = next(check for check in examine(dsn) if check.name == "transport")
    assert told.state == "ok"
    assert "channel_binding require" in told.found
    with RunningSidecar(dblink_place(dsn).serve), psycopg.connect(dsn, autocommit=True) as db:
        create_fake_model(db)
        assert value(db, "SELECT vector_dims(embed('x', 'fake'))") == 4
        assert value(
            db,
            "SELECT s.ssl FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)"
            " WHERE a.application_name = 'pg_embed loopback' AND a.datname = current_database()",
        )


def test_a_password_is_never_kept_as_md5(tls_dsn: str) -> None:
    with psycopg.connect(tls_dsn, autocommit=True) as db:
        db.execute(f"ALTER DATABASE {db.info.dbname} SET password_encryption = 'md5'")
    assert install(tls_dsn, transport="dblink").notices == ()
    assert loopback(tls_dsn) == BOUND


@pytest.mark.parametrize(
    ("sslmode", "login", "least"),
    [
        ("verify-full", MD5_LOGIN, {"sslmode": "require"}),
        ("require", TRUSTED_LOGIN, {"sslmode": "require"}),
        ("prefer", MD5_LOGIN, {}),
        ("prefer", TRUSTED_LOGIN, {}),
    ],
)
def test_without_a_proof_it_asks_what_the_installer_asks(
    tls_dsn: str, sslmode: str, login: str, least: dict[str, str]
) -> None:
    dsn = make_conninfo(tls_dsn, sslmode=sslmode)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("SET password_encryption = 'md5'")
        db.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x'")
        try:
            settings = {"loopback_user": login, "loopback_password": "x"}
            assert install(dsn, transport="dblink", settings=settings).notices == ()
            assert loopback(dsn) == least
        finally:
            db.execute(f"DROP OWNED BY {login}")
            db.execute(f"DROP ROLE {login}")


def test_a_server_without_tls_reaches_itself_all_the_same(bare_dsn15: str) -> None:
    """As behind a pooler that has TLS; here the DSN's demand is void because it leads to a Unix socket."""
    dsn = make_conninfo(bare_dsn15, sslmode="verify-full")
    if not str(conninfo_to_dict(dsn)["host"]).startswith("/"):
        pytest.skip("the second server was given, and not by its socket")
    assert install(dsn, transport="dblink").notices == ()
    assert loopback(dsn) == {}
    uninstall(dsn)


def test_a_loopback_of_an_older_version_is_kept_until_dblink_is_named_anew(tls_dsn: str) -> None:
    install(tls_dsn, transport="dblink")
    with psycopg.connect(tls_dsn, autocommit=True) as db:
        db.execute("ALTER SERVER pg_embed_loopback OPTIONS (DROP sslmode, DROP channel_binding)")
        db.execute("UPDATE embed._transport SET settings = settings - '{sslmode,channel_binding}'::text[]")
        assert install(tls_dsn).transport == "dblink"
        assert loopback(tls_dsn) == {}
        assert value(db, "SELECT embed._loopback_problem()") is None
        assert install(tls_dsn, transport="dblink").transport == "dblink"
        assert loopback(tls_dsn) == BOUND
        assert value(db, "SELECT embed._loopback_problem()") is None


@pytest.mark.parametrize(
    ("sslmode", "has_tls", "is_told"),
    [
        ("verify-full", True, False),
        ("verify-full", False, False),
        ("require", False, False),
        ("require", True, True),  # libpq's "require" encrypts, for whomever
        ("prefer", False, True),
    ],
)
def test_who_stands_in_between_learns_no_password_that_the_dsn_guards(
    tls_dsn: str, sslmode: str, has_tls: bool, is_told: bool
) -> None:
    dsn = make_conninfo(tls_dsn, sslmode=sslmode)
    with between(has_tls) as (port, heard):
        settings = {"loopback_host": ELSEWHERE, "loopback_port": str(port)}
        (notice,) = install(dsn, transport="dblink", settings=settings).notices
        assert "the server does not reach itself" in notice
    with psycopg.connect(dsn) as db:
        told = value(db, "SELECT umoptions::text FROM pg_user_mappings WHERE srvname = 'pg_embed_loopback'")
    assert [password in told for password in heard] == [True] * is_told


@contextmanager
def between(has_tls: bool) -> Iterator[tuple[int, list[str]]]:
    """Somebody in the server's place who asks for passwords in plain words: the port, and what was heard."""
    heard: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    class Asking(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            first = message(self.request)
            if first != SSL_REQUEST:
                self.ask(self.request, first)
            elif has_tls:
                self.request.sendall(b"S")
                with context.wrap_socket(self.request, server_side=True) as encrypted:
                    self.ask(encrypted, message(encrypted))
            else:
                self.request.sendall(b"N")
                self.ask(self.request, message(self.request))

        def ask(self, connection: socket.socket, first: bytes) -> None:
            if first:  # its names, and not the end
                connection.sendall(PASSWORD_PLEASE)
                heard.extend(filter(None, [message(connection, b"p").rstrip(b"\0").decode()]))

    with socketserver.TCPServer((ELSEWHERE, 0), Asking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], heard
        finally:
            server.shutdown()
            thread.join()


def message(connection: socket.socket, kind: bytes = b"") -> bytes:
    """The body of a client's next message; nothing if it has hung up instead."""
    with connection.makefile("rb") as stream:
        head = stream.read(len(kind) + 4)
        return stream.read(struct.unpack("!i", head[len(kind) :])[0] - 4) if head else b""


def test_poolers_with_tls_on_both_sides(
    tls_dsn: str, start_tls_pooler: StartPooler, start_worker: StartWorker
) -> None:
    with psycopg.connect(tls_dsn, autocommit=True) as db:
        session = start_tls_pooler(tls_dsn, "session", 30)
        assert install(session, transport="dblink").notices == ()
        assert loopback(tls_dsn) == BOUND
        create_fake_model(db)
        create_docs(db, "returns", "shipping")
        db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
        pooled = start_tls_pooler(tls_dsn, "transaction")
        start_worker(session)
        with RunningSidecar(dblink_place(session).serve), Client(pooled) as client:
            client.wait("docs", timeout=60)
            assert [hit.row["body"] for hit in client.search("docs", "returns", k=1)] == ["returns"]
            assert "returns" in succeeds("search", "returns", "--table", "docs", "--dsn", pooled)
        assert value(
            db,
            "SELECT bool_and(s.ssl) FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)"
            " WHERE a.datname = current_database() AND a.client_addr IS NOT NULL",
        )
    with pytest.raises(DatabaseError) as caught:
        Client(make_conninfo(pooled, sslmode="disable")).search("docs", "x")
    assert "SSL" in str(caught.value)
