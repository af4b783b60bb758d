"""makemigrations and migrate: fields of vectors come with their vectorizers, and go with them."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from tests.fix_django import Project, database
from tests.fix_search import OPTIONS, SIDECAR, answer, literals
from tests.fix_worker import create_fake_model

Connection = psycopg.Connection[Any]
DOC = """
class Doc(models.Model):
    title = models.TextField()
    body = models.TextField(null=True)
    embedding = EmbeddedField("{title}\\n{body}", model="all-MiniLM-L6-v2")
    words = EmbeddedField("{title}\\n{body}", model="bm25", output="sparse")
"""
BOTH = """
class Doc(models.Model):
    title = models.TextField()
    body = models.TextField(null=True)
    embedding = EmbeddedField("{body}", **THREE)
    words = EmbeddedField("{body}", **SPARSE)
"""


def vectorizers(db: Connection) -> list[Any]:
    return db.execute(
        "SELECT source::text, template, model, columns, filter FROM embed.vectorizers"
        " ORDER BY source::text, name"
    ).fetchall()


def steps(migration: str) -> list[str]:
    """The operations of a migration, by their names."""
    return re.findall(
        r"^        (?:migrations|pg_embed\.django\.operations)\.(\w+)\(", migration, re.MULTILINE
    )


@pytest.fixture
def with_model(django_project: Project, project_db: Connection) -> Project:
    """A project whose database is installed, and has the model `three`."""
    django_project.models("")
    django_project.migrate("pg_embed")
    create_fake_model(project_db, "three", **OPTIONS)
    return django_project


def test_models_make_their_vectorizers(django_project: Project, project_db: Connection) -> None:
    django_project.models(DOC)
    told = django_project.manage("makemigrations", "--dry-run")
    assert "+ Embed doc in embedding" in told
    assert "?" not in told
    made = django_project.revise()
    assert steps(made) == ["CreateModel", *["CreateModel", "CreateVectorizer"] * 2]
    assert "('pg_embed', '0001_install')" in made
    told = django_project.manage("sqlmigrate", "shop", "0001")
    assert "halfvec(384)" in told
    assert 'embed."create_vectorizer"(\'"shop_doc"\'::regclass' in told
    assert "CREATE SCHEMA IF NOT EXISTS embed" in django_project.manage("sqlmigrate", "pg_embed", "0001")
    django_project.migrate()
    assert django_project.is_settled()
    assert vectorizers(project_db) == [
        ("shop_doc", "{title}\n{body}", "all-MiniLM-L6-v2", ["embedding"], None),
        ("shop_doc", "{title}\n{body}", "bm25", ["words"], None),
    ]
    assert project_db.execute("SHOW search_path").fetchone() == ('"$user", public',)
    django_project.migrate("shop", "zero")
    assert vectorizers(project_db) == []
    assert project_db.execute("SELECT count(*) FROM embed.models").fetchone() == (0,)
    django_project.migrate("pg_embed", "zero")
    assert project_db.execute("SELECT to_regnamespace('embed')").fetchone() == (None,)
    django_project.migrate()
    assert len(vectorizers(project_db)) == 2


def test_fields_come_change_and_go(with_model: Project, project_db: Connection) -> None:
    plain = """
class Doc(models.Model):
    title = models.TextField()
    body = models.TextField(null=True)
