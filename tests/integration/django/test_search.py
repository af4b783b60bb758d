"""search() of Django gives what embed.search gives in SQL, and takes what a QuerySet takes."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from pg_embed.errors import InvalidArgument
from tests.fix_django import configure, connected
from tests.fix_pg import MakeRole
from tests.fix_search import answer, create_docs, fill
from tests.fix_worker import Connection

configure()

from django.contrib.postgres.fields import ArrayField  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.db.models import Avg, Count, Exists, F, Max, OuterRef, Q, Subquery, Value  # noqa: E402
from django.db.models.expressions import RawSQL  # noqa: E402
from django.db.models.functions import Length, Lower  # noqa: E402

from pg_embed.django import EmbeddedField, EmbeddedManager, search  # noqa: E402

QUERY = "quick red fox 7"
OTHER = "lazy blue dog"
SCORES = "score, dense_rank, dense_score, sparse_rank, sparse_score, rerank_score"
NAMES = SCORES.split(", ")
ROWS = 1_000

FURTHER = """
ALTER TABLE docs ADD day date, ADD at timestamptz, ADD price numeric, ADD uid uuid, ADD odd bool,
    ADD spent interval;
UPDATE docs SET day = date '2020-01-01' + id::int,
    at = timestamptz '2020-01-01 00:00+00' + id * interval '1 hour',
    price = id / 8.0, odd = id % 2 = 1, uid = lpad(id::text, 32, '0')::uuid, spent = id * interval '1 minute';
