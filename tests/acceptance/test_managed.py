"""docs/managed.md: its commands, run by roles that have no more rights than these services give."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_embed.client import AsyncClient, Client
from pg_embed.install import installed_revision, transports
from tests.acceptance.command import Running, pg_embed, psql, running, succeeds
from tests.acceptance.test_readme import shell
from tests.fix_pg import Server, fresh_database
from tests.fix_second_server import SecondServer
from tests.fix_tls import TlsServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "managed.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OURS = ("embed_reader", "embed_owner", "embed_worker")
WORKER, READER = ("embedder", "a long one"), ("reader", "another long one")
PASSWORD = "that of the administrator"
STAYS, ELSEWHERE = (
    "pg-embed serve",
    "az ",
)  # what runs until it is stopped; what needs the service's own account
LIKE_AN_ADMINISTRATOR = "NOSUPERUSER CREATEDB CREATEROLE"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Service:
    """What the administrator of a service may; `section` is the page's."""

    section: str
    group: str  # of which the administrator is a member
    rights: str = LIKE_AN_ADMINISTRATOR
    schema: str = "public"  # of pgvector
    makes_servers: bool = False  # whether the service lets it use dblink_fdw
    is_short: bool = True  # with a model for tests in place of the default one


SERVICES = [
    Service("Amazon RDS and Aurora", "rds_superuser", makes_servers=True, is_short=False),
    Service("Cloud SQL", "cloudsqlsuperuser"),
    Service("AlloyDB", "alloydbsuperuser"),
    Service(
        "Azure Database for PostgreSQL, flexible server",
        "azure_pg_admin",
        f"{LIKE_AN_ADMINISTRATOR} REPLICATION",
    ),
    Service("Supabase", "supabase_privileged", f"{LIKE_AN_ADMINISTRATOR} BYPASSRLS", "extensions"),
    Service("Neon", "neon_superuser"),
]
LEAST = Service("Without CREATEROLE", "nobody_special", "NOSUPERUSER NOCREATEDB NOCREATEROLE")


@dataclass(frozen=True)
class Block:
    """Commands of the page, and as whom."""

    section: str
    title: str  # of the step
    language: str
    who: str
    text: str


@dataclass(frozen=True)
class Place:
    """A database of a service, and the connection strings of those who use it."""

    administrator: str
    superuser: str

    def of(self, login: tuple[str, str]) -> str:
        """The connection string of another role."""
        return make_conninfo(self.administrator, user=login[0], password=login[1])

    def dsn(self, who: str) -> str:
        """That of the role that a block names."""
        if who == "administrator":
            return self.superuser
        return self.of(READER) if who == "reader" else self.administrator


def blocks(section: str) -> list[Block]:
    """The commands of a section, in their order."""
    found: list[Block] = []
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    title = ""
    for part in re.split(r"^### ", body, flags=re.MULTILINE):
        title = part.partition("\n")[0] if found or part is not body else ""
        found += [Block(section, title, *fence) for fence in FENCE.findall(part)]
    return found


@contextmanager
def service(server: Server, shape: Service) -> Iterator[Place]:
    """A database as a service hands it over; extensions were created in a superuser's name."""
    name = f"managed_{shape.group}"
    with server.connect() as admin, hidden(admin, OURS), fresh_database(server) as database:
        try:
            admin.execute(f"CREATE ROLE {shape.group} NOLOGIN")
            admin.execute(f"CREATE ROLE {name} LOGIN {shape.rights} IN ROLE {shape.group}")
            admin.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD))
            )
            admin.execute(f'ALTER DATABASE "{database}" OWNER TO {name}')
            with server.connect(database) as superuser:
                offer_extensions(superuser, shape, name)
            way = server.tcp if isinstance(server, SecondServer) else {}
            dsn = server.dsn(database, user=name, password=PASSWORD, **way)
            yield Place(dsn, server.dsn(database))
        finally:
            admin.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
            drop_roles(admin, ("embedder", "reader", "loopback", *OURS, name, shape.group))


def offer_extensions(superuser: psycopg.Connection[Any], shape: Service, name: str) -> None:
    """Create what a service lets its administrator create, which no other server does."""
    superuser.execute(f"CREATE SCHEMA IF NOT EXISTS {shape.schema}")
    superuser.execute(f"GRANT ALL ON SCHEMA {shape.schema} TO {name}")
    superuser.execute(f"GRANT USAGE ON SCHEMA {shape.schema} TO PUBLIC")
    superuser.execute(f"CREATE EXTENSION vector SCHEMA {shape.schema}")
    superuser.execute(
        f"ALTER DATABASE \"{superuser.info.dbname}\" SET search_path = '$user', public, extensions"
    )
    if not superuser.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'dblink'").fetchone():
        return
    superuser.execute(f"CREATE SCHEMA embed_dblink AUTHORIZATION {name}")
    superuser.execute("CREATE EXTENSION dblink SCHEMA embed_dblink")
    if shape.makes_servers:
        superuser.execute(f"GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO {name}")