"""
    with_model.models(plain)
    with_model.revise()
    with_model.migrate()
    project_db.execute("INSERT INTO shop_doc (title, body) VALUES ('a', 'b')")

    with_model.models(BOTH)
    assert steps(with_model.revise("-n", "added")) == ["AddField", "AddField", "CreateVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db) == [("shop_doc", "{body}", "three", ["embedding", "words"], None)]
    project_db.execute("UPDATE shop_doc SET embedding = '[1,2,3,4,5,6,7,8]'")

    with_model.models(BOTH.replace("{body}", "{title} {body}"))
    assert steps(with_model.revise("-n", "text")) == ["AlterField", "AlterField", "AlterVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db)[0][1] == "{title} {body}"
    assert project_db.execute("SELECT embedding FROM shop_doc").fetchone() == ("[1,2,3,4,5,6,7,8]",)

    with_model.migrate("shop", "0002")
    assert vectorizers(project_db)[0][1] == "{body}"
    with_model.migrate()

    with_model.models(plain)
    assert steps(with_model.revise("-n", "gone")) == ["DropVectorizer", "RemoveField", "RemoveField"]
    with_model.migrate()
    assert vectorizers(project_db) == []
    with_model.migrate("shop", "0003")
    assert vectorizers(project_db) == [("shop_doc", "{title} {body}", "three", ["embedding", "words"], None)]


def test_fields_part_and_meet(with_model: Project, project_db: Connection) -> None:
    with_model.models(BOTH)
    with_model.revise()
    with_model.migrate()
    project_db.execute("INSERT INTO shop_doc (title, body, embedding) VALUES ('a', 'b', '[1,2,3,4,5,6,7,8]')")
    with_model.models(BOTH.replace("**THREE", "filter='id > 0', **THREE"))
    parted = ["DropVectorizer", "AlterField", "CreateVectorizer", "CreateVectorizer"]
    assert steps(with_model.revise("-n", "parted")) == parted
    with_model.migrate()
    assert with_model.is_settled()
    assert [row[3:] for row in vectorizers(project_db)] == [(["embedding"], "(id > 0)"), (["words"], None)]
    with_model.models(BOTH)
    assert steps(with_model.revise("-n", "met"))[:2] == ["DropVectorizer", "DropVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert [row[3:] for row in vectorizers(project_db)] == [(["embedding", "words"], None)]
    assert project_db.execute("SELECT embedding FROM shop_doc").fetchone() == ("[1,2,3,4,5,6,7,8]",)


def test_a_field_leaves_the_text_and_the_table_at_once(with_model: Project, project_db: Connection) -> None:
    before = BOTH.replace("{body}", "{title} {body}")
    with_model.models(before)
    with_model.revise()
    with_model.migrate()
    after = before.replace("    title = models.TextField()", "    more = models.TextField(null=True)")
    with_model.models(after.replace("{title} {body}", "{body} {more}"))
    made = steps(with_model.revise("-n", "other"))
    assert made == ["AddField", "AlterField", "AlterField", "AlterVectorizer", "RemoveField"]
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db)[0][1] == "{body} {more}"
    with_model.migrate("shop", "0001")
    assert vectorizers(project_db)[0][1] == "{title} {body}"


TOKENS = f'{BOTH}    tokens = EmbeddedField("{{body}}", model="three", output="multi", dimensions=8)\n'


def test_token_vectors_are_a_column(with_model: Project, project_db: Connection) -> None:
    with_model.models(TOKENS)
    with_model.revise()
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db)[0][2:4] == ("three", ["embedding", "words", "tokens"])
    multi = literals(["words"])[0]["multi"]
    project_db.execute("INSERT INTO shop_doc (title, tokens) VALUES ('a', NULL), ('b', %s)", [multi])
    read = "print([d.tokens and len(d.tokens[0]) for d in Doc.objects.order_by('title')])"
    assert with_model.run(read) == "[None, 8]\n"
    with_model.models(BOTH)
    assert steps(with_model.revise("-n", "gone")) == ["DropVectorizer", "RemoveField", "CreateVectorizer"]
    with_model.migrate()
    assert vectorizers(project_db)[0][2:4] == ("three", ["embedding", "words"])
    with_model.migrate("shop", "0001")
    assert vectorizers(project_db)[0][2:4] == ("three", ["embedding", "words", "tokens"])


def test_a_switch_is_told_the_sizes_of_all_outputs(with_model: Project, project_db: Connection) -> None:
    create_fake_model(project_db, "second", dimensions=3, sparse_dimensions=500, multi_dimensions=4)
    with_model.models(TOKENS)
    with_model.revise()
    sizes = "{'dense': 3, 'sparse': 500, 'multi': 4}"
    switch = f"SwitchModel('doc', 'words', model='second', dimensions={sizes})"
    with_model.write("0002_switch", "0001_initial", switch)
    with_model.migrate()
    assert vectorizers(project_db)[0][2:4] == ("second", ["embedding", "words", "tokens"])
    types = project_db.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'shop_doc'::regclass"
        " AND attname IN ('embedding', 'words', 'tokens') ORDER BY attname"
    )
    assert types.fetchall() == [("vector(3)",), ("halfvec(4)[]",), ("sparsevec(500)",)]
    other = TOKENS.replace("**THREE", "model='second', dimensions=3, column_type='vector'")
    other = other.replace("**SPARSE", "model='second', dimensions=500, output='sparse'")
    with_model.models(other.replace('"three"', '"second"').replace("=8", "=4"))
    assert with_model.is_settled()


def test_a_migration_that_saves_rows_leaves_vectors(with_model: Project, project_db: Connection) -> None:
    with_model.models(BOTH)
    with_model.revise()
    with_model.migrate()
    project_db.execute("INSERT INTO shop_doc (title, body, embedding) VALUES ('a', 'b', '[1,2,3,4,5,6,7,8]')")
    docs = "apps.get_model('shop', 'Doc').objects"
    late = f"[({docs}.update(embedding=[2] * 8, title='c'), doc.save()) for doc in {docs}.all()]"
    made = f"{docs}.create(title='new', body='d').save()"
    with_model.write("0002_rows", "0001_initial", f"migrations.RunPython(lambda apps, _: {late} and {made})")
    with_model.migrate()
    rows = project_db.execute("SELECT title, embedding FROM shop_doc ORDER BY id").fetchall()
    assert rows == [("a", "[2,2,2,2,2,2,2,2]"), ("new", None)]


def test_another_model_makes_the_column_anew(with_model: Project, project_db: Connection) -> None:
    create_fake_model(project_db, "second", dimensions=3)
    with_model.models(BOTH)
    with_model.revise()
    with_model.migrate()
    project_db.execute("INSERT INTO shop_doc (title, body, embedding) VALUES ('a', 'b', '[1,2,3,4,5,6,7,8]')")
    with_model.models(BOTH.replace("**THREE", "model='second', dimensions=3"))
    made = with_model.revise("-n", "second")
    assert steps(made)[0] == "DropVectorizer"
    assert steps(made)[-1] == "CreateVectorizer"
    assert sorted(steps(made)) == ["AddField", *["CreateVectorizer"] * 2, "DropVectorizer", "RemoveField"]
    with_model.migrate()
    assert with_model.is_settled()
    assert [row[2:4] for row in vectorizers(project_db)] == [("second", ["embedding"]), ("three", ["words"])]
    assert project_db.execute("SELECT embedding FROM shop_doc").fetchone() == (None,)
    with_model.migrate("shop", "0001")
    assert vectorizers(project_db) == [("shop_doc", "{body}", "three", ["embedding", "words"], None)]


def test_names_change_and_vectors_stay(with_model: Project, project_db: Connection) -> None:
    with_model.models(BOTH)
    with_model.revise()
    with_model.migrate()
    before = project_db.execute("SELECT name FROM embed.vectorizers").fetchall()
    project_db.execute("INSERT INTO shop_doc (title, body, embedding) VALUES ('a', 'b', '[1,2,3,4,5,6,7,8]')")
    with_model.write(
        "0002_names",
        "0001_initial",
        "migrations.RenameField('doc', 'body', 'text'),"
        "migrations.RenameField('doc', 'embedding', 'meaning'),"
        "migrations.RenameModel('Doc', 'Page')",
    )
    renamed = BOTH.replace("body =", "text =").replace("embedding =", "meaning =").replace("Doc(", "Page(")
    with_model.models(renamed.replace("{body}", "{text}"))
    assert steps(with_model.revise("-n", "templates")) == ["AlterField", "AlterField", "AlterVectorizer"]
    with_model.migrate()
    assert project_db.execute("SELECT name FROM embed.vectorizers").fetchall() == before
    assert project_db.execute("SELECT meaning FROM shop_page").fetchone() == ("[1,2,3,4,5,6,7,8]",)
    assert vectorizers(project_db) == [("shop_page", "{text}", "three", ["meaning", "words"], None)]
    with_model.models("")
    assert steps(with_model.revise("-n", "gone")) == ["DropVectorizer", "DeleteModel"]
    with_model.migrate()
    assert vectorizers(project_db) == []
    with_model.migrate("shop", "0003")
    assert len(vectorizers(project_db)) == 1


TITLED = f"""{BOTH}
    class Meta:
        constraints = [models.CheckConstraint(condition=~models.Q(title=""), name="titled")]
