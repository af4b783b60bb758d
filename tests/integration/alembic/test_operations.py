"""The operations in migrations: each with a connection, with --sql, and taken back."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from sqlalchemy import Column, Engine, Integer, MetaData, Table, Text
from sqlalchemy.exc import DBAPIError

from pg_embed.alembic import (
    AlterVectorizerOp,
    CreateModelOp,
    CreateVectorizerOp,
    DetachVectorizerOp,
    DropModelOp,
    DropVectorizerOp,
    SwitchModelOp,
)
from pg_embed.embedded.binaries import find_binaries
from pg_embed.errors import InvalidArgument
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.sqlalchemy import embedded_column
from tests.fix_alembic import Project
from tests.fix_search import OPTIONS, play_sidecar
from tests.fix_worker import Connection, StartWorker, create_docs, create_fake_model
from tests.integration.worker.test_switch import until

ODD = "it's 100%% \\ :x {body}\n$$ %(y)s"
CARD = FakeEmbedder(FakeOptions(**OPTIONS)).card.as_dict()
NOTHING = "metadata = MetaData()\n"
UP = f"""
op.execute('CREATE SCHEMA "Shop 1"')
op.create_model("odd 'name", "fake", options={ {**OPTIONS, "note": ODD}!r}, card={CARD!r}, is_default=True)
op.create_model("odd 'name", "fake", if_not_exists=True, card={CARD!r})
no, body = sa.Column("No", sa.Integer(), primary_key=True), sa.Column("body", sa.Text())
op.create_table("docs", no, body, schema="Shop 1")
place = {{"multi_column": "tok'ens", "index": "auto", "max_attempts": 3}}
op.create_vectorizer("docs", ["body", "body"], schema="Shop 1", **place)
place = {{"column_name": None, "sparse_column": "words", "name": "se'cond"}}
op.create_vectorizer("docs", template={ODD!r}, schema="Shop 1", **place)
op.alter_vectorizer("docs_embedding", input="body", filter='"No" > 5', index="hnsw", rename_to="first")
op.detach_vectorizer("first")
op.detach_vectorizer("se'cond")
op.alter_column("docs", "body", type_=sa.String(), schema="Shop 1")
op.attach_vectorizer("first", backfill=True)
op.attach_vectorizer("se'cond")
op.drop_vectorizer("third", if_exists=True)
"""
DOWN = """
op.drop_vectorizer("first", drop_column=True, drop_kept=True)
op.drop_vectorizer("se'cond")
op.drop_model("odd 'name")
op.drop_model("odd 'name", if_exists=True)
op.drop_model("odd 'name", if_unused=True)
"""
MADE = """
SELECT v.name, v.source::text, v.model, v.template, v.filter, v.columns::text, v.max_attempts, i.wanted
FROM embed.vectorizers AS v LEFT JOIN embed.indexes AS i ON i.vectorizer_name = v.name ORDER BY v.name
"""


def made(db: Connection) -> list[Any]:
    return db.execute(MADE).fetchall()


def columns(db: Connection, table: str = "docs") -> list[str]:
    found = db.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = (SELECT oid FROM pg_class WHERE relname = %s)"
        " AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    )
    return [row[0] for row in found]


def psql(dsn: str, text: str) -> None:
    """Run a script as a DBA would."""
    done = subprocess.run(
        [find_binaries() / "bin" / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn],
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("way", ["connected", "printed"])
def test_each_operation_with_a_connection_and_as_sql(
    db: Connection, dsn: str, project: Project, way: str
) -> None:
    project.models(NOTHING)
    project.write(UP, DOWN)
    if way == "connected":
        project.upgrade()
    else:
        psql(dsn, project.sql())
    assert made(db) == [
        ("first", '"Shop 1".docs', "odd 'name", "{body}", '("No" > 5)', "{embedding,tok'ens}", 3, "hnsw"),
        ("se'cond", '"Shop 1".docs', "odd 'name", ODD, None, "{words}", 10, None),
    ]
    told = db.execute("SELECT options, is_default FROM embed.models").fetchall()
    assert told == [({**OPTIONS, "note": ODD}, True)]
    if way == "connected":
        project.downgrade("base")
    else:
        psql(dsn, project.sql("head:base", down=True))
    assert made(db) == []
    assert columns(db) == ["No", "body", "words"]
    assert db.execute("SELECT FROM embed.models").fetchall() == []


def test_a_used_model_stays_where_that_was_asked(db: Connection, project: Project) -> None:
    play_sidecar(db)
    project.models(NOTHING)
    project.write("op.execute('CREATE TABLE docs (id int PRIMARY KEY, body text)')")
    project.write("op.create_vectorizer('docs', 'body')", "op.drop_model('three', if_unused=True)")
    project.upgrade()
    project.downgrade()
    assert [row[2] for row in made(db)] == ["three"]


INSTALL = """
op.execute("SET search_path = mine, public")
op.embed_upgrade()
op.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
op.create_model("bm25")
op.create_vectorizer("docs", "body")
"""


@pytest.mark.parametrize("way", ["connected", "printed"])
def test_the_installation_in_a_migration(
    bare_db: Connection, bare_dsn: str, bare_project: Project, way: str
) -> None:
    bare_db.execute("CREATE SCHEMA mine")
    bare_project.models(NOTHING)
    bare_project.write(INSTALL, "op.embed_downgrade()")
    bare_project.write("op.embed_upgrade()")  # once more
    if way == "connected":
        bare_project.upgrade()
    else:
        psql(bare_dsn, bare_project.sql())
    assert [row[:3] for row in made(bare_db)] == [("docs_embedding", "mine.docs", "bm25")]
    assert bare_db.execute("SELECT version_num FROM embed._schema_version").fetchall() == [("0001",)]
    heads = [(head,) for head in bare_project.heads()]
    assert bare_db.execute("SELECT version_num FROM alembic_version").fetchall() == heads
    if way == "connected":
        bare_project.downgrade("base")
    else:
        psql(bare_dsn, bare_project.sql("head:base", down=True))
    assert bare_db.execute("SELECT to_regnamespace('embed')").fetchall() == [(None,)]
    assert columns(bare_db) == ["id", "body", "embedding"]


def test_an_installation_keeps_its_transport(db: Connection, project: Project) -> None:
    db.execute("UPDATE embed._transport SET kind = 'spool'; " + STAND_IN)
    project.models(NOTHING)
    project.write("op.embed_upgrade()")
    project.upgrade()
    assert db.execute("SELECT embed._call('x', 1)").fetchall() == [("answer",)]


STAND_IN = """
CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, embed, pg_temp AS $$ SELECT 'answer' $$
"""


def test_operations_that_are_run_at_once_make_no_second_vectorizer(db: Connection, engine: Engine) -> None:
    play_sidecar(db)
    metadata = MetaData()
    columns = (Column("id", Integer, primary_key=True), Column("body", Text))
    vectors = embedded_column("embedding", "{body}", model="three", dimensions=8)
    Table("docs", metadata, *columns, vectors)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        script = produce_migrations(context, metadata)
        assert isinstance(script.upgrade_ops, ops.UpgradeOps)
        run(Operations(context), script.upgrade_ops)
        assert produce_migrations(context, metadata).upgrade_ops.is_empty()  # type: ignore[union-attr]
    assert [row[:2] for row in made(db)] == [("docs_embedding", "docs")]
    with engine.begin() as connection:
        assert isinstance(script.downgrade_ops, ops.DowngradeOps)
        run(Operations(MigrationContext.configure(connection)), script.downgrade_ops)
    assert made(db) == []


def run(operations: Operations, container: ops.OpContainer) -> None:
    """What a migration would do."""
    for op in container.ops:
        if isinstance(op, ops.OpContainer):
            run(operations, op)
        else:
            operations.invoke(op)


def test_a_migration_changes_how_texts_are_split(db: Connection, project: Project) -> None:
    play_sidecar(db)
    project.models(NOTHING)
    project.write("op.execute('CREATE TABLE docs (id int PRIMARY KEY, body text)')")
    project.write("op.create_vectorizer('docs', 'body', storage='table', chunking={'size': 12})")
    changed = "op.alter_vectorizer('docs', chunking={'size': 24, 'overlap': 4})"
    project.write(changed, "op.alter_vectorizer('docs', chunking={'size': 12})")
    project.upgrade()
    told = "SELECT chunking -> 'size', chunking -> 'overlap' FROM embed.vectorizers"
    assert db.execute(told).fetchall() == [(24, 4)]
    project.downgrade()
    assert db.execute(told).fetchall() == [(12, 0)]


PLACES = "SELECT storage, chunking -> 'size', chunk_view::text FROM embed.vectorizers"


def test_a_migration_moves_vectors_from_chunks_to_a_column_and_back(
    db: Connection, dsn: str, project: Project, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    project.models(NOTHING)
    project.write("op.execute('CREATE TABLE docs (id int PRIMARY KEY, body text)')")
    chunks = "storage='table', chunking={'size': 12}, chunk_view='parts'"
    project.write(f"op.create_vectorizer('docs', 'body', model='fake', {chunks})")
    project.write(
        "op.alter_vectorizer('docs_embedding', storage='column')",
        f"op.alter_vectorizer('docs_embedding', {chunks})",
    )
    project.upgrade("+2")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    project.upgrade()
    assert db.execute("SELECT state = 'swapped', columns FROM embed.switches").fetchall() == [
        (False, ["embedding"])
    ]
    project.downgrade()
    assert db.execute("SELECT FROM embed.switches").fetchall() == []
    assert db.execute(PLACES).fetchall() == [("table", 12, "parts")]
    project.upgrade()
    start_worker(dsn, switch_every=0.02)
    moved = "SELECT storage FROM embed.vectorizers"
    until(lambda: db.execute(moved).fetchone() == ("column",), "the chunks are a column")
    project.downgrade()
    assert db.execute(PLACES).fetchall() == [("table", 12, "parts")]


MOVED = """
op.execute('CREATE TABLE docs (id int PRIMARY KEY, body text)')
op.create_vectorizer('docs', 'body', model='fake', storage='table', index='hnsw')
op.execute("INSERT INTO docs SELECT n, 'x' FROM generate_series(1, {rows}) AS n")
op.alter_vectorizer('docs_embedding', storage='column', index='auto', rename_to='moved')
"""


@pytest.mark.parametrize("way", ["connected", "printed"])
@pytest.mark.parametrize("rows", [0, 3])
def test_a_move_from_chunks_needs_no_worker_in_an_empty_table(
    db: Connection, dsn: str, project: Project, rows: int, way: str
) -> None:
    create_fake_model(db)
    project.models(NOTHING)
    project.write(MOVED.format(rows=rows), "op.drop_vectorizer('moved', drop_column=False)")
    project.upgrade() if way == "connected" else psql(dsn, project.sql())
    assert db.execute("SELECT FROM embed.switches").rowcount == (1 if rows else 0)
    # an end by force leaves out what a worker would wait for
    db.execute("SELECT embed.finish_switch('moved', force => true) FROM embed.switches WHERE auto")
    told = "SELECT name, storage, columns::text, wanted FROM embed.vectorizers, embed.indexes"
    assert db.execute(told).fetchall() == [("moved", "column", "{embedding}", "auto")]
    assert db.execute("SELECT to_regclass('docs_chunks')").fetchall() == [(None,)]


def test_who_drops_a_vectorizer_that_moves_finds_the_columns(db: Connection, project: Project) -> None:
    create_fake_model(db)
    project.models(NOTHING)
    project.write(MOVED.format(rows=3))
    project.write("op.drop_vectorizer('moved')\nop.drop_column('docs', 'embedding')")
    project.upgrade()
    assert db.execute("SELECT FROM embed._vectorizer").rowcount == 0
    assert columns(db) == ["id", "body"]
    assert db.execute("SELECT FROM pg_class WHERE relname LIKE 'docs\\_%'").rowcount == 1  # its key's


SWITCH = """
op.switch_model("docs", "wide", {options})
op.execute("CREATE TABLE afterwards (id int)")
"""
AGAIN = "DROP TABLE alembic_version;"  # which the printed upgrade makes
MODELS = "SELECT model, columns::text FROM embed.vectorizers"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs` with a few rows, their vectorizer of model `fake`, and a wider model."""
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    create_docs(db, "one", "two", "three")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', model => 'fake')")
    return db