@contextmanager
def hidden(admin: psycopg.Connection[Any], names: Sequence[str]) -> Iterator[None]:
    """Roles of other tests under other names for a while."""
    present = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles").fetchall()}
    there = [name for name in names if name in present]
    for name in there:
        admin.execute(f"ALTER ROLE {name} RENAME TO hidden_{name}")
    try:
        yield
    finally:
        for name in there:
            admin.execute(f"ALTER ROLE hidden_{name} RENAME TO {name}")


def drop_roles(admin: psycopg.Connection[Any], names: Sequence[str]) -> None:
    """Drop roles whose database is gone."""
    mailboxes = admin.execute(
        "SELECT r.rolname FROM pg_roles AS r WHERE r.rolname LIKE 'embed\\_mailbox\\_%' AND NOT EXISTS"
        " (SELECT FROM pg_shdepend AS d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid)"
    )
    for name in (*names, *(str(row[0]) for row in mailboxes.fetchall())):
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def run(place: Place, block: Block, folder: Path, changes: dict[str, str]) -> Running | None:
    """Run a block as its role; a process that stays is waited for until it works."""
    text = block.text
    for word, other in changes.items():
        text = text.replace(word, other)
    if block.language == "sql":
        done = psql(place.dsn(block.who), text)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return None
    stays = None
    for line in text.splitlines():
        if line.startswith((STAYS, "pg-embed worker")):
            stays = Running(*line.split()[1:], PG_EMBED_DSN=place.of(WORKER))
            stays.wait_for("worker_started")
        elif not line.startswith(ELSEWHERE):
            shell(line, place.dsn(block.who), folder)
    return stays