"""
RENAME = """
from django.core.management import call_command
from django.db.migrations.questioner import MigrationQuestioner
MigrationQuestioner.ask_rename = lambda *told: True
call_command("makemigrations", "shop", "--no-input", "-n", "renamed")
"""


def test_constraints_go_before_their_fields_are_renamed(with_model: Project, project_db: Connection) -> None:
    with_model.models(TITLED)
    with_model.revise()
    with_model.migrate()
    renamed = TITLED.replace("title =", "name =").replace("title=", "name=")
    with_model.models(
        renamed.replace("body =", "text =")
        .replace('"{body}", **SP', '"{name}", **SP')
        .replace("{body}", "{text}")
    )
    with_model.run(RENAME)
    made = (with_model.app / "migrations" / "0002_renamed.py").read_text(encoding="utf-8")
    assert steps(made)[:4] == ["RemoveConstraint", "RenameField", "RenameField", "DropVectorizer"]
    with_model.migrate()
    assert with_model.is_settled()
    assert [row[1] for row in vectorizers(project_db)] == ["{text}", "{name}"]
    with_model.migrate("shop", "0001")
    assert [row[1] for row in vectorizers(project_db)] == ["{body}"]


FILTERED = """
class Doc(models.Model):
    kind = models.TextField(default="kind")
    n = models.IntegerField(default=1)
    embedding = EmbeddedField("{n}", filter="n > 0 AND kind = 'kind'", **THREE)
