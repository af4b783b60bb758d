"""Choosing a transport and setting it up, as superuser and as an ordinary owner."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pg_embed.errors import InvalidArgument, TransportMissing
from pg_embed.install import install, transports, uninstall, uninstall_sql
from pg_embed.serve.settings import ServeSettings
from tests.fix_pg import MakeRole
from tests.fix_second_server import SecondServer
from tests.fix_serve import Place, RunningSidecar, call, request

Db = psycopg.Connection[Any]


def found(db: Db, **settings: Any) -> dict[str, transports.Probe]:
    return {probe.kind: probe for probe in transports.probe(db, settings)}


def row(db: Db) -> Any:
    return db.execute("SELECT kind, settings FROM embed._transport").fetchone()


def test_the_embedded_server_has_files_and_nothing_else(db: Db, tmp_path: Path) -> None:
    probes = found(db, directory=tmp_path, socket=tmp_path / "s")
    assert {kind: probe.available for kind, probe in probes.items()} == {
        "plpython": False,
        "spool": True,
        "dblink": False,
        "none": True,
    }
    assert probes["plpython"].reason == "the server does not have the extension plpython3u"


def test_nothing_is_chosen_that_has_no_address(db: Db) -> None:
    chosen = transports.set_up(db)
    assert chosen.kind == "none"
    assert chosen.reasons["spool"] == "no spool directory is named"


def test_a_choice_is_kept_until_another_is_made(db: Db, tmp_path: Path) -> None:
    assert transports.set_up(db, None, {"directory": tmp_path, "timeout": 5}).kind == "spool"
    assert transports.set_up(db).kind == "spool"
    assert row(db) == ("spool", {"directory": str(tmp_path), "timeout": 5})
    assert transports.set_up(db, "none").kind == "none"


def test_what_cannot_be_had_is_an_error_with_the_reason(db: Db, tmp_path: Path) -> None:
    with pytest.raises(TransportMissing, match="dblink cannot be set up: the server does not have the"):
        transports.set_up(db, "dblink")
    with pytest.raises(InvalidArgument, match="no transport 'pigeon'"):
        transports.set_up(db, "pigeon")
    with pytest.raises(InvalidArgument, match="no transport has a setting 'sokcet'"):
        transports.set_up(db, None, {"sokcet": "x"})


def test_an_ordinary_role_lacks_the_rights_for_files(db: Db, make_role: MakeRole, tmp_path: Path) -> None:
    role = make_role()
    with psycopg.connect(role.dsn, autocommit=True) as ordinary:
        probe = next(p for p in transports.probe(ordinary, {"directory": tmp_path}) if p.kind == "spool")
    assert probe == transports.Probe("spool", False, "this role is no member of pg_write_server_files")


@pytest.mark.plpython
def test_the_best_one_is_chosen(db15: Db, tmp_path: Path) -> None:
    assert (
        transports.set_up(db15, "auto", {"socket": tmp_path / "s", "directory": tmp_path}).kind == "plpython"
    )
    assert row(db15) == ("plpython", {"socket": str(tmp_path / "s")})
    assert transports.set_up(db15, "auto", {"directory": tmp_path}).kind == "spool"
    assert transports.set_up(db15, "auto", {}).kind == "dblink"
    assert row(db15)[0] == "dblink"


@pytest.mark.dblink
def test_probing_changes_nothing(bare_db15: Db, bare_dsn15: str) -> None:
    install(bare_dsn15, transport="none")
    found(bare_db15, socket="/nowhere")
    assert (
        bare_db15.execute("SELECT 1 FROM pg_extension WHERE extname IN ('dblink', 'plpython3u')").fetchone()
        is None
    )
    assert bare_db15.execute("SELECT 1 FROM pg_foreign_server").fetchone() is None
    assert row(bare_db15)[0] == "none"


@pytest.mark.dblink
def test_another_choice_and_an_uninstall_leave_no_role_and_no_server(bare_db15: Db, bare_dsn15: str) -> None:
    def roles() -> list[Any]:
        name = hashlib.sha256(bare_db15.info.dbname.encode()).hexdigest()[:12]
        return bare_db15.execute(
            "SELECT rolname FROM pg_roles WHERE rolname = 'embed_mailbox_' || %s", (name,)
        ).fetchall()

    def by_hand() -> None:
        bare_db15.execute("\n".join(line for line in uninstall_sql().splitlines() if line[:1] != "\\"))

    for remove in (
        lambda: transports.set_up(bare_db15, "none"),
        lambda: uninstall(bare_dsn15),
        by_hand,
    ):
        install(bare_dsn15, transport="dblink")
        assert len(roles()) == 1
        assert row(bare_db15)[1]["role"] == roles()[0][0]
        remove()
        assert roles() == []
        assert bare_db15.execute("SELECT 1 FROM pg_extension WHERE extname = 'dblink'").fetchone() is None
        assert bare_db15.execute("SELECT 1 FROM pg_foreign_server").fetchone() is None


@pytest.mark.dblink
def test_an_ordinary_owner_can_have_dblink(
    server15: SecondServer, bare_db15: Db, bare_dsn15: str, make_role15_bare: Any
) -> None:
    owner = make_role15_bare(bare_dsn15)
    bare_db15.execute("CREATE EXTENSION vector; CREATE EXTENSION dblink")
    bare_db15.execute(f"GRANT CREATE ON DATABASE {bare_db15.info.dbname} TO {owner.name}")
    dsn = psycopg.conninfo.make_conninfo(bare_dsn15, user=owner.name, password=owner.password)
    report = install(dsn)
    assert report.transport == "none"
    assert "denied" in report.reasons["dblink"]

    bare_db15.execute(f"ALTER ROLE {owner.name} CREATEROLE")
    bare_db15.execute(f"GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO {owner.name}")
    assert install(dsn).transport == "dblink"
    place = Place("dblink", dsn, ServeSettings(mailbox_dsn=dsn))
    with RunningSidecar(place.serve), place.connect() as session:
        assert "vectors" in call(session, request(["x"]))
    with place.connect() as session:
        transports.take_down(session)


@pytest.mark.dblink
def test_where_no_role_can_be_created_one_can_be_named(
    server15: SecondServer, bare_db15: Db, bare_dsn15: str, make_role15_bare: Any
) -> None:
    owner, helper = make_role15_bare(bare_dsn15), make_role15_bare(bare_dsn15)
    bare_db15.execute("CREATE EXTENSION vector; CREATE EXTENSION dblink")
    bare_db15.execute(f"GRANT CREATE ON DATABASE {bare_db15.info.dbname} TO {owner.name}")
    bare_db15.execute(f"GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO {owner.name}")
    dsn = psycopg.conninfo.make_conninfo(bare_dsn15, user=owner.name, password=owner.password)
    settings = {"loopback_user": helper.name, "loopback_password": helper.password}
    assert install(dsn, transport="dblink", settings=settings).transport == "dblink"
    place = Place("dblink", dsn, ServeSettings(mailbox_dsn=dsn))
    with RunningSidecar(place.serve), place.connect() as session:
        assert "vectors" in call(session, request(["x"]))
        assert "password" not in str(row(session))


def test_an_upgrade_with_a_new_timeout_keeps_the_transport(bare_dsn: str, bare_db: Db) -> None:
    install(bare_dsn, settings={"directory": "/nowhere"})
    assert install(bare_dsn, settings={"timeout": 60.0}).transport == "spool"
    assert row(bare_db) == ("spool", {"directory": "/nowhere", "timeout": 60.0})


@pytest.mark.dblink
def test_none_that_was_chosen_stays_and_none_for_want_of_better_does_not(
    bare_dsn15: str, bare_db15: Db
) -> None:
    install(bare_dsn15, transport="none")
    assert install(bare_dsn15).transport == "none"
    assert install(bare_dsn15, transport="auto").transport == "dblink"
    transports.set_up(bare_db15, "none")
    bare_db15.execute("UPDATE embed._transport SET settings = '{}'")
    assert install(bare_dsn15).transport == "dblink"


@pytest.mark.parametrize(
    "settings",
    [
        {"socket": "sidecar.sock"},
        {"directory": "spool"},
        {"host": "a", "port": 70_000},
        {"loopback_port": "x"},
        {"timeout": float("nan")},
        {"timeout": -5.0},
        {"timeout": 0},
    ],
    ids=str,
)
def test_settings_that_can_never_work_are_refused(db: Db, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        transports.set_up(db, None, settings)