def small_model(place: Place) -> None:
    """A model for tests as the default."""
    done = pg_embed(
        "models", "create", "small", "--family", "fake", "--option", "dimensions=8", "--default",
        PG_EMBED_DSN=place.administrator,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def examined(dsn: str) -> dict[str, dict[str, Any]]:
    """What the doctor says, by name."""
    done = pg_embed("doctor", dsn, "--json")
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def walk(
    place: Place,
    steps: list[Block],
    folder: Path,
    changes: dict[str, str],
    shape: Service,
    use: Callable[[Place], None] = lambda place: None,
) -> None:
    """Take the steps; `use` and look at the doctor while all is up, and at the database when all is removed.

    Those with `changes` have no transport.
    """
    staying: list[Running] = []
    try:
        for block in steps:
            if block.title.startswith("6"):
                with psycopg.connect(place.administrator) as db:
                    db.execute("SELECT embed.wait('docs')")
            if block.title.startswith("7"):
                use(place)
                assert all(process.end() == 0 for process in staying)
            process = run(place, block, folder, changes)
            staying += [process] if process is not None else []
            if block.title.startswith("1") and shape.is_short:
                small_model(place)
            if block.title.startswith("6"):
                found = examined(place.administrator)
                bad = {name for name, check in found.items() if check["state"] in ("failed", "skipped")}
                assert bad == ({"sidecar", "models"} if changes else set()), found
                assert found["roles"]["state"] == found["workers"]["state"] == "ok"
                assert found["queue"]["found"] == "empty"
                kind = "none" if changes else "dblink"
                assert found["transport"]["found"].startswith(kind)
    finally:
        for process in staying:
            process.process.kill()
    with psycopg.connect(place.superuser) as db:
        assert db.execute("SELECT to_regnamespace('embed')").fetchone() == (None,)
        assert db.execute("SELECT count(embedding) FROM docs").fetchone() == (1,)
    assert installed_revision(place.administrator) is None


def test_every_section_of_a_service_is_tried() -> None:
    titles = re.findall(r"^## (.*)", PAGE, re.MULTILINE)
    tried = {"Steps", LEAST.section, *(shape.section for shape in SERVICES)}
    told = {"What is needed", "Without dblink", "Connection poolers", "What idling costs"}  # have no commands
    assert set(titles) - tried == told
    assert [block.title[:1] for block in blocks("Steps")] == list("1234567")


@pytest.mark.dblink
@pytest.mark.parametrize("shape", SERVICES, ids=lambda shape: shape.group)
def test_its_administrator_installs_and_others_work(
    server15: SecondServer, tmp_path: Path, shape: Service
) -> None:
    with service(server15, shape) as place:
        own = "10.11.12.13"  # the instance's address, in Cloud SQL's section
        for block in [*blocks("What is needed"), *blocks(shape.section)]:
            run(place, block, tmp_path, {own: "127.0.0.1"})
        walk(place, blocks("Steps"), tmp_path, {}, shape)
        with psycopg.connect(place.superuser) as db:
            query = "SELECT count(*) FROM pg_proc WHERE proname = 'embed' AND pronamespace = %s::regnamespace"
            assert db.execute(query, [shape.schema]).fetchone() == (0,), "nothing of ours is left"


@pytest.mark.dblink
def test_where_tls_is_demanded(tls_server: TlsServer, tmp_path: Path) -> None:
    """With sslmode=verify-full for all; whoever comes without TLS finds no line in pg_hba.conf."""
    shape = replace(SERVICES[0], makes_servers=False, is_short=True)
    with service(tls_server, shape) as place:
        for block in [*blocks("What is needed"), *blocks(shape.section)]:
            run(place, block, tmp_path, {})
        walk(place, blocks("Steps"), tmp_path, {}, shape, use_with_tls)


def use_with_tls(place: Place) -> None:
    """What applications do, and an index; everybody's connection is encrypted, the loopback's too."""
    with Client(place.of(READER)) as client:
        (hit,) = client.search("docs", "money back", k=1)
        assert hit.row["title"] == "Returns"
    assert asyncio.run(found_asynchronously(place.of(READER))) == "Returns"
    succeeds("index", "docs", "--kind", "hnsw", PG_EMBED_DSN=place.administrator)
    assert "channel_binding require" in examined(place.administrator)["transport"]["found"]
    engine = sa.create_engine(as_url(place.of(READER)))
    with engine.connect() as connection:
        nearest = "SELECT title FROM docs ORDER BY embedding <=> embed('money back') LIMIT 1"
        assert connection.scalar(sa.text(nearest)) == "Returns"
    engine.dispose()
    with psycopg.connect(place.superuser) as db:
        rows = db.execute(
            "SELECT a.application_name, s.ssl FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)"
            " WHERE a.datname = current_database() AND a.client_addr IS NOT NULL"
        ).fetchall()
    assert {"pg_embed worker", "pg_embed mailbox"} <= {name for name, _ in rows}
    assert all(is_encrypted for _, is_encrypted in rows)


def as_url(dsn: str) -> sa.URL:
    """As SQLAlchemy writes it."""
    words = {name: str(word) for name, word in conninfo_to_dict(dsn).items()}
    names = {"host": "host", "user": "username", "password": "password", "dbname": "database"}
    known = {ours: words.pop(theirs) for theirs, ours in names.items()}
    return sa.URL.create("postgresql+psycopg", port=int(words.pop("port")), query=words, **known)


async def found_asynchronously(dsn: str) -> Any:
    """The title of the best hit of an `AsyncClient`."""
    async with AsyncClient(dsn) as client:
        (hit,) = await client.search("docs", "money back", k=1)
    return hit.row["title"]


@pytest.mark.dblink
def test_without_createrole(server15: SecondServer, tmp_path: Path) -> None:
    with service(server15, LEAST) as place:
        *before, install = blocks(LEAST.section)
        for block in before:
            run(place, block, tmp_path, {})
        first, _, *others = blocks("Steps")
        steps = [Block(first.section, first.title, install.language, "", install.text), *others]
        walk(place, steps, tmp_path, {}, LEAST)


def test_where_there_is_no_dblink(server: Server, tmp_path: Path) -> None:
    """On the newest PostgreSQL, where a role that makes others is no member of them by itself."""
    shape = Service("Neon", "rds_superuser")
    with service(server, shape) as place:
        steps = [block for block in blocks("Steps") if block.who != "reader"]
        changes = {"--transport dblink": "--transport none", "serve --mailbox": "worker"}
        walk(place, steps, tmp_path, changes, shape)


@pytest.mark.dblink
def test_a_loopback_that_does_not_lead_back_is_told_of_and_found(server15: SecondServer) -> None:
    with service(server15, SERVICES[1]) as place:
        done = pg_embed("install", place.administrator, "--transport", "dblink", "--dblink-port", "1")
        assert done.returncode == 0
        assert "the server does not reach itself" in done.stderr
        assert "Connection refused" in done.stderr
        small_model(place)
        with (
            running("serve", "--mailbox", PG_EMBED_DSN=place.administrator) as process,
            psycopg.connect(place.administrator, autocommit=True) as db,
        ):
            process.wait_for("door_opened")
            secret = secret_of(db)
            with pytest.raises(psycopg.Error) as caught:
                db.execute("SELECT embed('x', 'small')")
            assert caught.value.sqlstate == "PE010"
            found = examined(place.administrator)["transport"]
            assert found["state"] == "failed"
            assert "--dblink-host" in found["advice"]
            assert secret not in f"{done.stderr}{found}{caught.value}{caught.value.diag.context}"
            assert transports.reach(db, {}, kept=False) is None
            assert secret_of(db) != secret
            assert db.execute("SELECT vector_dims(embed('x', 'small'))").fetchone() == (8,)
            assert examined(place.administrator)["transport"]["state"] == "ok"
        done = pg_embed("uninstall", place.administrator)
        assert done.returncode == 0, done.stderr


def secret_of(owner: psycopg.Connection[Any]) -> str:
    """The loopback's password, kept by the owner where no foreign server may be made."""
    row = owner.execute("SELECT settings ->> 'conninfo' FROM embed._transport").fetchone()
    assert row is not None
    return str(conninfo_to_dict(row[0])["password"])
