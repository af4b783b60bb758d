"""Autogenerate: the second of two revisions is empty, whatever the models' shape; changes are found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fix_alembic import Project, body
from tests.fix_search import play_sidecar
from tests.fix_worker import Connection, create_bm25_model, create_fake_model

BASE = """
class Base(DeclarativeBase):
    metadata = MetaData()
metadata = Base.metadata
"""
DOCS = """
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    body: Mapped[str]
"""
MADE = """
SELECT name, source::text, model, template, columns::text, filter FROM embed.vectorizers ORDER BY name
"""
SHAPES = {
    "dense": DOCS + '    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE, index="auto")\n',
    "sparse": DOCS + '    words: Mapped[list[float] | None] = embedded("{body}", **SPARSE)\n',
    "outputs": DOCS
    + """
    embedding: Mapped[list[float] | None] = embedded("{title}: {{it's}} 100% {body}", **THREE)
    words: Mapped[list[float] | None] = embedded("{title}: {{it's}} 100% {body}", **SPARSE)
""",
    "pair": DOCS
    + """
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
    words: Mapped[list[float] | None] = embedded("{body}", model="bm25", output="sparse")
""",
    "schema": DOCS
    + """
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
    __table_args__ = {"schema": "shop"}
class Other(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
""",
    "quoted": """
class Doc(Base):
    __tablename__ = 'My "Docs"'
    id: Mapped[int] = mapped_column("No", primary_key=True)
    body: Mapped[str] = mapped_column("Body %")
    embedding: Mapped[list[float] | None] = embedded(
        "{Body %}", name="Its vectors", filter='"No" > 3', **THREE)
    __table_args__ = {"schema": "Shop 1"}
""",
    "mixin": """
class Searchable:
    @declared_attr.directive
    def __tablename__(cls): return cls.__name__.lower()
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
class Post(Searchable, Base): ...
class Page(Searchable, Base):
    url: Mapped[str | None]
""",
    "single": """
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    body: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "doc"}
class Post(Doc):
    embedding: Mapped[list[float] | None] = embedded("{body}", filter="kind = 'post'", **THREE)
    __mapper_args__ = {"polymorphic_identity": "post"}
""",
    "joined": """
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "doc"}
class Post(Doc):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(ForeignKey("docs.id"), primary_key=True)
    note: Mapped[str]
    of_its_own: Mapped[list[float] | None] = embedded("{note}", **THREE)
    __mapper_args__ = {"polymorphic_identity": "post"}
""",
    "composite": """
class Doc(Base):
    __tablename__ = "docs"
    tenant: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
""",
    "partitioned": """
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE, index="hnsw")
    __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
options = {"include_name": lambda name, type_, parents: not (type_ == "table" and "_part_" in name)}
""",
    "convention": """
Base.metadata.naming_convention = {"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s"}
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column(unique=True)
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
""",
    "several": DOCS
    + """
    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)
    titles: Mapped[list[float] | None] = embedded("{title}", model="three", dimensions=8)
    again: Mapped[list[float] | None] = embedded("{body}", **THREE, vectorizer="again and again")
    theirs: Mapped[list[float] | None] = mapped_column(VECTOR(3))
