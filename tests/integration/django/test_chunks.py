"""ChunkedField: chunks are related rows that are only read, and rows are searched by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InvalidArgument
from tests.fix_django import configure, connected
from tests.fix_pg import MakeRole
from tests.fix_search import OPTIONS, answer, calls, embeddings, literals, play_sidecar, texts
from tests.fix_worker import Connection

configure()

from django.core import checks  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.db.models import Count, Max, Prefetch  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from pg_embed.django import (  # noqa: E402
    Chunk,
    ChunkedField,
    CosineDistance,
    Embed,
    EmbeddedManager,
    MaxInnerProduct,
    search_chunks,
)

QUERY = "quick red fox 7"
ROWS, CHUNKS = 30, 80
NAMES = ("chunk", "score", "chunk_score", "chunk_no", "context")
THREE: dict[str, Any] = {
    "model": "three",
    "outputs": ("dense", "sparse", "multi"),
    "dimensions": {"dense": 8, "sparse": OPTIONS["sparse_dimensions"], "multi": 8},
    "column_type": "vector",
}


class Guide(models.Model):
    title = models.TextField()
    body = models.TextField()
    lang = models.TextField()
    chunks = ChunkedField("{title}\n{body}", chunking={"size": 64, "overlap": 8}, **THREE)
    objects = EmbeddedManager()

    class Meta:
        app_label = "found"
        db_table = "docs"
        managed = False


class Twice(models.Model):
    first = ChunkedField("{id}", **THREE)
    second = ChunkedField("{id}", **THREE)
    third = ChunkedField("{id}", chunk_table="third", chunk_view="thirds", **THREE)

    class Meta:
        app_label = "found"
        managed = False


@pytest.fixture
def docs(db: Connection, dsn: str) -> Iterator[Connection]:
    """`docs` with chunks of all three outputs; of a row they are written in the wrong order."""
    play_sidecar(db)
    answer(db, QUERY)
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, lang text)")
    db.execute(
        "INSERT INTO docs SELECT n, 't', 'row ' || n, (ARRAY['en', 'de'])[n %% 2 + 1]"
        " FROM generate_series(0, %s) AS n",
        [ROWS - 1],
    )
    db.execute(
        "SELECT embed.create_vectorizer('docs', template => E'{title}\n{body}', model => 'three',"
        " storage => 'table', sparse_column => 'sparse', multi_column => 'multi', column_type => 'vector')"
    )
    given = texts(CHUNKS)
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO docs_embedding"
            " (id, chunk_no, chunk, context, chunk_hash, embedding, sparse, multi)"
            " VALUES (%s, %s, %s, 'above', 0, %s, %s, %s::halfvec[])",
            [
                (number % ROWS, CHUNKS - number, chunk, found["dense"], found["sparse"], found["multi"])
                for number, (chunk, found) in enumerate(zip(given, literals(given), strict=True))
            ],
        )
    db.execute("ANALYZE docs, docs_embedding")
    with connected(dsn):
        yield db


def in_sql(db: Connection, arguments: str = "", function: str = "search_chunks") -> list[tuple[Any, ...]]:
    told = ", ".join(NAMES) if function == "search_chunks" else "score"
    statement = f"SELECT (hit).id, {told} FROM embed.{function}(NULL::docs, '{QUERY}'{arguments})"
    return db.execute(statement.encode()).fetchall()


def flat(queryset: Any) -> list[tuple[Any, ...]]:
    return [(row.pk, *(getattr(row, name) for name in NAMES)) for row in queryset]


def of_row(pk: int) -> list[str]:
    """The chunks of a row in their order."""
    return [texts(CHUNKS)[number] for number in reversed(range(CHUNKS)) if number % ROWS == pk]


@pytest.mark.parametrize("ahead", [False, True])
def test_chunks_stand_in_the_order_of_the_text(docs: Connection, ahead: bool) -> None:
    given = texts(CHUNKS)
    found = embeddings(given)
    assert found.multi is not None
    queryset = Guide.objects.order_by("pk")
    with CaptureQueriesContext(connection) as sent:
        rows = list(queryset.prefetch_related("chunks") if ahead else queryset)
        for row in rows:
            assert [chunk.chunk for chunk in row.chunks.all()] == of_row(row.pk)
    assert len(sent) == (2 if ahead else 1 + ROWS)
    for chunk in rows[3].chunks.all():
        assert isinstance(chunk, Chunk)
        assert (chunk.context, chunk.source_id, chunk.source) == ("above", 3, rows[3])
        assert str(chunk) == chunk.chunk
        number = CHUNKS - chunk.chunk_no
        assert list(chunk.embedding) == pytest.approx(list(found.dense[number]), abs=1e-6)
        assert chunk.sparse.dimensions() == OPTIONS["sparse_dimensions"]
        assert np.allclose(chunk.multi, found.multi.row(number), atol=2e-3)
    assert rows[4].chunks.get(chunk_no=CHUNKS - 4).chunk == given[4]
    assert rows[4].chunks.count() == 3


SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"k": 3, "mode": "dense"}, ", k => 3, mode => 'dense'"),
    ({"fusion": "rrf", "weights": (1, 0.5), "mode": "hybrid"}, ", fusion => 'rrf', weights => '{1,0.5}'"),
    ({"mode": "sparse", "min_score": 0.5}, ", mode => 'sparse', min_score => 0.5"),
    ({"filter": {"lang": "de"}, "candidates": 12}, ', filter => \'{"lang": "de"}\', candidates => 12'),
    ({"rerank": "multi", "vectorizer": "docs_embedding"}, ", rerank => 'multi'"),
    (
        {"diversity": 0.4, "skip": 2, "boost": {"id": {"weight": 0.5}}},
        ', diversity => 0.4, skip => 2, boost => \'{"id": {"weight": 0.5}}\'',
    ),
]


def test_django_and_sql_give_the_same_rows_and_chunks(docs: Connection) -> None:
    for options, arguments in SEARCHES:
        rows = list(Guide.objects.search(QUERY, **options))
        assert [(row.pk, row.score) for row in rows] == in_sql(docs, arguments, "search")
        found = Guide.objects.search_chunks(QUERY, **options)
        assert flat(found) == in_sql(docs, arguments)
        assert list(found) == rows
        several = search_chunks(Guide.objects.all(), QUERY, per_row=3, **options)
        assert flat(several) == in_sql(docs, arguments + ", per_row => 3")
        assert len(several) > len(rows)


def test_a_condition_holds_within_a_search_of_chunks(docs: Connection) -> None:
    wanted = in_sql(docs, ', k => 5, filter => \'{"lang": "de"}\'')
    assert len(wanted) == 5
    plain = Guide.objects.search_chunks(QUERY, k=5)
    assert flat(plain.filter(lang="de")) == wanted
    assert flat(Guide.objects.filter(lang="de").search_chunks(QUERY, k=5)) == wanted
    for row in plain.prefetch_related("chunks"):
        assert row.chunk == next(own.chunk for own in row.chunks.all() if own.chunk_no == row.chunk_no)
    assert plain.aggregate(best=Max("chunk_score"))["best"] == max(row.chunk_score for row in plain)
    named = Guide.objects.search_chunks(QUERY, k=5, prefix="hit_").values_list("pk", "hit_chunk", "hit_score")
    assert list(named) == [(row.pk, row.chunk, row.score) for row in plain]
    # a condition with chunks is one with another table: it is applied to the answer
    assert set(plain.filter(chunks__chunk__startswith="red ")) <= set(plain)


def test_chunks_are_a_model_to_ask_for_and_to_join(docs: Connection) -> None:
    piece = Guide.chunks.model
    near = embeddings(texts(CHUNKS)).dense @ embeddings([QUERY]).dense[0]
    first = piece.objects.order_by(CosineDistance("embedding", Embed(QUERY))).select_related("source")[:3]
    assert [chunk.chunk for chunk in first] == [texts(CHUNKS)[number] for number in (-near).argsort()[:3]]
    assert {type(chunk.source) for chunk in first} == {Guide}
    assert calls(docs) == 1
    nearest = CosineDistance("chunks__embedding", Embed(QUERY))
    assert Guide.objects.order_by(nearest)[0] == first[0].source
    words = docs.execute(
        f"SELECT chunk FROM docs_chunks ORDER BY sparse <#> embed_sparse('{QUERY}'), chunk_id LIMIT 1"
    )
    best = piece.objects.order_by(MaxInnerProduct("sparse", Embed(QUERY)), "pk")
    assert words.fetchall() == [(best[0].chunk,)]
    starting = [number for number in range(CHUNKS) if texts(CHUNKS)[number].startswith("red ")]
    assert starting
    found = Guide.objects.filter(chunks__chunk__startswith="red ")
    assert sorted(row.pk for row in found) == sorted(number % ROWS for number in starting)
    without = Guide.objects.exclude(chunks__chunk__startswith="red ")
    assert {row.pk for row in without} == set(range(ROWS)) - {number % ROWS for number in starting}
    counted = Guide.objects.annotate(n=Count("chunks")).order_by("pk")
    assert [row.n for row in counted] == [len(of_row(pk)) for pk in range(ROWS)]
    assert set(Guide.objects.values_list("chunks__context", flat=True)) == {"above"}
    some = Prefetch("chunks", piece.objects.filter(chunk__startswith="red "), to_attr="reds")
    assert sum(len(row.reds) for row in Guide.objects.prefetch_related(some)) == len(starting)
    assert piece.objects.filter(source__lang="de", source=3).count() == 3


def test_chunks_are_only_read(docs: Connection) -> None:
    row = Guide.objects.get(pk=1)
    chunk = row.chunks.all()[0]
    for change in (
        chunk.save,
        chunk.delete,
        row.chunks.create,
        row.chunks.all().delete,
        lambda: row.chunks.add(chunk),
        lambda: row.chunks.update(chunk="another"),
        lambda: row.chunks.bulk_create([Guide.chunks.model(chunk="x")]),
    ):
        with pytest.raises(InvalidArgument, match="only read"):
            change()
    row.body = "edited"
    row.full_clean()
    row.save()
    Guide.objects.get(pk=2).delete()
    Guide.objects.create(pk=99, title="t", body="new", lang="en")
    assert row.chunks.count() == 3
    assert Guide.objects.count() == ROWS


def test_chunks_are_read_by_the_row_s_key_as_the_reader_may(docs: Connection, make_role: MakeRole) -> None:
    docs.execute("GRANT SELECT ON docs, docs_embedding, docs_chunks TO embed_reader")
    docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON docs USING (id < 20)")
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    plan = Guide.chunks.model.objects.filter(source__in=[1, 2, 3]).explain()
    assert "Index Scan using docs_embedding_id_chunk_no_key on docs_embedding" in plan
    assert Guide.chunks.model.objects.count() == CHUNKS
    connection.close()
    with connected(make_role("embed_reader").dsn):
        assert Guide.chunks.model.objects.count() == sum(len(of_row(pk)) for pk in range(20))
        assert {row.pk for row in Guide.objects.search_chunks(QUERY, k=ROWS)} <= set(range(20))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "size of the vectors of model None"),
        ({"dimensions": 8, "outputs": ()}, "outputs"),
        ({"dimensions": 8, "outputs": ("score",)}, "outputs"),
        ({"dimensions": 8, "outputs": ("dense", "multi")}, "size of the vectors"),
        ({"dimensions": 8, "chunking": {"length": 3}}, "'length'"),
        ({"dimensions": 8, "chunking": {"size": 2}}, "size"),
        ({"model": "bge-m3", "sparse": "all-MiniLM-L6-v2"}, "no sparse"),
    ],
)
def test_what_cannot_be_declared_is_told(options: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        ChunkedField("{body}", **options)


def test_chunks_need_names_of_their_own() -> None:
    (error,) = [found for found in Twice.check() if isinstance(found, checks.Error)]
    assert (error.id, error.obj.name) == ("pg_embed.E005", "second")
    assert "chunk_view" in str(error.hint)
