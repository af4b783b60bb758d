"""A hot standby: searches and embed() work there as on its primary, and after a promotion workers do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_embed import db as our_db
from pg_embed.errors import DatabaseError
from pg_embed.install.doctor import Check, examine
from tests.faults.proxy import proxy
from tests.fix_models import PATIENCE
from tests.fix_pg import Server
from tests.fix_replicas import Standby, replayed, standby_of
from tests.fix_second_server import SecondServer
from tests.fix_serve import (
    Place,
    call,
    dblink_place,
    failure,
    request,
    spool_place,
    unix_place,
    with_transport,
)
from tests.fix_worker import (
    Connection,
    StartWorker,
    broken_rows,
    create_bm25_model,
    create_docs,
    create_fake_model,
    insert_docs,
)
from tests.sql.helpers import value

pytestmark = [
    pytest.mark.plpython,
    pytest.mark.slow,
    pytest.mark.skipif(
        "PG_EMBED_TEST_PG15_DSN" in os.environ or "PG_EMBED_TEST_DSN" in os.environ,
        reason="a server that is not ours to copy",
    ),
]

# What asks the model, by every way in; and what asks about the work, but for figures that only a primary has.
SEARCHES = (
    "SELECT embed('red fox')",
    "SELECT embed_sparse('red fox', 'bm25')",
    "SELECT id FROM docs ORDER BY embedding <=> embed('red fox') LIMIT 2",
    "SELECT (hit).id, score FROM embed.search(NULL::docs, 'red fox')",
    "SELECT (hit).id, score FROM embed.search(NULL::docs, 'red fox', mode => 'dense')",
    "SELECT (hit).id, score FROM embed.search(NULL::docs, 'red fox', mode => 'sparse')",
    """SELECT (hit).id, score FROM embed.search(NULL::docs, 'red fox', filter => '{"title": null}')""",
    "SELECT (hit).id, score FROM embed.search(NULL::essays, 'red fox')",
    "SELECT (hit).id, chunk, score FROM embed.search_chunks(NULL::essays, 'red fox', per_row => 2)",
    "SELECT (hit).id, score FROM embed.similar(NULL::docs, '1')",
    "SELECT embed.explain_search(NULL::docs, 'red fox', run => true) - 'plan'",
)
LOOKS = (
    "SELECT vectorizer_name, state, pending, in_flight, failed, rows_per_second * 0 FROM embed.status",
    "SELECT vectorizer, state FROM embed.why('docs', 1)",
    "SELECT * FROM embed.failures",
    "SELECT * FROM embed.vectorizers",
    "SELECT * FROM embed.switches",
    "SELECT * FROM embed.indexes",
    "SELECT * FROM embed.usage",
    "SELECT model, reuse, reused FROM embed.reuse",
    "SELECT rows, tokens FROM embed.estimate('docs_embedding')",
    "SELECT recall FROM embed.recall('docs_embedding')",
    "SELECT embed.compare_switch('docs') IS NULL",
    "SELECT embed.wait('docs')",
)


@dataclass(frozen=True)
class Scene:
    """A primary with two tables, and its standby."""

    place: Place
    standby: Standby
    primary: Connection
    copy: Connection

    @property
    def dsn(self) -> str:
        """The standby's database."""
        return self.standby.dsn(self.primary.info.dbname)


def fill(db: Connection, dsn: str, start_worker: StartWorker) -> None:
    """`docs` with vectors in its columns, `essays` with chunks, and a switch that has begun."""
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    create_bm25_model(db)
    create_docs(db, "red fox", "lazy dog", "green house", None)
    db.execute("CREATE TABLE essays (id bigint PRIMARY KEY, body text)")
    db.execute(
        "INSERT INTO essays SELECT i, repeat('a red fox ' || i || ' ', 20) FROM generate_series(1, 5) AS i"
    )
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'bm25')")
    db.execute(
        "SELECT embed.create_vectorizer('essays', 'body', model => 'fake', sparse => 'bm25',"
        """ storage => 'table', chunking => '{"size": 20}')"""
    )
    worker = start_worker(dsn)
    db.execute("SELECT embed.wait('docs'), embed.wait('essays')")
    worker.stop()
    db.execute("SELECT embed.switch_model('docs', 'wide')")


@contextmanager
def scene_of(server: Server, place: Place, start_worker: StartWorker) -> Iterator[Scene]:
    with ExitStack() as stack:
        primary = stack.enter_context(place.connect())
        fill(primary, place.dsn, start_worker)
        standby = stack.enter_context(standby_of(server))
        copy = psycopg.connect(standby.dsn(primary.info.dbname), autocommit=True)
        yield Scene(place, standby, primary, stack.enter_context(copy))


@pytest.fixture(params=["spool", "plpython"])
def scene(request: pytest.FixtureRequest, serve_folder: Path, start_worker: StartWorker) -> Iterator[Scene]:
    """By files on the embedded server, by PL/Python on the second one."""
    if request.param == "spool":
        place = spool_place(request.getfixturevalue("dsn"), serve_folder)
        server: Server = request.getfixturevalue("server")
    else:
        place = unix_place(request.getfixturevalue("dsn15"), serve_folder)
        server = request.getfixturevalue("server15")
    with scene_of(server, place, start_worker) as found:
        yield found