def switches(db: Connection) -> list[Any]:
    return db.execute("SELECT model, other_model, state = 'swapped', auto FROM embed.switches").fetchall()


@pytest.mark.parametrize("way", ["connected", "printed"])
def test_a_switch_is_begun_and_given_up(docs: Connection, dsn: str, project: Project, way: str) -> None:
    project.models(NOTHING)
    project.write(
        "op.switch_model('docs', 'wide', auto=True, keep='frozen')", "op.switch_model('docs', 'fake')"
    )
    for _ in range(2):
        project.upgrade() if way == "connected" else psql(dsn, project.sql())
        assert switches(docs) == [("fake", "wide", False, True)]
        assert docs.execute(MODELS).fetchall() == [("fake", "{embedding}")]
        project.downgrade() if way == "connected" else psql(dsn, project.sql("head:base", down=True) + AGAIN)
        assert switches(docs) == []


@pytest.mark.parametrize("way", ["connected", "printed"])
def test_a_migration_waits_for_a_switch_and_goes_back(
    docs: Connection, dsn: str, project: Project, start_worker: StartWorker, way: str
) -> None:
    start_worker(dsn, index_every=0.02, switch_every=0.02)
    docs.execute("SELECT embed.wait('docs')")  # or the way back might have to wait for vectors
    project.models(NOTHING)
    project.write(
        SWITCH.format(options="wait=60"), "op.drop_table('afterwards')\nop.switch_model('docs', 'fake')"
    )
    for _ in range(2):
        project.upgrade() if way == "connected" else psql(dsn, project.sql())
        assert switches(docs) == [("wide", "fake", True, False)]
        assert docs.execute(MODELS).fetchall() == [("wide", "{embedding}")]
        assert docs.execute("SELECT DISTINCT vector_dims(embedding) FROM docs").fetchall() == [(7,)]
        assert docs.execute("SELECT to_regclass('afterwards')").fetchall() == [("afterwards",)]
        project.downgrade() if way == "connected" else psql(dsn, project.sql("head:base", down=True) + AGAIN)
        assert docs.execute(MODELS).fetchall() == [("fake", "{embedding}")]