"""


def test_a_filter_follows_its_columns(with_model: Project, project_db: Connection) -> None:
    with_model.models(FILTERED)
    with_model.revise()
    with_model.migrate()
    renamed = FILTERED.replace(" n =", " m =").replace('"{n}"', '"{m}"')
    renamed = renamed.replace('default="kind"', 'default="kind", db_column="The Kind"')
    with_model.models(renamed.replace("n > 0 AND kind", 'm > 0 AND \\"The Kind\\"'))
    with_model.run(RENAME)
    made = (with_model.app / "migrations" / "0002_renamed.py").read_text(encoding="utf-8")
    assert steps(made) == ["RenameField", "AlterField", "AlterField"]
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db)[0][4] == "((m > 0) AND (\"The Kind\" = 'kind'::text))"
    with_model.migrate("shop", "0001")
    assert vectorizers(project_db)[0][4] == "((n > 0) AND (kind = 'kind'::text))"


WIDTHS = """
class Doc(models.Model):
    title = models.CharField(max_length=100, db_column="The Title")
    body = models.TextField(null=True)
    n = models.IntegerField(default=1)
    other = models.IntegerField(default=1)
    embedding = EmbeddedField("{title}: {body}", filter='n > 0 AND "The Title" IS NOT NULL', **THREE)
    chunks = ChunkedField("{title}", **THREE)