def test_searches_are_answered_as_on_the_primary(scene: Scene) -> None:
    with with_transport(scene.place), scene.place.sidecar():
        replayed(scene.primary, scene.copy)
        assert value(scene.copy, "SELECT pg_is_in_recovery()")
        for statement in (*SEARCHES, *LOOKS):
            expected = scene.primary.execute(statement).fetchall()
            assert scene.copy.execute(statement).fetchall() == expected, statement
        found = scene.copy.execute(SEARCHES[3]).fetchall()
        assert found[0][0] == 1, "the row that has the words"


def test_what_is_queued_on_the_primary_lacks_no_worker_of_the_standby(scene: Scene) -> None:
    insert_docs(scene.primary, "new")
    replayed(scene.primary, scene.copy)
    where = "WHERE vectorizer = 'docs_embedding'"
    asked = f"SELECT state, explanation FROM embed.why('docs', 5) {where}"
    (state, told) = scene.primary.execute(asked).fetchall()[0]
    assert (state, "no worker is connected" in told) == ("pending", True)
    (state, told) = scene.copy.execute(asked).fetchall()[0]
    assert (state, "no worker" in told, "rows before it" in told) == ("pending", False, True)


@pytest.mark.dblink
def test_a_transport_that_writes_says_so(dsn15: str, server15: SecondServer, serve_folder: Path) -> None:
    places = [spool_place(dsn15, serve_folder), unix_place(dsn15, serve_folder), dblink_place(dsn15)]
    with ExitStack() as stack:
        standby, primary = stack.enter_context(standby_of(server15)), stack.enter_context(places[0].connect())
        copy_dsn = standby.dsn(primary.info.dbname)
        copy = stack.enter_context(psycopg.connect(copy_dsn, autocommit=True))
        replayed(primary, copy)
        assert failure(copy, request(["x"])).code == "PE013"
        for place in places:
            with with_transport(place):
                replayed(primary, copy)
                told = failure(copy, request(["x"]))
                if place.kind == "dblink":
                    assert told.code == "PE013"
                    assert "standby" in told.message
                    assert "plpython or spool" in (told.hint or "")
                    continue
                assert told.code == "PE010"
                with place.sidecar():
                    assert "vectors" in call(copy, request(["x"]))


def test_a_worker_waits_until_its_standby_is_promoted(
    dsn: str, server: Server, serve_folder: Path, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    with scene_of(server, spool_place(dsn, serve_folder), start_worker) as scene:
        insert_docs(scene.primary, "queued before")
        replayed(scene.primary, scene.copy)
        waiting = start_worker(scene.dsn, standby_poll=0.02)
        assert any("a standby, where nothing can be written" in line for line in caplog.messages)
        start_worker(scene.dsn, standby_poll=PATIENCE).stop()  # a stop does not wait for the promotion
        assert waiting.error is None
        scene.standby.promote()
        insert_docs(scene.copy, "written after")
        scene.copy.execute("SELECT embed.wait('docs')")
        assert broken_rows(scene.copy) == []
        assert value(scene.copy, "SELECT count(*) FROM docs WHERE embedding IS NOT NULL") == 5
        start_worker.end()


def test_a_worker_leaves_a_standby_whose_name_leads_to_a_primary_by_now(
    dsn: str, server: Server, serve_folder: Path, start_worker: StartWorker
) -> None:
    with scene_of(server, spool_place(dsn, serve_folder), start_worker) as scene:
        insert_docs(scene.primary, "queued before")
        replayed(scene.primary, scene.copy)
        with proxy(socket_of(scene.dsn)) as link:
            start_worker(make_conninfo(dsn, host="127.0.0.1", port=link.port), standby_poll=0.02)
            link.lead(socket_of(dsn))
            scene.primary.execute("SELECT embed.wait('docs')")
            start_worker.end()
        assert broken_rows(scene.primary) == []


def socket_of(dsn: str) -> str:
    """The path of a server's Unix socket."""
    words = conninfo_to_dict(dsn)
    return f"{words['host']}/.s.PGSQL.{words['port']}"


def test_the_doctor_and_errors_tell_of_a_standby(dsn: str, server: Server, serve_folder: Path) -> None:
    place = spool_place(dsn, serve_folder)
    with standby_of(server) as standby, place.connect() as primary:
        copy_dsn = standby.dsn(primary.info.dbname)
        with psycopg.connect(copy_dsn, autocommit=True) as copy, with_transport(place), place.sidecar():
            replayed(primary, copy)
            checks = {check.name: check for check in examine(copy_dsn)}
        assert checks["server"].state == "warning"
        assert "a standby" in checks["server"].found
        assert checks["workers"] == Check(
            "workers", "skipped", "those of a standby are connected to its primary"
        )
        assert [checks[name].state for name in ("sidecar", "queue", "vectorizers")] == ["ok", "ok", "ok"]
        with our_db.connect(copy_dsn) as copy, pytest.raises(DatabaseError) as caught, our_db.translated():
            copy.execute("SELECT embed.retry()")
        assert "connect to the primary" in (caught.value.hint or "")