""",
}


@pytest.fixture
def db_with_models(db: Connection) -> Connection:
    """The models `three`, `four` and `bm25`, and two schemas."""
    play_sidecar(db)
    create_fake_model(db, "four", dimensions=16, sparse_dimensions=1_000)
    create_bm25_model(db)
    db.execute('CREATE SCHEMA shop; CREATE SCHEMA "Shop 1"')
    return db


def made(db: Connection) -> list[Any]:
    return db.execute(MADE).fetchall()


def settle(project: Project) -> None:
    """Bring the database to the models, and see that nothing is left to do."""
    project.revise()
    project.upgrade()
    again = project.revise()
    assert (body(again), body(again, "downgrade")) == ("pass", "pass")
    project.upgrade()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_second_revision_is_empty(db_with_models: Connection, project: Project, shape: str) -> None:
    project.models(BASE + SHAPES[shape])
    revision = project.revise()
    assert "create_vectorizer" in body(revision)
    project.upgrade()
    there = made(db_with_models)
    assert there
    if shape == "partitioned":
        db_with_models.execute(
            "CREATE TABLE docs_part_1 PARTITION OF docs FOR VALUES FROM (0) TO (10);"
            "INSERT INTO docs (id, body) VALUES (1, 'x')"
        )
    again = project.revise()
    assert (body(again), body(again, "downgrade")) == ("pass", "pass")
    project.upgrade()
    project.downgrade("base")
    assert made(db_with_models) == []
    project.upgrade()
    assert made(db_with_models) == there


def test_the_code_is_readable(db_with_models: Connection, project: Project) -> None:
    project.models(
        BASE
        + DOCS
        + """
    embedding: Mapped[list[float] | None] = embedded("{title}\\n{body}", **THREE, index="auto")
    words: Mapped[list[float] | None] = embedded("{title}\\n{body}", model="bm25", output="sparse")
"""
    )
    revision = project.revise()
    assert "import pgvector.sqlalchemy\n" in revision
    assert (
        body(revision)
        == """\
op.create_table('docs',
sa.Column('id', sa.Integer(), nullable=False),
sa.Column('title', sa.String(), nullable=True),
sa.Column('body', sa.String(), nullable=False),
sa.Column('embedding', pgvector.sqlalchemy.vector.VECTOR(dim=8), nullable=True),
sa.Column('words', pgvector.sqlalchemy.sparsevec.SPARSEVEC(dim=1000000000), nullable=True),
sa.PrimaryKeyConstraint('id')
)
op.create_vectorizer(
'docs',
template='{title}\\n{body}',
model='three',
column_name='embedding',
index='auto',
name='docs_embedding',
)
op.create_vectorizer(
'docs',
template='{title}\\n{body}',
model='bm25',
column_name=None,
sparse_column='words',
name='docs_words',
)"""
    )
    assert (
        body(revision, "downgrade")
        == """\