"""


def test_types_change_of_what_is_embedded(with_model: Project, project_db: Connection) -> None:
    with_model.models(WIDTHS)
    with_model.revise()
    with_model.migrate()
    project_db.execute("INSERT INTO shop_doc VALUES (1, 'a', 'b', 1, 1)")
    project_db.execute("DELETE FROM embed._queue; DELETE FROM embed._backfill")
    wide = WIDTHS.replace("max_length=100", "max_length=200").replace("n = models.Int", "n = models.BigInt")
    wide = wide.replace("other = models.Integer", "other = models.BigInteger")
    with_model.models(wide)
    made = with_model.revise("-n", "wide")
    assert steps(made) == ["AlterField"] * 3
    assert made.count("pg_embed.django.operations.AlterField(") == 2
    for _ in range(2):
        with_model.migrate()
        assert with_model.is_settled()
        assert waiting(project_db) == (0, [])
        project_db.execute("""UPDATE shop_doc SET "The Title" = "The Title" || '!'""")
        assert waiting(project_db) == (2, [])
        project_db.execute("DELETE FROM embed._queue")
        with_model.migrate("shop", "0001")  # to fewer characters: texts may be cut
        assert waiting(project_db) == (0, ["all", "all"])
        project_db.execute("DELETE FROM embed._backfill")
    with_model.migrate()
    with_model.models(wide.replace("body = models.TextField(null=True)", "body = models.TextField()"))
    assert "operations.AlterField" not in with_model.manage(
        "makemigrations", "--dry-run", "-v3", "--no-input"
    )
    with_model.models(
        wide.replace("n > 0 AND", "").replace("    n = models.BigIntegerField(default=1)\n", "")
    )
    made = with_model.revise("-n", "filter")
    assert steps(made) == ["AlterField", "AlterVectorizer", "RemoveField"]
    with_model.migrate()
    assert with_model.is_settled()


SMALL = """
class Place(models.Model):
    id = models.AutoField(primary_key=True)
    name = models.TextField()
    vectors = EmbeddedField("{name}", **THREE)

class Cafe(Place):
    menu = models.TextField()
    menu_vectors = EmbeddedField("{menu}", **THREE)
"""


def test_a_key_becomes_larger(with_model: Project, project_db: Connection) -> None:
    with_model.models(SMALL)
    with_model.revise()
    with_model.migrate()
    with_model.run("Cafe.objects.create(name='Roma', menu='soup')")
    project_db.execute("DELETE FROM embed._queue; DELETE FROM embed._backfill")
    with_model.models(SMALL.replace("AutoField", "BigAutoField"))
    with_model.revise("-n", "big")
    for _ in range(2):
        with_model.migrate()
        assert waiting(project_db) == (0, [])
        with_model.run("cafe = Cafe.objects.get(); cafe.name += '!'; cafe.menu += '!'; cafe.save()")
        assert waiting(project_db) == (2, [])
        project_db.execute("DELETE FROM embed._queue")
        with_model.migrate("shop", "0001")
    assert with_model.run("print(Cafe.objects.get().menu)") == "soup!!\n"


def test_a_change_of_type_survives_a_squash(with_model: Project, project_db: Connection) -> None:
    plain = WIDTHS.replace(', db_column="The Title"', "").replace('"The Title"', "title")
    with_model.models(plain)
    with_model.revise()
    with_model.models(plain.replace("=100", "=200"))
    with_model.revise("-n", "wide")
    longest = "migrations.AlterField('doc', 'name', models.CharField(max_length=300))"
    with_model.write("0003_name", "0002_wide", f"migrations.RenameField('doc', 'title', 'name'), {longest}")
    with_model.manage("squashmigrations", "shop", "0003", "--no-input")
    (squashed,) = with_model.app.glob("migrations/0001_squashed*.py")
    assert squashed.read_text(encoding="utf-8").count("pg_embed.django.operations.AlterField(") == 1
    with_model.migrate()
    row = project_db.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'name'"
        " AND attrelid = 'shop_doc'::regclass"
    ).fetchone()
    assert row == ("character varying(300)",)


def waiting(db: Connection) -> tuple[Any, list[str]]:
    """Rows that are queued, and the modes of backfills."""
    queued = db.execute("SELECT COALESCE(sum(n), 0) FROM embed._queue").fetchone()
    assert queued is not None
    modes = db.execute("SELECT mode FROM embed._backfill ORDER BY vectorizer_id").fetchall()
    return int(queued[0]), [row[0] for row in modes]


SHAPES = """
class Place(models.Model):
    name = models.TextField(db_column='The Name')
    story = models.TextField(null=True)
    vectors = EmbeddedField("{name}: {{{story}}}", db_column='Vec', filter='story IS NOT NULL', **THREE)
    other = EmbeddedField("{story}", vectorizer="stories", **THREE)

    class Meta:
        db_table = '"Shop 1"."Places"'

