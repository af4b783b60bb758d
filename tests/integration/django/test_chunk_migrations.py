"""makemigrations and migrate: fields of chunks come with their vectorizers, and go with them."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from tests.fix_django import Project
from tests.fix_search import OPTIONS, SIDECAR, answer, literals
from tests.fix_worker import create_fake_model

Connection = psycopg.Connection[Any]
PLAIN = """
class Doc(models.Model):
    title = models.TextField()
    body = models.TextField(null=True)
"""
DOC = f"""{PLAIN}
    chunks = ChunkedField("{{title}}\\n{{body}}", chunking={{"size": 64}}, **THREE)
"""


def vectorizers(db: Connection) -> list[Any]:
    return db.execute(
        "SELECT source::text, template, model, columns, chunk_table::text, chunk_view::text"
        " FROM embed.vectorizers ORDER BY source::text, name"
    ).fetchall()


def chunk_size(db: Connection) -> Any:
    return db.execute("SELECT (chunking ->> 'size')::int FROM embed.vectorizers").fetchall()


def relations(db: Connection) -> set[str]:
    """The app's tables and views."""
    found = db.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relname LIKE 'shop%'")
    return {row[0] for row in found.fetchall()}


def steps(migration: str) -> list[str]:
    """The operations of a migration, by their names."""
    return re.findall(
        r"^        (?:migrations|pg_embed\.django\.operations)\.(\w+)\(", migration, re.MULTILINE
    )


@pytest.fixture
def with_model(django_project: Project, project_db: Connection) -> Project:
    """A project whose database is installed, and has the models `three` and `second`."""
    django_project.models("")
    django_project.migrate("pg_embed")
    create_fake_model(project_db, "three", **OPTIONS)
    create_fake_model(project_db, "second", dimensions=3)
    return django_project


def test_models_make_their_chunks(django_project: Project, project_db: Connection) -> None:
    told = 'model="all-MiniLM-L6-v2", sparse="bm25", index="auto", chunking={"size": 64}'
    django_project.models(f'{PLAIN}\n    chunks = ChunkedField("{{title}}\\n{{body}}", {told})\n')
    made = django_project.revise()
    assert steps(made) == ["CreateModel", "CreateModel", "CreateModel", "CreateVectorizer"]
    assert "('pg_embed', '0001_install')" in made
    sent = django_project.manage("sqlmigrate", "shop", "0001")
    assert "\"storage\" => 'table'::text" in sent
    django_project.migrate()
    assert django_project.is_settled()
    names = ("shop_doc_embedding", "shop_doc_chunks")
    columns = ["embedding", "sparse"]
    wanted = [("shop_doc", "{title}\n{body}", "all-MiniLM-L6-v2", columns, *names)]
    assert vectorizers(project_db) == wanted
    assert chunk_size(project_db) == [(64,)]
    assert relations(project_db) == {"shop_doc", *names}
    django_project.run("doc = Doc.objects.create(title='a'); assert not doc.chunks.exists(); doc.delete()")
    django_project.migrate("shop", "zero")
    assert relations(project_db) == set()
    assert project_db.execute("SELECT count(*) FROM embed.models").fetchone() == (0,)
    django_project.migrate()
    assert vectorizers(project_db) == wanted