op.drop_vectorizer('docs_words', drop_column=False)
op.drop_vectorizer('docs_embedding', drop_column=False)
op.drop_table('docs')"""
    )


PLAIN = BASE + DOCS + '    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)\n'


@pytest.mark.parametrize(
    ("before", "after", "steps", "wanted"),
    [
        (
            'embedded("{body}", **THREE)',
            'embedded("{title}: {body}", **THREE)',
            "op.alter_vectorizer('docs_embedding', template='{title}: {body}', existing_template='{body}')",
            [("docs_embedding", "docs", "three", "{title}: {body}", "{embedding}", None)],
        ),
        (
            'embedded("{body}", **THREE)',
            'embedded("{body}", filter="id > 3", **THREE)',
            "op.alter_vectorizer('docs_embedding', filter='id > 3', existing_filter='')",
            [("docs_embedding", "docs", "three", "{body}", "{embedding}", "(id > 3)")],
        ),
        (
            'embedded("{body}", filter="id > 3", **THREE)',
            'embedded("{body}", **THREE)',
            "op.alter_vectorizer('docs_embedding', filter='', existing_filter='(id > 3)')",
            [("docs_embedding", "docs", "three", "{body}", "{embedding}", None)],
        ),
        (
            'embedded("{body}", **THREE)',
            'embedded("{body}", **THREE, index="hnsw")',
            "op.alter_vectorizer('docs_embedding', index='hnsw', existing_index='none')",
            [("docs_embedding", "docs", "three", "{body}", "{embedding}", None)],
        ),
        (
            'embedded("{body}", **THREE)',
            'embedded("{body}", **THREE, vectorizer="of docs")',
            "op.alter_vectorizer('docs_embedding', rename_to='of docs')",
            [("of docs", "docs", "three", "{body}", "{embedding}", None)],
        ),
        (
            'embedded("{body}", **THREE)',
            'embedded("{body}", model="four", dimensions=16)',
            "op.drop_vectorizer('docs_embedding', drop_column=False)\n"
            "op.drop_column('docs', 'embedding')\n"
            "op.add_column('docs', sa.Column('embedding', pgvector.sqlalchemy.halfvec.HALFVEC(dim=16),"
            " nullable=True))\n"
            "op.create_vectorizer(\n'docs',\ntemplate='{body}',\nmodel='four',\ncolumn_name='embedding',\n"
            "name='docs_embedding',\n)",
            [("docs_embedding", "docs", "four", "{body}", "{embedding}", None)],
        ),
        (
            '    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)\n',
            "",
            "op.drop_vectorizer('docs_embedding', drop_column=False)\nop.drop_column('docs', 'embedding')",
            [],
        ),
        (
            'embedded("{body}", **THREE)\n',
            'embedded("{body}", **THREE)\n'
            '    words: Mapped[list[float] | None] = embedded("{body}", **SPARSE)\n',
            "op.drop_vectorizer('docs_embedding', drop_column=False)\n"
            "op.add_column('docs', sa.Column('words', pgvector.sqlalchemy.sparsevec.SPARSEVEC(dim=1000),"
            " nullable=True))\n"
            "op.create_vectorizer(\n'docs',\ntemplate='{body}',\nmodel='three',\ncolumn_name='embedding',\n"
            "sparse_column='words',\nname='docs_embedding',\n)",
            [("docs_embedding", "docs", "three", "{body}", "{embedding,words}", None)],
        ),
        (
            "    body: Mapped[str]\n"
            '    embedding: Mapped[list[float] | None] = embedded("{body}", **THREE)\n',
            "    text: Mapped[str | None]\n"
            '    embedding: Mapped[list[float] | None] = embedded("{text}", **THREE)\n',
            "op.add_column('docs', sa.Column('text', sa.String(), nullable=True))\n"
            "op.alter_vectorizer('docs_embedding', template='{text}', existing_template='{body}')\n"
            "op.drop_column('docs', 'body')",
            [("docs_embedding", "docs", "three", "{text}", "{embedding}", None)],
        ),
    ],
    ids=["template", "filter", "no filter", "index", "name", "model", "column", "output", "input"],
)
def test_changes_are_found_and_undone(
    db_with_models: Connection, project: Project, before: str, after: str, steps: str, wanted: list[Any]
) -> None:
    first = (
        PLAIN.replace('embedded("{body}", **THREE)\n', before) if before.startswith("embedded(") else PLAIN
    )
    first = first if first.endswith("\n") else first + "\n"
    assert before in first
    project.models(first)
    settle(project)
    there = made(db_with_models)
    project.models(first.replace(before, after))
    assert body(project.revise()) == steps
    project.upgrade()
    assert made(db_with_models) == wanted
    again = project.revise()
    assert (body(again), body(again, "downgrade")) == ("pass", "pass")
    project.upgrade()
    project.downgrade("-2")
    assert made(db_with_models) == there
    project.upgrade()
    assert made(db_with_models) == wanted


def test_a_table_that_goes_takes_its_vectorizers(db_with_models: Connection, project: Project) -> None:
    project.models(PLAIN)
    settle(project)
    there = made(db_with_models)
    project.models(BASE)
    revision = project.revise()
    assert body(revision) == "op.drop_vectorizer('docs_embedding', drop_column=False)\nop.drop_table('docs')"
    project.upgrade()
    assert made(db_with_models) == []
    project.downgrade()
    assert made(db_with_models) == there


def test_what_was_made_in_sql_is_its_maker_s(db_with_models: Connection, project: Project) -> None:
    project.models(BASE + DOCS)
    settle(project)
    db_with_models.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'three', sparse_column => 'words',"
        " multi_column => 'tokens');"
        "SELECT embed.create_index('docs', 'hnsw', min_rows => 0)"
    )
    build_index(db_with_models)
    assert body(project.revise()) == "pass"
    project.upgrade()
    declared = BASE + DOCS + '    embedding: Mapped[list[float] | None] = embedded("{body}", model="three",'
    project.models(declared + " dimensions=8)\n")
    assert body(project.revise()) == "pass"


def build_index(db: Connection) -> None:
    """What a worker would do."""
    rows = db.execute(
        "SELECT unnest((embed._index_look_v1(v.id, NULL, NULL, NULL, NULL, NULL)).steps)"
        " FROM embed._vectorizer AS v"
    ).fetchall()
    assert rows
    for (step,) in rows:
        db.execute(step)  # type: ignore[call-overload]
    assert db.execute("SELECT FROM pg_indexes WHERE indexdef LIKE '%hnsw%'").rowcount == 1


def test_an_index_that_a_worker_built_stays(db_with_models: Connection, project: Project) -> None:
    project.models(PLAIN.replace("**THREE", '**THREE, index="hnsw"'))
    settle(project)
    build_index(db_with_models)
    assert body(project.revise()) == "pass"


def test_what_the_user_leaves_out_is_left_alone(db_with_models: Connection, project: Project) -> None:
    two = PLAIN + '    titles: Mapped[list[float] | None] = embedded("{title}", **THREE)\n'
    leaves_out = """
