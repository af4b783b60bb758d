"""Embed() of Django: by the model of the field beside it, once for a statement, by the index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pgvector import SparseVector
from pgvector import django as plain

from pg_embed.errors import InvalidArgument
from tests.fix_django import configure, connected
from tests.fix_search import OPTIONS, answer, calls, create_docs, embeddings
from tests.fix_worker import Connection, create_fake_model

configure()

from django.db import DatabaseError, connection, models  # noqa: E402
from django.db.models import F, Value  # noqa: E402
from django.test import override_settings  # noqa: E402

from pg_embed.django import (  # noqa: E402
    CosineDistance,
    Embed,
    EmbeddedField,
    EmbeddedManager,
    L1Distance,
    L2Distance,
    MaxInnerProduct,
)

QUERY = "quick red fox 7"
OTHER = "lazy blue dog"


class Page(models.Model):
    body = models.TextField(null=True)
    lang = models.TextField(null=True)
    embedding = EmbeddedField("{body}", model="three", dimensions=8, column_type="vector")
    words = EmbeddedField("{body}", model="three", dimensions=1_000, output="sparse")
    objects = EmbeddedManager()

    class Meta:
        app_label = "found"
        db_table = "docs"
        managed = False


class Tokens(models.Model):
    body = models.TextField(null=True)
    embedding = EmbeddedField("{body}", model="three", dimensions=8, column_type="vector")
    tokens = EmbeddedField("{body}", model="three", dimensions=8, output="multi")
    objects = EmbeddedManager()

    class Meta:
        app_label = "found"
        db_table = "docs"
        managed = False


class Single(models.Model):
    embedding = EmbeddedField("{id}", model="three", dimensions=8, column_type="vector")

    class Meta:
        app_label = "found"
        db_table = "docs"
        managed = False


class Bare(models.Model):
    embedding = plain.VectorField(dimensions=8)

    class Meta:
        app_label = "found"
        db_table = "docs"
        managed = False


@pytest.fixture
def docs(db: Connection, dsn: str) -> Iterator[Connection]:
    create_docs(db, 300)
    answer(db, QUERY, OTHER)
    with connected(dsn):
        yield db


def nearest(db: Connection, expression: str) -> list[int]:
    return [row[0] for row in db.execute(f"SELECT id FROM docs ORDER BY {expression} LIMIT 5".encode())]


def ids(queryset: Any) -> list[int]:
    return list(queryset.values_list("pk", flat=True)[:5])


def test_a_query_is_compared_as_in_sql(docs: Connection) -> None:
    wanted = nearest(docs, f"embedding <=> embed('{QUERY}')")
    for found in (
        Page.objects.order_by(CosineDistance("embedding", Embed(QUERY))),
        Page.objects.annotate(away=CosineDistance("embedding", Embed(QUERY))).order_by("away"),
        Page.objects.order_by(CosineDistance(Embed(QUERY), F("embedding"))),
        Page.objects.order_by(plain.CosineDistance("embedding", Embed(QUERY, "three"))),
        Single._base_manager.order_by(plain.CosineDistance("embedding", Embed(QUERY))),
        Bare._base_manager.order_by(plain.CosineDistance("embedding", Embed(QUERY))),
        Page.objects.order_by(CosineDistance("embedding", Embed(Value(QUERY)))),
    ):
        assert ids(found) == wanted
    sparse = nearest(docs, f"words <#> embed_sparse('{QUERY}')")
    assert ids(Page.objects.order_by(MaxInnerProduct("words", Embed(QUERY)))) == sparse
    for distance, operator in ((L1Distance, "<+>"), (L2Distance, "<->")):
        found = Page.objects.order_by(distance("embedding", Embed(QUERY)))
        assert ids(found) == nearest(docs, f"embedding {operator} embed('{QUERY}')")
    with pytest.raises(InvalidArgument, match="several fields: embedding, words"):
        ids(Page.objects.order_by(plain.CosineDistance("embedding", Embed(QUERY))))


def test_the_index_is_used_and_the_model_asked_once(docs: Connection) -> None:
    docs.execute("CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_cosine_ops); ANALYZE docs")
    found = Page.objects.order_by(CosineDistance("embedding", Embed(QUERY)))[:5]
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
    assert "Index Scan using docs_hnsw" in found.explain()
    before = calls(docs)
    assert len(found) == 5
    with connection.cursor() as cursor:
        cursor.execute("SET enable_indexscan = off; SET enable_seqscan = on")
    assert len(found.all()) == 5
    assert calls(docs) - before <= 1


def test_the_model_is_the_one_that_fills_the_column_now(docs: Connection) -> None:
    create_fake_model(docs, "second", **{**OPTIONS, "dimensions": 3})
    docs.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('others', 'body', model => 'second')")
    found = Page.objects.order_by(CosineDistance("embedding", Embed(QUERY)))
    assert ids(found) == nearest(docs, f"embedding <=> embed('{QUERY}', 'three')")
    with pytest.raises(DatabaseError, match="several models"):
        ids(Bare._base_manager.order_by(plain.CosineDistance("embedding", Embed(QUERY))))
    docs.execute("SELECT embed.drop_vectorizer('docs')")
    with pytest.raises(DatabaseError, match="no vectorizer fills column embedding"):
        ids(found)


def test_a_condition_with_a_query_holds_within_a_search(docs: Connection) -> None:
    near = Page.objects.alias(away=CosineDistance("embedding", Embed(OTHER))).filter(away__lt=0.4)
    wanted = set(near.values_list("pk", flat=True))
    assert 0 < len(wanted) < 200
    every = ids(near.search(QUERY, k=300, mode="dense"))
    assert set(near.search(QUERY, k=300, mode="dense").values_list("pk", flat=True)) == wanted
    assert ids(near.search(QUERY, k=5, mode="dense")) == every
    assert len(every) == 5


def test_a_client_embeds_where_the_database_cannot(docs: Connection) -> None:
    asked: list[tuple[Any, ...]] = []

    def client(text: str, model: str | None, output: str) -> Any:
        asked.append((text, model, output))
        made = embeddings([text])
        if output == "dense":
            return made.dense[0]
        assert made.sparse is not None
        indices, values = made.sparse.row(0)
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return SparseVector(dict(pairs), OPTIONS["sparse_dimensions"])

    wanted = nearest(docs, f"embedding <=> embed('{QUERY}')")
    sparse = nearest(docs, f"words <#> embed_sparse('{QUERY}')")
    before = calls(docs)
    found = Page.objects.order_by(CosineDistance("embedding", Embed(QUERY)))
    with override_settings(PG_EMBED_CLIENTS={"default": client}):
        assert ids(found) == wanted
        assert "embed.embed" not in str(found.query)
        assert ids(Page.objects.order_by(MaxInnerProduct("words", Embed(QUERY)))) == sparse
        assert ids(Bare._base_manager.order_by(plain.CosineDistance("embedding", Embed(QUERY)))) == wanted
        with pytest.raises(InvalidArgument, match="stands in the database"):
            ids(Page.objects.order_by(CosineDistance("embedding", Embed(F("body")))))
    assert set(asked) == {(QUERY, "three", "dense"), (QUERY, "three", "sparse"), (QUERY, None, "dense")}
    assert calls(docs) == before
    assert ids(found) == wanted


def test_token_vectors_are_read_and_rank(db: Connection, dsn: str) -> None:
    create_docs(db, 60, multi=True)
    answer(db, QUERY)
    with connected(dsn):
        page = Tokens.objects.get(pk=7)
        found = embeddings([page.body]).multi
        assert found is not None
        assert np.allclose(page.tokens, found.row(0), atol=2e-3)
        assert Tokens.objects.filter(tokens=page.tokens).get() == page
        assert Tokens.objects.search(QUERY, rerank="multi")[0].rerank_score is not None
        near = plain.CosineDistance("embedding", Embed(QUERY))
        assert ids(Tokens.objects.order_by(near)) == nearest(db, f"embedding <=> embed('{QUERY}')")
        with pytest.raises(InvalidArgument, match="token vectors of tokens"):
            ids(Tokens.objects.order_by(CosineDistance("tokens", Embed(QUERY))))
        db.execute("UPDATE docs SET tokens = CASE id WHEN 7 THEN '{}'::halfvec[] END")
        assert [Tokens.objects.get(pk=pk).tokens for pk in (7, 8)] == [[], None]


def test_a_vector_is_read_and_never_written(docs: Connection) -> None:
    page = Page.objects.get(pk=7)
    assert list(page.embedding) == pytest.approx(embeddings([page.body]).dense[0].tolist(), abs=1e-6)
    assert page.words.dimensions() == 1_000
    page.embedding = None
    page.lang = "changed"
    page.save()
    page.refresh_from_db()
    assert (page.lang, page.embedding is None) == ("changed", False)
    made = Page(pk=1_000, body="new", embedding=[1] * 8)
    made.save(force_insert=True)
    Page.objects.bulk_create([Page(pk=1_001, body="newer")])
    Page.objects.bulk_update([page], ["lang"])
    Page.objects.filter(pk=7).update(lang="updated")
    again = [Page(pk=7, body=page.body, lang="upserted"), Page(pk=1_001, body="newest")]
    updated = ["body", "lang", "embedding", "words"]
    Page.objects.bulk_create(again, update_conflicts=True, unique_fields=["pk"], update_fields=updated)
    assert Page.objects.get(pk=7).lang == "upserted"
    rows = docs.execute("SELECT embedding IS NULL FROM docs WHERE id IN (7, 1000, 1001) ORDER BY id")
    assert rows.fetchall() == [(False,), (True,), (True,)]
    fresh = Page(pk=1_002, body="newest")
    fresh.save(force_insert=True)
    assert fresh.embedding is None
    docs.execute("UPDATE docs SET embedding = '[1,2,3,4,5,6,7,8]' WHERE id = 1002")
    assert list(Page.objects.get(pk=1_002).embedding) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert Page.objects.filter(embedding=[1, 2, 3, 4, 5, 6, 7, 8]).get().pk == 1_002