class Cafe(Place):
    menu = models.TextField()
    menu_vectors = EmbeddedField("{menu}", **THREE)

class Texts(models.Model):
    text = models.TextField()
    text_vectors = EmbeddedField("{text}", **THREE)

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
    number = models.IntegerField()

class Room(models.Model):
    name = models.TextField()
    vectors = EmbeddedField("{name}", **THREE)

class Parlour(Room):
    chairs = models.IntegerField()

class Elsewhere(models.Model):
    text = models.TextField()
    vectors = EmbeddedField("{text}", **THREE)

    class Meta:
        managed = False
"""
FILL = """
poem = Poem.objects.create(text="a poem")
Line.objects.bulk_create([Line(poem=poem, number=n, text=f"line {n}") for n in (1, 2)])
Place.objects.create(name="Hall", story="new")
cafe = Cafe(name="Roma", story="old", menu="soup")
cafe.full_clean()
cafe.save()
cafe.name = "Rome"
cafe.save()
line = Line.objects.get(pk=(poem.pk, 2))
line.save()
"""
FIND = """
from pg_embed.django import search
chosen = {"mode": "dense", "vectorizer": "stories"}
for model, options in ((Place, chosen), (Cafe, {}), (Poem, {}), (Ode, {}), (Line, {})):
    found = search(model._base_manager.all(), "words", **options)
    print(model.__name__, found.count(), sorted(hit.pk for hit in found))