def leave_out(item, name, type_, reflected, compare_to):
    return name not in LEFT
options = {"include_object": leave_out}
"""
    project.models(PLAIN)
    settle(project)
    project.models(f"LEFT = ['titles']{two}{leaves_out}")
    assert body(project.revise()) == "pass"
    project.upgrade()
    assert [row[0] for row in made(db_with_models)] == ["docs_embedding"]
    project.models(f"LEFT = ['docs']{BASE}{leaves_out}")
    assert body(project.revise()) == "pass"
    project.upgrade()
    project.models(f"LEFT = ['docs_embedding']{BASE}{DOCS}{leaves_out}")
    assert body(project.revise()) == "pass"


def test_a_database_without_pg_embed_gets_it_first(bare_db: Connection, bare_project: Project) -> None:
    bare_project.models(
        BASE
        + DOCS
        + '    embedding: Mapped[list[float] | None] = embedded("{body}", model="all-MiniLM-L6-v2")\n'
    )
    revision = bare_project.revise()
    first, *_, model = [
        line for line in body(revision).splitlines() if "embed_upgrade" in line or "model(" in line
    ]
    assert (first, model) == ("op.embed_upgrade()", "op.create_model('all-MiniLM-L6-v2', if_not_exists=True)")
    bare_project.upgrade()
    assert [row[:3] for row in made(bare_db)] == [("docs_embedding", "docs", "all-MiniLM-L6-v2")]
    assert body(bare_project.revise()) == "pass"
    bare_project.upgrade()
    bare_project.downgrade("base")
    assert bare_db.execute("SELECT to_regnamespace('embed')").fetchall() == [(None,)]
    bare_project.upgrade()
    assert len(made(bare_db)) == 1


def test_without_models_nothing_is_said(bare_db: Connection, bare_project: Project) -> None:
    bare_project.models(BASE + DOCS)
    assert "embed" not in body(bare_project.revise())


def test_two_branches(db_with_models: Connection, project: Project) -> None:
    project.models(PLAIN)
    settle(project)
    (root,) = project.heads()
    project.write("op.alter_vectorizer('docs_embedding', template='{title}')", head=root)
    project.write("op.alter_vectorizer('docs_embedding', index='auto')", head=root, splice=True)
    assert len(project.heads()) == 2
    project.upgrade()
    assert made(db_with_models)[0][3] == "{title}"
    project.models(PLAIN.replace('"{body}", **THREE', '"{title}", index="auto", **THREE'))
    left, _ = project.heads()
    assert body(project.revise(head=left)) == "pass"
    project.upgrade()
    project.merge()
    assert body(project.revise()) == "pass"
    project.upgrade()
    project.downgrade(root)