def test_a_switch_whose_vectors_were_not_kept_is_made_again_backwards(
    docs: Connection, dsn: str, project: Project, start_worker: StartWorker
) -> None:
    start_worker(dsn, index_every=0.02, switch_every=0.02)
    project.models(NOTHING)
    back = "op.switch_model('docs', 'fake', wait=60, keep='drop')"
    project.write("op.switch_model('docs', 'wide', wait=60, keep='drop')", back)
    project.upgrade()
    assert (docs.execute(MODELS).fetchall(), switches(docs)) == ([("wide", "{embedding}")], [])
    project.downgrade()
    assert (docs.execute(MODELS).fetchall(), switches(docs)) == ([("fake", "{embedding}")], [])
    assert docs.execute("SELECT DISTINCT vector_dims(embedding) FROM docs").fetchall() == [(4,)]


SPLIT = "SELECT model, chunking ->> 'size', chunking ->> 'overlap' FROM embed.vectorizers"
WIDER = "op.switch_model('docs', 'wide', chunking={'size': 24, 'overlap': 4}"
NARROWER = "op.switch_model('docs', 'fake', chunking={'size': 12, 'overlap': 0}"


@pytest.fixture
def parts(db: Connection) -> Connection:
    """`docs` with a few rows, their chunks of model `fake`, and a wider model."""
    create_fake_model(db)
    create_fake_model(db, "wide", dimensions=7)
    create_docs(db, "one", "two", "three")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', storage => 'table',"
        """ chunking => '{"size": 12}')"""
    )
    return db