print(search(Line._base_manager.filter(pk__in=[(1, 2), (9, 9)]), "words", k=1).get().number)
print(search(Cafe._base_manager.filter(name="Rome", menu="soup"), "words", k=1).get().story)
print(search(Parlour._base_manager.filter(name="Roma"), "words", k=1).get().chairs)
"""


def test_shapes_of_models(with_model: Project, project_db: Connection) -> None:
    project_db.execute('CREATE SCHEMA "Shop 1"')
    with_model.models(SHAPES)
    with_model.revise()
    with_model.migrate()
    assert with_model.is_settled()
    assert [row[:4] for row in vectorizers(project_db)] == [
        ('"Shop 1"."Places"', "{The Name}: {{{story}}}", "three", ["Vec"]),
        ('"Shop 1"."Places"', "{story}", "three", ["other"]),
        ("shop_cafe", "{menu}", "three", ["menu_vectors"]),
        ("shop_line", "{text}", "three", ["text_vectors"]),
        ("shop_poem", "{text}", "three", ["text_vectors"]),
        ("shop_room", "{name}", "three", ["vectors"]),
    ]
    with_model.run(FILL)
    with_model.run("[Parlour.objects.create(name='Roma', chairs=n) for n in (3,)]")
    with_model.run("[Room.objects.create(name='Roma') for n in range(20)]")
    project_db.execute(SIDECAR.encode())
    answer(project_db, "words")
    vector = literals(["words"])[0]["dense"]
    tables = {'"Shop 1"."Places"': "other", "shop_cafe": "menu_vectors", "shop_poem": "text_vectors"}
    for table, column in {**tables, "shop_line": "text_vectors", "shop_room": "vectors"}.items():
        project_db.execute(f"UPDATE {table} SET {column} = '{vector}'".encode())
    lines = ["Place 2 [1, 2]", "Cafe 1 [2]", "Poem 1 [1]", "Ode 1 [1]", "Line 2 [(1, 1), (1, 2)]"]
    assert with_model.run(FIND).splitlines() == [*lines, "2", "old", "3"]
    with_model.migrate("shop", "zero")
    assert vectorizers(project_db) == []


def test_by_hand(with_model: Project, project_db: Connection) -> None:
    create_fake_model(project_db, "second", dimensions=3)
    with_model.models(BOTH)
    with_model.revise()
    with_model.write(
        "0002_hand",
        "0001_initial",
        "CreateModel('mine', 'fake', options={'dimensions': 5}, card={'family': 'fake', 'checkpoint': 'none',"
        " 'outputs': ['dense'], 'dimensions': 5, 'max_tokens': 100, 'metric': 'cosine', 'space_id': 'x'}),"
        "CreateVectorizer('doc', ['title', 'body'], model='mine', dense='own', name='own'),"
        "AlterVectorizer('doc', 'own', template='{title}', filter='id > 3', index='hnsw',"
        " existing_index='none', existing_template='{title}\\n{body}', existing_filter=''),"
        "EmbedUpgrade(remove=False)",
    )
    with_model.migrate()
    assert with_model.is_settled()
    assert vectorizers(project_db)[0] == ("shop_doc", "{title}", "mine", ["own"], "(id > 3)")
    with_model.migrate("shop", "0001")
    assert len(vectorizers(project_db)) == 1
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'shop_doc'::regclass AND attname = 'own'"
    assert project_db.execute(columns).fetchone() == (1,)
    with_model.write(
        "0002_hand", "0001_initial", "DropVectorizer('doc', dense='embedding', drop_column=True)"
    )
    with_model.migrate()
    assert vectorizers(project_db) == []
    with pytest.raises(AssertionError, match="IrreversibleError"):
        with_model.migrate("shop", "0001")


def test_a_model_is_switched_without_a_pause(with_model: Project, project_db: Connection) -> None:
    create_fake_model(project_db, "second", dimensions=3)
    with_model.models(BOTH.replace('    words = EmbeddedField("{body}", **SPARSE)\n', ""))
    with_model.revise()
    with_model.migrate()
    switch = "SwitchModel('doc', 'embedding', model='second', dimensions=3)"
    with_model.write("0002_switch", "0001_initial", switch)
    switched = BOTH.replace("**THREE", "model='second', dimensions=3, column_type='vector'")
    with_model.models(switched.replace('    words = EmbeddedField("{body}", **SPARSE)\n', ""))
    assert with_model.is_settled()
    with_model.migrate()
    assert vectorizers(project_db)[0][2:4] == ("second", ["embedding"])
    with_model.migrate("shop", "0001")
    assert ("three", ["embedding"]) in [row[2:4] for row in vectorizers(project_db)]
    project_db.execute("SELECT embed.forget_switch('shop_doc_embedding')")
    project_db.execute("INSERT INTO shop_doc (title, body) VALUES ('a', 'b')")
    with_model.migrate()
    assert project_db.execute("SELECT other_model FROM embed.switches()").fetchall() == [("second",)]
    assert vectorizers(project_db)[0][2:4] == ("three", ["embedding"])
    with_model.migrate("shop", "0001")
    assert project_db.execute("SELECT other_model FROM embed.switches()").fetchall() == []


def test_two_databases(django_project: Project, project_db: Connection, bare_dsn: str) -> None:
    lite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(django_project.folder / "lite")}
    router = """
