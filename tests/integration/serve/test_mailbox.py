"""The mailbox door on a real database, and what protects the mailbox."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fix_serve import (
    FAKE,
    SLOW,
    Place,
    RunningSidecar,
    call,
    dblink_place,
    failure,
    request,
    with_transport,
)

pytestmark = pytest.mark.dblink


@pytest.fixture
def place(dsn15: str) -> Iterator[Place]:
    with with_transport(dblink_place(dsn15)) as found:
        yield found


@pytest.fixture
def sidecar(place: Place) -> Iterator[RunningSidecar]:
    with place.sidecar() as running:
        yield running


@pytest.fixture
def session(place: Place) -> Iterator[psycopg.Connection[Any]]:
    with place.connect() as connection:
        yield connection


def answered(session: psycopg.Connection[Any]) -> bool:
    return "vectors" in call(session, request(["x"]))


def until_answered(session: psycopg.Connection[Any]) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            if answered(session):
                return
        except psycopg.Error as error:
            if error.sqlstate != "PE010":
                raise
    pytest.fail("the sidecar did not come back")


def test_a_sidecar_whose_connections_were_ended_comes_back(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    assert answered(session)
    ended = session.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'pg_embed mailbox'"
    ).fetchall()
    assert len(ended) == 2
    until_answered(session)


def test_a_loopback_that_was_ended_is_made_anew(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    assert answered(session)
    session.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'pg_embed loopback'"
    )
    assert answered(session)


def test_a_session_keeps_one_loopback(sidecar: RunningSidecar, session: psycopg.Connection[Any]) -> None:
    assert all(answered(session) for _ in range(5))
    row = session.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'pg_embed loopback'"
    ).fetchone()
    assert row == (1,)


def test_no_session_can_put_a_request_into_the_mailbox_by_itself(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    assert answered(session)
    row = session.execute("SELECT (embed_dblink.dblink_get_connections())[1]").fetchone()
    assert row is not None
    evil = request(["x"], model=FAKE)
    for forged in ("\\x00", None):
        put = psycopg.sql.SQL("SELECT 1 FROM embed._mailbox_put_v1({}, {}, {})").format(
            evil["id"], json.dumps(evil), forged
        )
        with pytest.raises(psycopg.Error) as raised:
            session.execute(
                "SELECT * FROM embed_dblink.dblink(%s, %s) AS r (x integer)", (row[0], put.as_string(session))
            )
        assert raised.value.sqlstate == "PE023"


def test_no_session_can_take_a_request_of_another_away(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    assert answered(session)
    (link,) = session.execute("SELECT embed_dblink.dblink_get_connections()").fetchone() or ([],)
    waiting = request(["x"])
    session.execute(
        "INSERT INTO embed._mailbox (id, request, taken_at) VALUES (%s, %s, now())",
        (waiting["id"], json.dumps(waiting)),
    )
    for forged in ("\\x00", None):
        take = psycopg.sql.SQL("SELECT embed._mailbox_wait_v1({}, {}, 0)").format(waiting["id"], forged)
        taken = session.execute(
            "SELECT * FROM embed_dblink.dblink(%s, %s) AS r (answer text)", (link[0], take.as_string(session))
        ).fetchall()
        assert taken == [(None,)]
    assert session.execute("SELECT id::text FROM embed._mailbox").fetchall() == [(waiting["id"],)]


def test_the_loopback_role_may_only_ask(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    row = session.execute("SELECT settings ->> 'role' FROM embed._transport").fetchone()
    assert row is not None
    session.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(row[0])))
    for statement in (
        "SELECT * FROM embed._mailbox",
        "SELECT * FROM embed._transport",
        "SELECT * FROM embed._mailbox_serve_v1('{}', '{}', '{}')",
        "SELECT embed._mailbox_seal('x')",
        "SELECT embed._call('{}', 1)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(psycopg.sql.SQL(statement))
    session.execute("RESET ROLE")


def test_functions_of_others_in_the_extensions_schema_are_not_called(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    session.execute("ALTER EXTENSION dblink SET SCHEMA public")
    for signature in (
        "dblink_is_busy(link varchar) RETURNS integer",
        "dblink_send_query(link varchar, question varchar) RETURNS integer",
        "dblink_connect(link varchar, server varchar) RETURNS text",
    ):
        session.execute(
            psycopg.sql.SQL("CREATE FUNCTION public." + signature + " LANGUAGE sql AS 'SELECT 1/0'")  # type: ignore[arg-type]
            if "integer" in signature
            else psycopg.sql.SQL(
                "CREATE FUNCTION public." + signature + " LANGUAGE sql AS 'SELECT (1/0)::text'"
            )  # type: ignore[arg-type]
        )
    # what fits better than functions and operators of Postgres that take any type, or others
    for signature in ("format(text, double precision)", "format(text, text)", "concat_ws(text, text, text)"):
        session.execute(
            psycopg.sql.SQL(
                f"CREATE FUNCTION public.{signature} RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text'"
            )  # type: ignore[arg-type]
        )
    for name, symbol, left, right, result in (
        ("told", "->>", "json", "json", "text"),
        ("part", "->", "json", "json", "json"),
        ("joined", "||", "uuid", "uuid", "text"),
        ("divided", "/", "double precision", "integer", "double precision"),
        ("added", "+", "double precision", "numeric", "double precision"),
    ):
        session.execute(
            f"CREATE FUNCTION public.{name}({left}, {right}) RETURNS {result} LANGUAGE sql"  # type: ignore[arg-type]
            f" AS 'SELECT (1/0)::text::{result}';"
            f"CREATE OPERATOR public.{symbol} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {name})"
        )
    session.execute("CREATE SCHEMA evil; SET search_path = evil, public, pg_catalog")
    session.execute("CREATE FUNCTION evil.length(text) RETURNS integer LANGUAGE sql AS 'SELECT 1/0'")
    session.execute(
        "CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text'"
    )
    assert answered(session)
    assert failure(session, request(["x"], model=SLOW), timeout=0.5).code == "PE011"
    session.execute("ALTER SERVER pg_embed_loopback OPTIONS (SET dbname 'nowhere')")
    assert "nowhere" in str(session.execute("SELECT embed._loopback_problem()").fetchone())


def test_a_dropped_extension_is_told(session: psycopg.Connection[Any]) -> None:
    session.execute("DROP EXTENSION dblink CASCADE")
    assert failure(session, request(["x"])).code == "PE013"
    session.execute("UPDATE embed._transport SET kind = 'none', settings = '{}'")


def test_noise_on_the_channel_does_no_harm(sidecar: RunningSidecar, session: psycopg.Connection[Any]) -> None:
    session.execute(
        "SELECT pg_notify('pg_embed_mailbox', x) FROM unnest(ARRAY['', 'noise', gen_random_uuid()::text]) x"
    )
    assert answered(session)


def test_requests_that_nobody_fetches_are_swept(place: Place, session: psycopg.Connection[Any]) -> None:
    session.execute(
        "INSERT INTO embed._mailbox (id, request, answer, taken_at, created_at) VALUES"
        " (gen_random_uuid(), '{}', '{}', now() - interval '2 minutes', now() - interval '2 minutes'),"
        " (gen_random_uuid(), '{}', NULL, now() - interval '2 hours', now() - interval '2 hours')"
    )
    with place.sidecar():
        assert answered(session)
    assert session.execute("SELECT count(*) FROM embed._mailbox").fetchone() == (0,)


def test_a_sidecar_takes_over_what_another_has_left(place: Place, session: psycopg.Connection[Any]) -> None:
    asked = request(["x"])
    session.execute(
        "INSERT INTO embed._mailbox (id, request, taken_at) VALUES (%s, %s, now() - interval '20 seconds')",
        (asked["id"], json.dumps(asked)),
    )
    with place.sidecar():
        deadline = time.monotonic() + 10
        while session.execute("SELECT 1 FROM embed._mailbox WHERE answer IS NOT NULL").fetchone() is None:
            assert time.monotonic() < deadline


def test_an_absent_database_is_an_error_at_the_start() -> None:
    from pg_embed.errors import DatabaseError
    from pg_embed.serve.settings import ServeSettings

    with pytest.raises(DatabaseError):
        RunningSidecar(ServeSettings(mailbox_dsn="host=127.0.0.1 port=1 dbname=none")).start()


def test_a_mailbox_that_cannot_be_served_is_tried_more_and_more_seldom(
    sidecar: RunningSidecar, session: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    session.execute("ALTER FUNCTION embed._mailbox_serve_v1(uuid[], text[], uuid[]) RENAME TO _served")
    asked = request(["x"])
    put = "INSERT INTO embed._mailbox (id, request) VALUES (%s, %s)"
    session.execute(put, [asked["id"], json.dumps(asked)])
    session.execute("SELECT pg_notify('pg_embed_mailbox', %s)", [asked["id"]])
    deadline = time.monotonic() + 15
    while len(waits := rests(caplog)) < 3:
        assert time.monotonic() < deadline, "the sidecar does not try"
        time.sleep(0.02)
    assert waits[0] < waits[1] < waits[2]
    session.execute("ALTER FUNCTION embed._served(uuid[], text[], uuid[]) RENAME TO _mailbox_serve_v1")
    while session.execute("SELECT FROM embed._mailbox WHERE answer IS NOT NULL").fetchone() is None:
        assert time.monotonic() < deadline, "the request was forgotten"


def rests(caplog: pytest.LogCaptureFixture) -> list[float]:
    """For how many seconds the mailbox meant to wait, each time."""
    found = [vars(record) for record in caplog.records]
    return [record["pg_embed_retry_in"] for record in found if record.get("event") == "door_failed"]