@pytest.mark.parametrize("way", ["connected", "printed"])
@pytest.mark.parametrize("keep", ["in step", "drop"])
def test_a_switch_splits_texts_in_another_way_and_goes_back(
    parts: Connection, dsn: str, project: Project, start_worker: StartWorker, way: str, keep: str
) -> None:
    start_worker(dsn, index_every=0.02, switch_every=0.02)
    project.models(NOTHING)
    told = f", wait=60, keep='{keep}')"
    project.write(WIDER + told, NARROWER + told)
    for _ in range(2):
        project.upgrade() if way == "connected" else psql(dsn, project.sql())
        assert parts.execute(SPLIT).fetchall() == [("wide", "24", "4")]
        project.downgrade() if way == "connected" else psql(dsn, project.sql("head:base", down=True) + AGAIN)
        assert parts.execute(SPLIT).fetchall() == [("fake", "12", "0")]


def test_a_switch_that_is_begun_once_more_splits_as_it_is_told_now(
    parts: Connection, project: Project
) -> None:
    shadows = "embed.switches AS s JOIN embed._vectorizer AS n ON n.name = s.shadow"
    beside = f"SELECT n.chunking ->> 'size' FROM {shadows}".encode()
    project.models(NOTHING)
    project.write("op.switch_model('docs', 'wide')")
    project.write(WIDER + ")", NARROWER + ")")
    project.upgrade("+1")
    assert parts.execute(beside).fetchall() == [("12",)]
    project.upgrade()
    assert parts.execute(beside).fetchall() == [("24",)]
    parts.execute("""SELECT embed.alter_vectorizer('docs', chunking => '{"size": 30}')""")
    project.downgrade()
    assert (switches(parts), parts.execute(SPLIT).fetchall()) == ([], [("fake", "12", "0")])