"""


class Doc(models.Model):
    body = models.TextField(null=True)
    lang = models.TextField(null=True)
    year = models.IntegerField()
    tags = ArrayField(models.TextField())
    meta = models.JSONField()
    day = models.DateField()
    at = models.DateTimeField()
    price = models.DecimalField(max_digits=9, decimal_places=3)
    uid = models.UUIDField()
    odd = models.BooleanField()
    spent = models.DurationField()
    embedding = EmbeddedField("{body}", model="three", dimensions=8, column_type="vector")
    words = EmbeddedField("{body}", model="three", dimensions=1_000, output="sparse")
    objects = EmbeddedManager()

    class Meta:
        app_label = "found"
        db_table = "docs"
        managed = False


class Note(models.Model):
    doc = models.ForeignKey(Doc, models.CASCADE, related_name="notes")
    stars = models.IntegerField()
    objects = EmbeddedManager()

    class Meta:
        app_label = "found"
        db_table = "notes"
        managed = False


class Scored(models.Model):
    score = models.IntegerField()

    class Meta:
        app_label = "found"


class Awkward(models.Model):
    id = models.BigIntegerField(primary_key=True, db_column="The id")
    lang = models.TextField(db_column='La $c$ "ng')

    class Meta:
        app_label = "found"
        db_table = '"Shop 1"."My Docs"'
        managed = False


@pytest.fixture
def docs(db: Connection, dsn: str) -> Iterator[Connection]:
    """1,000 rows, of which every 200th is of a rare language and every 10th has two notes."""
    create_docs(db, ROWS)
    answer(db, QUERY, OTHER)
    db.execute("UPDATE docs SET lang = 'rare' WHERE id % 200 = 3")
    db.execute(FURTHER.encode())
    db.execute("CREATE TABLE notes (id bigserial PRIMARY KEY, doc_id bigint REFERENCES docs, stars int)")
    db.execute(
        "INSERT INTO notes (doc_id, stars) SELECT id, s FROM docs, unnest(ARRAY[1, 5]) s WHERE id % 10 = 0"
    )
    with connected(dsn):
        yield db


def in_sql(db: Connection, arguments: str = "") -> list[Any]:
    statement = f"SELECT (hit).id, {SCORES} FROM embed.search(NULL::docs, '{QUERY}'{arguments})"
    return db.execute(statement.encode()).fetchall()


def ids(queryset: Any) -> list[int]:
    return [hit.pk for hit in queryset]


SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"k": 3, "mode": "dense"}, ", k => 3, mode => 'dense'"),
    ({"fusion": "rrf", "weights": (1, 0.5)}, ", fusion => 'rrf', weights => '{1,0.5}'"),
    ({"candidates": 12, "min_score": 0.5}, ", candidates => 12, min_score => 0.5"),
    ({"vectorizer": "docs_embedding"}, ", vectorizer => 'docs_embedding'"),
    (
        {"filter": {"lang": "en", "day": {">": datetime.date(2021, 1, 1)}}},
        ', filter => \'{"lang": "en", "day": {">": "2021-01-01"}}\'',
    ),
    (
        {"diversity": 0.4, "skip": 2, "boost": {"day": {"half_life": "30 days", "weight": 0.5}}},
        ', diversity => 0.4, skip => 2, boost => \'{"day": {"half_life": "30 days", "weight": 0.5}}\'',
    ),
]


def test_django_and_sql_give_the_same_rows(docs: Connection) -> None:
    for options, arguments in SEARCHES:
        wanted = in_sql(docs, arguments)
        assert wanted
        found = Doc.objects.search(QUERY, **options)
        assert [(hit.pk, *(getattr(hit, name) for name in NAMES)) for hit in found] == wanted
        assert list(found.values_list("pk", *NAMES)) == wanted
        assert list(search(Doc._base_manager.all(), QUERY, **options).values_list("pk", *NAMES)) == wanted
        assert found[0].body
        assert found.count() == len(wanted)
        assert found.exists()


FOUR = datetime.datetime(2020, 1, 1, 4, tzinfo=datetime.UTC)
OWN: list[tuple[Any, str]] = [
    (Q(lang="rare"), "lang = 'rare'"),
    (Q(lang__in=["rare", "none"]), "lang IN ('rare', 'none')"),
    (~Q(lang__in=["en", "de"]), "lang IS NULL OR lang NOT IN ('en', 'de')"),
    (Q(lang__in=[]), "false"),
    (~Q(pk__in=[]) & Q(pk__lt=9), "id < 9"),
    (Q(lang=None, year__gt=2020), "lang IS NULL AND year > 2020"),
    (Q(lang="rare") | Q(year=2003), "lang = 'rare' OR year = 2003"),
    (Q(lang="rare") ^ Q(year=2003), "(lang IS NOT DISTINCT FROM 'rare') <> (year = 2003)"),
    (Q(body__contains="red") & Q(body__endswith="7"), "body LIKE '%red%7'"),
    (Q(body__icontains="9%"), "false"),
    (Q(pk=F("year") - 2000), "id = year - 2000"),
    (Q(tags__contains=["t1", "t2"]), "tags @> '{t1,t2}'"),
    (Q(tags__overlap=["t3"], year=2003), "'t3' = ANY (tags) AND year = 2003"),
    (Q(tags__0="t3", year=2003), "tags[1] = 't3' AND year = 2003"),
    (Q(day__range=(datetime.date(2020, 1, 4), datetime.date(2020, 1, 9))), "id BETWEEN 3 AND 8"),
    (Q(day__year=2020, pk__lt=9), "id < 9"),
    (Q(at__date=datetime.date(2020, 1, 1)), "id < 24"),
    (~Q(pk__gt=5), "id <= 5"),
    (Q(price__lte=Decimal("0.625")), "price <= 0.625"),
    (Q(uid__in=[uuid.UUID(int=5), uuid.UUID(int=0x17)]), "id IN (5, 17)"),
    (Q(odd=True, pk__lt=6), "odd AND id < 6"),
    (Q(at__lt=FOUR), "id < 4"),
    (Q(at__lt=Value(FOUR) + F("spent")), "at - spent < '2020-01-01 04:00Z'"),
    (Q(spent__lt=datetime.timedelta(minutes=7)), "id < 7"),
    (Q(meta__contains={"a": 3}, pk__lt=30), "id % 4 = 3 AND id < 30"),
    (Q(meta__a=3, pk__lt=30), "id % 4 = 3 AND id < 30"),
    (Q(meta__has_key="a", pk__lt=30), "id < 30"),
    (Q(body__regex="7$", pk__lt=90), "body ~ '7$' AND id < 90"),
    (Q(lang=Lower(Value("RARE"))), "lang = 'rare'"),
]


def test_a_condition_on_the_table_holds_within_the_search(docs: Connection) -> None:
    for condition, wanted in OWN:
        rows = {row[0] for row in docs.execute(f"SELECT id FROM docs WHERE {wanted}".encode()).fetchall()}
        hits = ids(Doc.objects.search(QUERY, k=5).filter(condition))
        assert len(hits) == min(len(rows), 5), wanted
        assert set(hits) <= rows, wanted
        all_of_them = ids(Doc.objects.filter(condition).search(QUERY, k=ROWS))
        assert set(all_of_them) == rows, wanted
        assert hits == all_of_them[:5], wanted


def test_conditions_come_by_any_way_that_a_queryset_has(docs: Connection) -> None:
    wanted = [row[0] for row in in_sql(docs, ', k => 5, filter => \'{"lang": "rare"}\'')]
    plain = Doc.objects.search(QUERY, k=5)
    assert ids(plain.filter(lang="rare")) == wanted
    assert ids(plain.filter(year__gt=0).exclude(~Q(lang="rare"))) == wanted
    assert ids(plain.alias(n=Length("lang")).filter(n__gt=3)) == wanted
    assert ids(plain.annotate(low=Lower("lang")).filter(low="rare").defer("body")) == wanted
    assert set(plain.filter(lang="rare").in_bulk([3, 203, 4])) == {3, 203}
    assert plain.filter(lang="rare").get(pk=403).score is not None
    assert ids(plain.filter(pk__in=Doc.objects.none())) == []


def test_a_condition_on_more_than_the_table_is_applied_to_the_answer(docs: Connection) -> None:
    plain = Doc.objects.search(QUERY, k=50)
    every = ids(plain)
    assert any(pk % 10 == 0 for pk in every)
    for condition in (
        Q(notes__stars=5),
        Q(pk__in=Note.objects.values("doc")),
        Exists(Note.objects.filter(doc=OuterRef("pk"), stars=5)),
        Q(pk=RawSQL("docs.id - docs.id %% 10", [])),
    ):
        assert ids(plain.filter(condition)) == [pk for pk in every if pk % 10 == 0]


HOSTILE = [
    "'; DROP TABLE docs; --",
    "$c$ || (SELECT 1/0) || $c$",
    "\\'; SELECT 1/0; --",
    "%(lang_1)s %s % %% {}",
    "$1 $c$$c1$ :lang",
    "' OR true OR '",
    'ä"€\n\\',
]


@pytest.mark.parametrize("binding", [False, True], ids=["by the client", "by the server"])
def test_values_are_never_read_as_sql(docs: Connection, dsn: str, binding: bool) -> None:
    connection.close()
    with connected(dsn, server_side_binding=binding):
        for conforming in ("on", "off"):
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('standard_conforming_strings', %s, false)", [conforming])
            for value in HOSTILE:
                docs.execute("UPDATE docs SET lang = %s, tags = ARRAY[%s] WHERE id = 77", [value, value])
                for condition in ({"lang": value}, {"lang__in": [value]}, {"tags__contains": [value]}):
                    assert ids(Doc.objects.search(QUERY).filter(**condition)) == [77]
                assert ids(Doc.objects.search(QUERY, mode="dense").filter(lang=value + "'")) == []


def test_a_queryset_of_hits_is_a_queryset(docs: Connection) -> None:
    found = Doc.objects.search(QUERY, k=20)
    every = ids(found)
    assert [pk for start in range(0, 21, 7) for pk in ids(found[start : start + 7])] == every
    assert ids(found.reverse()) == every[::-1]
    assert ids(found.order_by("pk")) == sorted(every)
    assert (found.first().pk, found.last().pk) == (every[0], every[-1])
    best = found.filter(score__gt=found[5].score)
    assert ids(best) == every[:5]
    assert best.count() == 5
    average = found.aggregate(average=Avg("score"), n=Count("*"))
    assert average["n"] == 20
    assert average["average"] == pytest.approx(sum(hit.score for hit in found) / 20)
    assert len(found.all()[:3].union(Doc.objects.search(QUERY, k=20)[3:5])) == 5
    assert list(found.values("score")[:1]) == [{"score": found[0].score}]
    assert set(found.dates("day", "year")) <= {datetime.date(year, 1, 1) for year in range(2020, 2024)}
    assert ids(found.iterator(chunk_size=3)) == every
    assert ids(found.distinct()) == every
    assert ids(Doc.objects.filter(pk__in=found.values("pk")).order_by("pk")) == sorted(every)
    in_notes = Note.objects.filter(doc__in=found.filter(lang="rare")).values_list("doc", flat=True)
    assert set(in_notes) == {pk for pk in ids(found.filter(lang="rare")) if pk % 10 == 0}
    assert "embed._search_v1" in str(found.query)
    assert found.explain()


def test_hits_stand_within_other_queries(docs: Connection) -> None:
    found = Doc.objects.search(QUERY, k=20)
    every = ids(found)
    assert set(ids(Doc.objects.filter(pk__in=found.values("pk")[:3]))) == set(every[:3])
    assert set(ids(Doc.objects.filter(pk__in=found.all()[3:5]))) == set(every[3:5])
    assert set(ids(Doc.objects.filter(pk__in=found.reverse().values("pk")[:3]))) == set(every[-3:])
    best = found.filter(pk=OuterRef("doc")).values("score")[:1]
    scored = Note.objects.annotate(best=Subquery(best)).filter(best__isnull=False)
    assert {(note.doc_id, note.best) for note in scored} == {
        (hit.pk, hit.score) for hit in found if hit.pk % 10 == 0
    }
    both = found.filter(pk__in=Doc.objects.search(OTHER, k=500).values("pk")[:500])
    assert set(ids(both)) == set(every) & set(ids(Doc.objects.search(OTHER, k=500)))
    assert ids(found.union(Doc.objects.search(OTHER, k=1), all=True)[:20]) == every


def test_hits_are_counted_by_groups(docs: Connection) -> None:
    docs.execute("UPDATE docs SET lang = 'none' WHERE lang IS NULL")
    found = Doc.objects.search(QUERY, k=40)
    langs = [hit.lang for hit in found]
    counted = found.values("lang").annotate(n=Count("pk"), best=Max("score"))
    wanted = [(lang, langs.count(lang)) for lang in dict.fromkeys(langs)]  # the one of the best hit first
    assert [(row["lang"], row["n"]) for row in counted] == wanted
    assert counted[0]["best"] == found[0].score
    assert list(counted.order_by("lang").values_list("lang", flat=True)) == sorted(set(langs))
    of_each = found.annotate(n=Count("notes")).values_list("pk", "n")
    assert list(of_each) == [(hit.pk, 2 * (hit.pk % 10 == 0)) for hit in found]
    assert [row["lang"] for row in counted.reverse()] == [lang for lang, _ in reversed(wanted)]


def test_hits_are_combined_by_their_conditions(docs: Connection) -> None:
    found = Doc.objects.search(QUERY, k=5)
    rare = Doc.objects.filter(lang="rare")
    assert set(ids(found & rare)) == set(ids(rare & found)) == set(ids(found.filter(lang="rare")))
    for combine in (
        lambda: found | rare,
        lambda: rare | found,
        lambda: found ^ rare,
        lambda: rare ^ found,
        lambda: found & Doc.objects.search(OTHER),
        lambda: found | Doc.objects.search(OTHER),
    ):
        with pytest.raises(InvalidArgument, match="combined") as told:
            combine()
        assert "union()" in str(told.value.hint)


def test_related_rows_are_loaded_with_the_hits(docs: Connection) -> None:
    docs.execute("UPDATE docs SET lang = 'ten' WHERE id % 10 = 0")
    found = Doc.objects.search(QUERY, k=8).filter(lang="ten")
    every = ids(found)
    assert len(every) == 8
    loaded = found.prefetch_related("notes")
    assert all(sorted(note.stars for note in hit.notes.all()) == [1, 5] for hit in loaded)
    counted = found.annotate(n=Count("notes"))
    assert [(hit.pk, hit.n) for hit in counted] == [(pk, 2) for pk in every]
    both = found.filter(notes__stars=5).select_related(None).values_list("pk", "notes__stars")
    assert list(both) == [(pk, 5) for pk in every]
    either = found.filter(Q(notes__stars=5) | Q(year=0))
    assert ids(either) == every


def test_notes_are_searched_beside_their_documents(docs: Connection) -> None:
    docs.execute(
        "ALTER TABLE notes ADD body text; UPDATE notes SET body = (SELECT body FROM docs WHERE id = doc_id)"
    )
    docs.execute(
        "SELECT embed.create_vectorizer('notes', 'body', model => 'three', column_type => 'vector',"
        " sparse_column => 'words')"
    )
    fill(docs, "notes")
    found = Note.objects.search(QUERY, k=6).select_related("doc").filter(stars=5)
    assert len(found) == 6
    assert all((hit.stars, hit.doc_id) == (5, hit.doc.pk) for hit in found)
    assert ids(found.filter(doc=found[0].doc)) == [found[0].pk]
    assert ids(found.filter(doc__lang="none")) == []


def test_rows_that_were_found_are_changed_and_deleted(docs: Connection) -> None:
    docs.execute("DELETE FROM notes")
    found = ids(Doc.objects.search(QUERY, k=5).filter(lang="rare"))
    assert Doc.objects.search(QUERY, k=5).filter(lang="rare").update(year=1) == 5
    assert set(ids(Doc.objects.filter(year=1))) == set(found)
    assert Doc.objects.search(QUERY, k=2).filter(lang="rare").delete()[0] == 2
    assert Doc.objects.filter(lang="rare").count() == 3


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_hits_come_asynchronously(docs: Connection) -> None:
    wanted = [row[0] for row in in_sql(docs, ", k => 4")]
    found = Doc.objects.search(QUERY, k=4)
    assert [hit.pk async for hit in found] == wanted
    assert await found.acount() == 4
    first = await found.afirst()
    assert first.pk == wanted[0]
    await sync_to_async(lambda: connection.close())()


def test_half_a_percent_of_the_rows_still_gives_k_with_an_index(docs: Connection) -> None:
    docs.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    docs.execute("ANALYZE docs; SELECT set_config('embed.exact_rows', '0', false)")
    with connection.cursor() as cursor:
        cursor.execute("SET embed.exact_rows = 0")
    hits = ids(Doc.objects.search(QUERY, k=5, mode="dense").filter(lang="rare"))
    assert set(hits) == {3, 203, 403, 603, 803}
    arguments = ", k => 5, mode => 'dense', filter => '{\"lang\": \"rare\"}'"
    assert hits == [row[0] for row in in_sql(docs, arguments)]


def test_hits_are_read_by_their_keys(docs: Connection) -> None:
    docs.execute("ANALYZE docs")
    plan = Doc.objects.search(QUERY).filter(year__gt=2003).explain()
    assert "Function Scan on _search_v1" in plan
    assert "Index Scan using docs_pkey" in plan
    assert "Seq Scan" not in plan


def test_names_are_quoted(docs: Connection) -> None:
    docs.execute('CREATE SCHEMA "Shop 1"; ALTER TABLE docs SET SCHEMA "Shop 1"')
    docs.execute('ALTER TABLE "Shop 1".docs RENAME TO "My Docs"')
    docs.execute('ALTER TABLE "Shop 1"."My Docs" RENAME lang TO "La $c$ ""ng"')
    docs.execute('ALTER TABLE "Shop 1"."My Docs" RENAME id TO "The id"')
    found = search(Awkward._base_manager.only("pk"), QUERY, k=5)
    assert len(ids(found)) == 5


def test_rights_and_policies_are_the_callers(docs: Connection, make_role: MakeRole) -> None:
    docs.execute("GRANT SELECT ON docs TO embed_reader; ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs.execute("CREATE POLICY even ON docs USING (id % 400 = 3)")
    connection.close()
    with connected(make_role("embed_reader").dsn):
        hits = ids(Doc.objects.search(QUERY, k=5).filter(lang="rare"))
    assert set(hits) == {3, 403, 803}


def test_scores_of_another_name_leave_a_field_alone() -> None:
    with pytest.raises(InvalidArgument, match="has a field 'score' itself"):
        search(Scored._base_manager.all(), QUERY)
    found = search(Scored._base_manager.all(), QUERY, prefix="search_")
    assert "search_score" in found.query.annotations


def test_what_cannot_be_searched_is_told() -> None:
    with pytest.raises(InvalidArgument, match="sliced"):
        search(Doc.objects.all()[:3], QUERY)
    with pytest.raises(InvalidArgument, match="combined"):
        search(Doc.objects.union(Doc.objects.all()), QUERY)
    with pytest.raises(InvalidArgument, match="searched once"):
        search(Doc.objects.search(QUERY), QUERY, prefix="again_")