class Router:
    def db_for_read(self, model, **hints):
        return "texts" if model._meta.model_name == "doc" else "default"
    db_for_write = db_for_read
    def allow_migrate(self, db, app_label, model_name=None, **hints):
        if app_label == "pg_embed":
            return db == "texts"
        return (model_name != "doc") == (db == "default")
DATABASE_ROUTERS = [Router()]
"""
    databases = {"default": lite, "texts": database(bare_dsn)}
    django_project.models(DOC + "class Note(models.Model):\n    text = models.TextField()\n")
    django_project.settings(router.replace('return db == "texts"', "return False"), databases=databases)
    django_project.revise()
    with pytest.raises(AssertionError, match=r"E006.*keeps the app 'pg_embed' out of it"):
        django_project.migrate("--database", "texts")
    django_project.settings(router, databases=databases)
    django_project.migrate()
    django_project.migrate("--database", "texts")
    assert len(vectorizers(project_db)) == 2
    django_project.run("Note.objects.create(text='a'); Doc.objects.create(title='b')")
    assert project_db.execute("SELECT title FROM shop_doc").fetchall() == [("b",)]


def test_the_commands_of_django_go_on(django_project: Project, project_db: Connection, bare_dsn: str) -> None:
    django_project.models(DOC)
    django_project.revise()
    django_project.migrate()
    django_project.run("Doc.objects.create(title='a'); d = Doc.objects.get(); d.title = 'b'; d.save()")
    project_db.execute("UPDATE shop_doc SET embedding = array_fill(1, ARRAY[384])::vector")
    dumped = django_project.manage("dumpdata", "shop", "--output", "all.json")
    assert "embedding" not in (django_project.folder / "all.json").read_text(encoding="utf-8"), dumped
    django_project.manage("loaddata", "all.json")
    assert project_db.execute("SELECT title, embedding IS NULL FROM shop_doc").fetchall() == [("b", False)]
    assert "class ShopDoc(models.Model)" in django_project.manage("inspectdb")
    django_project.manage("flush", "--no-input")
    assert project_db.execute("SELECT count(*) FROM shop_doc").fetchone() == (0,)
    django_project.manage("check", "--database", "default")
    tests = """
from django.test import TestCase, TransactionTestCase
from django.db import connection
from shop.models import Doc

class InTransaction(TestCase):
    def test_rows_wait(self):
        Doc.objects.create(title="a")
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM embed.vectorizers")
            self.assertEqual(cursor.fetchone(), (2,))
        self.assertIsNone(Doc.objects.get().embedding)

class Flushed(TransactionTestCase):
    def test_rows_wait(self):
        self.assertIsNone(Doc.objects.create(title="a").embedding)
"""
    (django_project.app / "tests.py").write_text(tests, encoding="utf-8")
    assert "Ran 2 tests" in django_project.manage("test", "shop")


def test_what_is_wrong_is_told(django_project: Project) -> None:
    lite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    django_project.models(DOC.replace("{title}", "{titel}"))
    with pytest.raises(AssertionError, match=r"E003.*\{titel\}, which is no field"):
        django_project.manage("check")
    django_project.models(DOC)
    django_project.settings("INSTALLED_APPS.remove('pg_embed.django')", databases={"default": lite})
    with pytest.raises(AssertionError, match=r'(?s)E001.*add "pg_embed\.django"') as told:
        django_project.manage("check")
    assert "database 'default' is sqlite" in str(told.value)
    django_project.models(DOC.replace('"bm25"', '"all-MiniLM-L6-v2"'))
    with pytest.raises(AssertionError, match="makes no sparse vectors"):
        django_project.manage("check")


def test_a_table_is_not_made_without_migrations(django_project: Project) -> None:
    django_project.models(DOC)
    with pytest.raises(AssertionError, match="app 'shop' has none"):
        django_project.run(
            "from django.db import connection\nwith connection.schema_editor() as e: e.create_model(Doc)"
        )