def test_chunks_come_change_and_go(with_model: Project, project_db: Connection) -> None:
    with_model.models(PLAIN)
    with_model.revise()
    with_model.migrate()
    with_model.models(DOC)
    assert steps(with_model.revise("-n", "added")) == ["AddField", "CreateVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    project_db.execute("INSERT INTO shop_doc (title, body) VALUES ('a', 'b')")
    write(project_db, "shop_doc_embedding", ("id", 1))

    changed = DOC.replace("{title}\\n{body}", "{body}").replace('{"size": 64}', "None, filter='id > 0'")
    with_model.models(changed)
    assert steps(with_model.revise("-n", "text")) == ["AlterField", "AlterVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert (vectorizers(project_db)[0][1], chunk_size(project_db)) == ("{body}", [(400,)])
    assert project_db.execute("SELECT chunk FROM shop_doc_chunks").fetchall() == [("a chunk",)]
    with_model.migrate("shop", "0002")
    assert (vectorizers(project_db)[0][1], chunk_size(project_db)) == ("{title}\n{body}", [(64,)])
    with_model.migrate()

    with_model.models(changed.replace("**THREE", "model='second', dimensions=3"))
    assert steps(with_model.revise("-n", "other")) == ["DropVectorizer", "AlterField", "CreateVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db)[0][2:4] == ("second", ["embedding"])
    assert project_db.execute("SELECT chunk FROM shop_doc_chunks").fetchall() == []

    with_model.models(PLAIN)
    assert steps(with_model.revise("-n", "gone")) == ["DropVectorizer", "RemoveField"]
    with_model.migrate()
    assert relations(project_db) == {"shop_doc"}
    for target, model in (("0004", "second"), ("0003", "three")):
        with_model.migrate("shop", target)
        assert [row[2] for row in vectorizers(project_db)] == [model]
    with_model.migrate("shop", "0001")
    assert relations(project_db) == {"shop_doc"}


def write(db: Connection, table: str, *keys: tuple[str, Any]) -> None:
    """A chunk of a row, as a worker would write it."""
    names = ", ".join(name for name, _ in keys)
    values = ", ".join(str(value) for _, value in keys)
    vector = literals(["words"])[0]["dense"]
    db.execute(
        f"INSERT INTO {table} ({names}, chunk_no, chunk, context, chunk_hash, embedding)"
        f" VALUES ({values}, 1, 'a chunk', '', 0, '{vector}')".encode()
    )


def test_tables_change_their_names_and_chunks_follow(with_model: Project, project_db: Connection) -> None:
    with_model.models(DOC)
    with_model.revise()
    with_model.migrate()
    with_model.run("Doc.objects.create(title='a')")
    write(project_db, "shop_doc_embedding", ("id", 1))

    text = f"{DOC}    class Meta:\n        db_table = 'shop_texts'\n"
    with_model.models(text)
    assert steps(with_model.revise("-n", "table")) == ["AlterModelTable", "AlterVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert relations(project_db) == {"shop_texts", "shop_texts_embedding", "shop_texts_chunks"}
    assert with_model.run("print(Doc.objects.get().chunks.get().chunk)") == "a chunk\n"

    with_model.models(text.replace("**THREE", "chunk_view='shop_view', index='hnsw', **THREE"))
    assert steps(with_model.revise("-n", "view")) == ["AlterField", "AlterVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert with_model.run("print(Doc.objects.get().chunks.get().chunk)") == "a chunk\n"
    assert vectorizers(project_db)[0][4:] == ("shop_texts_embedding", "shop_view")
    with_model.migrate("shop", "0001")
    assert relations(project_db) == {"shop_doc", "shop_doc_embedding", "shop_doc_chunks"}
    assert project_db.execute("SELECT chunk FROM shop_doc_chunks").fetchall() == [("a chunk",)]


RENAME = """
from django.core.management import call_command
from django.db.migrations.questioner import MigrationQuestioner
MigrationQuestioner.ask_rename_model = lambda *told: True
call_command("makemigrations", "shop", "--no-input", "-n", "renamed")
"""


def test_models_change_their_names(with_model: Project, project_db: Connection) -> None:
    with_model.models(DOC)
    with_model.revise()
    with_model.migrate()
    with_model.run("Doc.objects.create(title='a')")
    write(project_db, "shop_doc_embedding", ("id", 1))
    with_model.models(DOC.replace("Doc(", "Page("))
    with_model.run(RENAME)
    made = (with_model.app / "migrations" / "0002_renamed.py").read_text(encoding="utf-8")
    assert steps(made) == ["RenameModel", "AlterVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db)[0][4:] == ("shop_page_embedding", "shop_page_chunks")
    assert with_model.run("print(Page.objects.get().chunks.get().chunk)") == "a chunk\n"
    with_model.migrate("shop", "0001")
    assert vectorizers(project_db)[0][4:] == ("shop_doc_embedding", "shop_doc_chunks")
    assert project_db.execute("SELECT chunk FROM shop_doc_chunks").fetchall() == [("a chunk",)]


def test_chunks_are_made_anew_for_a_larger_key(with_model: Project, project_db: Connection) -> None:
    key = "    id = models.AutoField(primary_key=True)\n"
    with_model.models(DOC + key)
    with_model.revise()
    with_model.migrate()
    with_model.run("Doc.objects.create(title='a')")
    with_model.models(DOC + key.replace("Auto", "BigAuto"))
    made = with_model.revise("-n", "big")
    assert steps(made) == ["DropVectorizer", "AlterField", "CreateVectorizer"]
    for _ in range(2):
        with_model.migrate()
        assert with_model.is_settled()
        write(project_db, "shop_doc_embedding", ("id", 1))
        assert with_model.run("print(Doc.objects.get().chunks.get().source_id)") == "1\n"
        with_model.migrate("shop", "0001")
        assert project_db.execute("SELECT count(*) FROM shop_doc_chunks").fetchone() == (0,)


def test_a_field_of_vectors_becomes_one_of_chunks(with_model: Project, project_db: Connection) -> None:
    column = f'{PLAIN}    chunks = EmbeddedField("{{title}}\\n{{body}}", **THREE)\n'
    with_model.models(column)
    with_model.revise()
    with_model.migrate()
    for number, models in enumerate((DOC, column), 2):
        with_model.models(models)
        made = steps(with_model.revise("-n", "other"))
        assert made == ["DropVectorizer", "RemoveField", "AddField", "CreateVectorizer"]
        with_model.migrate()
        assert with_model.is_settled()
        assert ("shop_doc_chunks" in relations(project_db)) == (number == 2)
    for _ in range(2):
        with_model.migrate("shop", "0001")
        assert relations(project_db) == {"shop_doc"}
        with_model.migrate()


SHAPES = """
class Place(models.Model):
    name = models.TextField(db_column='The Name')
    story = models.TextField(null=True)
    chunks = ChunkedField("{name}: {{{story}}}", filter='story IS NOT NULL', **THREE)
    parts = ChunkedField("{story}", chunk_table="Parts", chunk_view="All Parts", vectorizer="parts", **THREE)
    objects = EmbeddedManager()

    class Meta:
        db_table = '"Shop 1"."Places"'

class Cafe(Place):
    menu = models.TextField()

class Texts(models.Model):
    text = models.TextField()
    chunks = ChunkedField("{text}", **THREE)
    objects = EmbeddedManager()

    class Meta:
        abstract = True

class Poem(Texts):
    pass

class Ode(Poem):
    class Meta:
        proxy = True

class Line(Texts):
    pk = models.CompositePrimaryKey("poem_id", "number")
    poem = models.ForeignKey(Poem, models.CASCADE)
    number = models.IntegerField(db_column="No 1")

class Bistro(Place):
    soup = models.TextField()
    dishes = ChunkedField("{soup}", **THREE)
"""
FILL = """
poem = Poem.objects.create(text="a poem")
Line.objects.bulk_create([Line(poem=poem, number=n, text=f"line {n}") for n in (1, 2)])
Place.objects.create(name="Hall", story="new")
cafe = Cafe(name="Roma", story="old", menu="soup")
cafe.full_clean()
cafe.save()
Bistro.objects.create(name="Napoli", story="older", soup="tomato")
"""
FIND = """
parts = {"vectorizer": "parts"}
for model, options in ((Place, parts), (Cafe, parts), (Bistro, {}), (Ode, {}), (Line, {})):
    found = model.objects.search_chunks("words", **options)
    print(model.__name__, sorted((hit.pk, hit.chunk) for hit in found))
print(Cafe.objects.search_chunks("words", k=1, **parts).filter(name="Roma", menu="soup").get().story)
print(Cafe.objects.get().parts.get().source.name, Bistro.objects.get().dishes.get().source.soup)
lines = Line.objects.prefetch_related("chunks").order_by("number")
for line in lines:
    print(line.pk, [(chunk.poem_id, chunk.number, chunk.source is line) for chunk in line.chunks.all()])
print(Line.objects.filter(chunks__chunk="a chunk").count(), lines[1].chunks.get().source.text)
print([chunk.chunk for chunk in Ode.objects.get().chunks.all()], Poem.chunks.model._meta.db_table)
"""


def test_shapes_of_models(with_model: Project, project_db: Connection) -> None:
    project_db.execute('CREATE SCHEMA "Shop 1"')
    with_model.models(SHAPES)
    with_model.revise()
    with_model.migrate()
    assert with_model.is_settled()
    assert [(*row[:2], *row[4:]) for row in vectorizers(project_db)] == [
        (
            '"Shop 1"."Places"',
            "{The Name}: {{{story}}}",
            '"Shop 1"."Places_embedding"',
            '"Shop 1"."Places_chunks"',
        ),
        ('"Shop 1"."Places"', "{story}", '"Shop 1"."Parts"', '"Shop 1"."All Parts"'),
        ("shop_bistro", "{soup}", "shop_bistro_embedding", "shop_bistro_chunks"),
        ("shop_line", "{text}", "shop_line_embedding", "shop_line_chunks"),
        ("shop_poem", "{text}", "shop_poem_embedding", "shop_poem_chunks"),
    ]
    with_model.run(FILL)
    project_db.execute(SIDECAR.encode())
    answer(project_db, "words")
    write(project_db, "shop_poem_embedding", ("id", 1))
    write(project_db, "shop_bistro_embedding", ("place_ptr_id", 3))
    for number in (1, 2):
        write(project_db, '"Shop 1"."Parts"', ("id", number))
        write(project_db, "shop_line_embedding", ("poem_id", 1), ('"No 1"', number))
    assert with_model.run(FIND).splitlines() == [
        "Place [(1, 'a chunk'), (2, 'a chunk')]",
        "Cafe [(2, 'a chunk')]",
        "Bistro [(3, 'a chunk')]",
        "Ode [(1, 'a chunk')]",
        "Line [((1, 1), 'a chunk'), ((1, 2), 'a chunk')]",
        "old",
        "Roma tomato",
        "(1, 1) [(1, 1, True)]",
        "(1, 2) [(1, 2, True)]",
        "2 line 2",
        "['a chunk'] shop_poem_chunks",
    ]
    with_model.migrate("shop", "zero")
    assert vectorizers(project_db) == []


def test_a_model_is_switched_without_a_pause(with_model: Project, project_db: Connection) -> None:
    with_model.models(DOC)
    with_model.revise()
    with_model.migrate()
    switch = "SwitchModel('doc', 'chunks', model='second', dimensions=3)"
    with_model.write("0002_switch", "0001_initial", switch)
    with_model.models(DOC.replace("**THREE", "model='second', dimensions=3, column_type='vector'"))
    assert with_model.is_settled()
    with_model.migrate()
    assert vectorizers(project_db)[0][2:] == (
        "second",
        ["embedding"],
        "shop_doc_embedding",
        "shop_doc_chunks",
    )
    with_model.migrate("shop", "0001")
    assert ("three", ["embedding"]) in [row[2:4] for row in vectorizers(project_db)]


def test_by_hand(with_model: Project, project_db: Connection) -> None:
    with_model.models(PLAIN)
    with_model.revise()
    told = "model='three', dense='title', storage='table', drop_column=True"
    with_model.write("0002_hand", "0001_initial", f"CreateVectorizer('doc', 'body', {told})")
    with_model.migrate()
    assert vectorizers(project_db)[0][3:] == (["title"], "shop_doc_embedding", "shop_doc_chunks")
    with_model.migrate("shop", "0001")
    assert relations(project_db) == {"shop_doc"}


def test_the_commands_of_django_go_on(with_model: Project, project_db: Connection) -> None:
    with_model.models(DOC)
    with_model.revise()
    with_model.migrate()
    with_model.run("Doc.objects.create(title='a')")
    with_model.manage("dumpdata", "shop", "--output", "all.json")
    assert "chunks" not in (with_model.folder / "all.json").read_text(encoding="utf-8")
    with_model.manage("loaddata", "all.json")
    with_model.manage("flush", "--no-input")
    assert project_db.execute("SELECT count(*) FROM shop_doc").fetchone() == (0,)
    with_model.manage("check", "--database", "default")
    with_model.models(DOC.replace("{title}", "{titel}"))
    with pytest.raises(AssertionError, match=r"E003.*\{titel\}, which is no field"):
        with_model.manage("check")
    create = "lambda apps, editor: apps.get_model('shop', 'Doc').objects.create(title='old')"
    with_model.models(DOC)
    with_model.write("0002_hand", "0001_initial", f"migrations.RunPython({create})")
    with_model.migrate()
    assert project_db.execute("SELECT title FROM shop_doc").fetchall() == [("old",)]