def test_vectors_that_were_kept_come_back_only_with_the_chunks_of_before(
    parts: Connection, project: Project
) -> None:
    project.models(NOTHING)
    project.write(WIDER + ")", NARROWER + ")")
    project.write("op.alter_vectorizer('docs', chunking={'size': 30})")
    project.upgrade("+1")
    parts.execute("SELECT embed.finish_switch('docs', force => true)")
    project.upgrade()
    project.downgrade("base")
    assert switches(parts) == [("wide", "fake", False, False)]
    parts.execute("SELECT embed.finish_switch('docs', force => true)")
    assert parts.execute(SPLIT).fetchall() == [("fake", "12", "0")]


def test_a_migration_that_waited_in_vain_goes_on_when_it_is_run_again(
    docs: Connection, dsn: str, project: Project, start_worker: StartWorker
) -> None:
    project.models(NOTHING)
    project.write(SWITCH.format(options="wait=0.2"))
    with pytest.raises(DBAPIError, match="start one with pg-embed worker, and run the migration again"):
        project.upgrade()
    assert switches(docs) == [("fake", "wide", False, False)]
    start_worker(dsn, index_every=0.02, switch_every=0.02)
    ready = "SELECT FROM embed.switches WHERE state = 'ready'"
    until(lambda: docs.execute(ready).rowcount, "the switch is ready")
    project.upgrade()
    assert switches(docs) == [("wide", "fake", True, False)]


def test_nobody_waits_in_a_transaction_that_alembic_cannot_commit(docs: Connection, engine: Engine) -> None:
    with engine.begin() as connection:
        operations: Any = Operations(MigrationContext.configure(connection))
        with pytest.raises(InvalidArgument, match="in a transaction"):
            operations.switch_model("docs", "wide", wait=1)
        operations.switch_model("docs", "wide")
    assert switches(docs) == [("fake", "wide", False, False)]


def test_vectors_stay_unless_told_otherwise(db: Connection, project: Project) -> None:
    play_sidecar(db)
    project.models(NOTHING)
    project.write("op.execute('CREATE TABLE docs (id int PRIMARY KEY, body text)')")
    project.write("op.create_vectorizer('docs', 'body', column_type='vector')", "op.drop_vectorizer('docs')")
    project.upgrade()
    db.execute("INSERT INTO docs VALUES (1, 'x', '[1,2,3,4,5,6,7,8]')")
    project.downgrade()
    assert made(db) == []
    project.upgrade()
    assert db.execute("SELECT embedding::text FROM docs").fetchall() == [("[1,2,3,4,5,6,7,8]",)]


def test_operations_know_their_reverse() -> None:
    created = CreateVectorizerOp("docs", "body", schema="s", model="m")
    assert created.reverse().name == '"s"."docs"'
    assert created.reverse().reverse() is created
    model = CreateModelOp("bm25", if_not_exists=True)
    assert model.reverse().if_unused
    assert model.reverse().reverse() is model
    altered = AlterVectorizerOp("a", rename_to="b", template="{x}", existing_template="{y}")
    back = altered.reverse()
    assert (back.name, back.rename_to, back.changes, back.existing) == (
        "b",
        "a",
        {"template": "{y}"},
        {"template": "{x}"},
    )
    switched = SwitchModelOp(
        "a", "m", wait=5, existing_model="n", existing_column_type="vector", column_type="halfvec"
    )
    back_to = switched.reverse()
    assert (back_to.name, back_to.model, back_to.wait, back_to.options, back_to.existing_model) == (
        "a",
        "n",
        5,
        {"column_type": "vector"},
        "m",
    )
    assert back_to.reverse().options == switched.options
    cut = {"split": "markdown", "size": 24}
    switched = SwitchModelOp("a", "m", existing_model="n", existing_chunking={"size": 12}, chunking=cut)
    back_to = switched.reverse()
    assert (back_to.model, back_to.options) == ("n", {"chunking": {"split": "text", "size": 12}})
    assert back_to.existing_chunking == cut
    told = {"existing_storage": "table", "existing_chunking": {"size": 12}, "existing_chunk_view": "parts"}
    moved = AlterVectorizerOp("a", storage="column", keep_chunks=True, **told).reverse()
    assert isinstance(moved, AlterVectorizerOp)
    assert moved.changes == {"storage": "table", "chunking": {"size": 12}, "chunk_view": "parts"}
    assert moved.existing == {"storage": "column"}
    assert moved.reverse().changes == {"storage": "column"}
    assert moved.reverse().existing == {"storage": "table", "chunking": {"size": 12}, "chunk_view": "parts"}
    ours = AlterVectorizerOp("a", storage="table", declared=True, existing_storage="column")
    assert ours.reverse().changes == {"storage": "column", "declared": True}
    attached = DetachVectorizerOp("a", backfill=True).reverse()
    assert (attached.name, attached.backfill, attached.reverse().backfill) == ("a", True, True)
    for op in (
        DropVectorizerOp("x"),
        DropModelOp("x"),
        AlterVectorizerOp("x", template="{y}"),
        SwitchModelOp("x", "m"),
        SwitchModelOp("x", "m", chunking={"size": 12}, existing_model="n"),
        AlterVectorizerOp("x", storage="table"),
    ):
        with pytest.raises(ValueError, match="not reversible"):
            op.reverse()
    with pytest.raises(InvalidArgument, match="'colum_name'"):
        CreateVectorizerOp("docs", "body", colum_name="x")
    with pytest.raises(InvalidArgument, match="'keeps'"):
        SwitchModelOp("docs", "m", keeps="drop")
    with pytest.raises(InvalidArgument, match="'modell'"):
        AlterVectorizerOp("docs", modell="x")
