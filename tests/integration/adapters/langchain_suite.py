"""LangChain's own standard tests and ours, run where its packages are: see test_adapters.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from pg_embed import AsyncClient, Client
from pg_embed.errors import InvalidArgument, TransportMissing, WaitTimeout
from pg_embed.langchain import PgEmbedRetriever, PgEmbedVectorStore
from pg_embed.resources import sql_dir

TEXTS = ["red fox", "red fox", "green dog", "blue cat"]
METADATAS = [
    {"lang": "en", "year": 2019, "tags": ["a", "b"]},
    {"lang": "de", "year": 2020, "tags": ["b"]},
    {"lang": "en", "year": 2021},
    {"lang": "fr"},
]


def create(client: Client, key: str, columns: str = "", vectorizer: dict[str, Any] | None = None) -> None:
    """The table `docs` and its vectorizer."""
    with client.connection() as connection:
        connection.execute(f"CREATE TABLE docs (id {key} PRIMARY KEY, content text, metadata jsonb{columns})")
    client.vectorize("docs", "content", **vectorizer or {})


class _Standard(VectorStoreIntegrationTests):
    key: str
    native: bool

    @pytest.fixture
    async def vectorstore(
        self, pg_embed_fake: Client, pg_embed_dsn: str
    ) -> AsyncIterator[PgEmbedVectorStore]:
        create(pg_embed_fake, self.key)
        async with AsyncClient(pg_embed_dsn) as client:
            yield PgEmbedVectorStore(pg_embed_fake, "docs", async_client=client if self.native else None)


class TestTextsAsIds(_Standard):
    """Ids that are made here; asynchronous calls in threads."""

    key = "text"
    native = False


class TestIdsOfTheTable(_Standard):
    """Ids that the table makes; asynchronous calls by their own client."""

    key = "text DEFAULT gen_random_uuid()::text"
    native = True


class TestRetriever(RetrieversIntegrationTests):
    """The retriever."""

    @pytest.fixture(autouse=True)
    def filled(self, pg_embed_fake: Client) -> None:
        create(pg_embed_fake, "text")
        self.store = PgEmbedVectorStore(pg_embed_fake, "docs")
        self.store.add_texts([f"text {number}" for number in range(12)])

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return PgEmbedRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "text 3"


@pytest.fixture
async def store(pg_embed_fake: Client, pg_embed_dsn: str) -> AsyncIterator[PgEmbedVectorStore]:
    """Four documents, whose year has a column of its own."""
    create(pg_embed_fake, "text", ", year int")
    async with AsyncClient(pg_embed_dsn) as client:
        made = PgEmbedVectorStore(pg_embed_fake, "docs", metadata_columns=["year"], async_client=client)
        made.add_texts(TEXTS, METADATAS, ids=["1", "2", "3", "4"])
        yield made


def ids(documents: list[Document]) -> set[str | None]:
    return {document.id for document in documents}


FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"1", "2", "3", "4"}),
    ({"lang": "en"}, {"1", "3"}),
    ({"lang": ["en", "de"]}, {"1", "2", "3"}),
    ({"lang": {"<>": "en"}}, {"2", "4"}),
    ({"lang": {"not_in": ["en", "de"]}}, {"4"}),
    ({"lang": {"in": []}}, set()),
    ({"lang": {"not_in": []}}, {"1", "2", "3", "4"}),
    ({"tags": {"contains": "b"}}, {"1", "2"}),
    ({"tags": {"contains": ["a", "b"]}}, {"1"}),
    ({"year": {">=": 2020}}, {"2", "3"}),
    ({"year": 2019, "lang": "en"}, {"1"}),
    ({"year": {"is_null": True}}, {"4"}),
    ({"or": [{"lang": "fr"}, {"year": {"<": 2020}}]}, {"1", "4"}),
    ({"not": {"lang": "en"}}, {"2", "4"}),
    ({"id": ["2", "nothing"]}, {"2"}),
    ({"content": {"like": "red%"}}, {"1", "2"}),
    ({"metadata": {"contains": {"lang": "fr"}}}, {"4"}),
    ({"$and": [{"lang": "en"}, {"year": {"$gte": 2020}}]}, {"3"}),
    ({"$or": [{"lang": {"$eq": "fr"}}, {"$and": [{"year": {"$lt": 2020}}]}]}, {"1", "4"}),
    ({"$not": {"lang": {"$in": ["en", "de"]}}}, {"4"}),
    ({"$not": [{"lang": "en"}, {"year": 2019}]}, {"2", "3", "4"}),
    ({"lang": {"$ne": "en"}, "content": {"$ilike": "RED%"}}, {"2"}),
    ({"lang": {"$nin": ["en", "de"]}}, {"4"}),
    ({"year": {"$gt": 2019, "$lte": 2020}}, {"2"}),
    ({"year": {"$between": [2020, 2021]}}, {"2", "3"}),
    ({"year": {"$exists": False}}, {"4"}),
    ({"year": {"$exists": True}, "lang": "en"}, {"1", "3"}),
]


@pytest.mark.parametrize(("filter", "wanted"), FILTERS)
async def test_filters(store: PgEmbedVectorStore, filter: dict[str, Any], wanted: set[str]) -> None:
    assert ids(store.similarity_search("red fox", 10, filter)) == wanted
    assert ids(await store.asimilarity_search("red fox", 10, filter)) == wanted


def test_metadata_come_back_as_they_went(store: PgEmbedVectorStore, pg_embed_db: Any) -> None:
    assert [document.metadata for document in store.get_by_ids(["1", "2", "3", "4"])] == METADATAS
    assert pg_embed_db.execute("SELECT metadata FROM docs WHERE id = '3'").fetchone() == ({"lang": "en"},)


def test_an_operator_that_there_is_not_is_told(store: PgEmbedVectorStore) -> None:
    for told in ({"$nor": [{"lang": "en"}]}, {"year": {"$regex": "20"}}):
        with pytest.raises(InvalidArgument, match="no operator") as caught:
            store.similarity_search("x", filter=told)
        assert "$and" in (caught.value.hint or "")


async def test_relevance_is_the_cosine(store: PgEmbedVectorStore, pg_embed_fake: Client) -> None:
    found = store.similarity_search_with_relevance_scores("green dog", k=4)
    hits = pg_embed_fake.search("docs", "green dog", k=4, mode="dense")
    assert [(one.id, score) for one, score in found] == [
        (hit.row["id"], min(max(hit.score, 0.0), 1.0)) for hit in hits
    ]
    assert found[0][1] == pytest.approx(1)
    assert await store.asimilarity_search_with_relevance_scores("green dog", k=4) == found
    told = {"k": 4, "score_threshold": 0.99, "filter": {"lang": "en"}}
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs=told)
    assert ids(retriever.invoke("green dog")) == ids(await retriever.ainvoke("green dog")) == {"3"}


def test_comparisons_need_a_column(store: PgEmbedVectorStore) -> None:
    with pytest.raises(InvalidArgument, match="within the metadata") as caught:
        store.similarity_search("x", filter={"lang": {">": "a"}})
    assert "column of its own" in (caught.value.hint or "")


async def test_scores_are_those_of_the_search(store: PgEmbedVectorStore, pg_embed_fake: Client) -> None:
    found = store.similarity_search_with_score("green dog", k=2)
    hits = pg_embed_fake.search("docs", "green dog", k=2)
    assert [(document.id, score) for document, score in found] == [(hit.row["id"], hit.score) for hit in hits]
    assert found[0][0].id == "3"
    assert await store.asimilarity_search_with_score("green dog", k=2) == found
    assert ids(store.similarity_search("green dog", k=4, min_score=0.99)) == {"3"}


async def test_marginal_relevance_keeps_doubles_apart(store: PgEmbedVectorStore) -> None:
    assert ids(store.similarity_search("red fox", k=2)) == {"1", "2"}
    assert ids(store.max_marginal_relevance_search("red fox", k=2, lambda_mult=1.0)) == {"1", "2"}
    apart = store.max_marginal_relevance_search("red fox", k=2, lambda_mult=0.2)
    assert len(ids(apart) & {"1", "2"}) == 1
    assert await store.amax_marginal_relevance_search("red fox", k=2, lambda_mult=0.2) == apart
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.2})
    assert await retriever.ainvoke("red fox") == retriever.invoke("red fox") == apart


async def test_deleting_all(store: PgEmbedVectorStore) -> None:
    assert await store.adelete(["1"])
    assert await store.aget_by_ids(["1"]) == []
    assert store.delete()
    assert store.get_by_ids(["2", "3", "4"]) == []


def test_ids_of_any_letters(store: PgEmbedVectorStore) -> None:
    strange = ['a"b', "c\\d", "{e,f}", "NULL", ""]
    assert store.add_texts(["x"] * 5, ids=strange) == strange
    assert [document.id for document in store.get_by_ids(strange)] == strange
    store.delete(strange[:4])
    assert [document.id for document in store.get_by_ids(strange)] == [""]


async def test_numbers_as_ids(pg_embed_fake: Client, pg_embed_dsn: str) -> None:
    create(pg_embed_fake, "bigint GENERATED BY DEFAULT AS IDENTITY")
    async with AsyncClient(pg_embed_dsn) as client:
        store = PgEmbedVectorStore(pg_embed_fake, "docs", async_client=client)
        assert store.add_texts(TEXTS[:2]) == ["1", "2"]
        assert await store.aadd_texts([TEXTS[2]], ids=["7"]) == ["7"]
        assert store.add_texts(["blue cat"], ids=["7"]) == ["7"]
        assert await store.asimilarity_search("blue cat", k=1) == await store.aget_by_ids(["7", "8"])
        assert [document.page_content for document in store.get_by_ids(["7"])] == ["blue cat"]
        await store.adelete(["1", "7", "8"])
        assert ids(store.similarity_search("red fox")) == {"2"}


def test_the_retrievers_own_options(store: PgEmbedVectorStore) -> None:
    retriever = PgEmbedRetriever(store=store, k=3, filter={"lang": "en"}, options={"mode": "dense"})
    assert ids(retriever.invoke("green dog")) == {"1", "3"}
    assert [document.id for document in retriever.invoke("green dog", k=1)] == ["3"]


def test_what_does_not_fit(store: PgEmbedVectorStore) -> None:
    with pytest.raises(InvalidArgument, match="1 metadatas for 2 texts"):
        store.add_texts(["a", "b"], [{}])
    with pytest.raises(InvalidArgument, match="an embedding was given"):
        PgEmbedVectorStore.from_texts(["a"], object(), client="", table="docs")


def test_from_texts_and_a_table_without_metadata(pg_embed_fake: Client, pg_embed_dsn: str) -> None:
    with pg_embed_fake.connection() as connection:
        connection.execute("CREATE TABLE posts (slug text PRIMARY KEY, body text, lang text)")
    pg_embed_fake.vectorize("posts", template="{lang}: {body}")
    columns = {
        "id_column": "slug",
        "content_column": "body",
        "metadata_column": None,
        "metadata_columns": ["lang"],
    }
    with Client(pg_embed_dsn) as client:
        made = PgEmbedVectorStore.from_texts(
            ["a", "b"], None, [{"lang": "en"}, {}], ids=["x", "y"], client=client, table="posts", **columns
        )
        assert made.similarity_search("en: a", k=1) == [
            Document(id="x", page_content="a", metadata={"lang": "en"})
        ]
        assert made.get_by_ids(["y"]) == [Document(id="y", page_content="b", metadata={})]
        with pytest.raises(InvalidArgument, match="no column for 'year'"):
            made.add_texts(["c"], [{"year": 1}])
        with pytest.raises(InvalidArgument, match="no column for 'year'"):
            made.similarity_search("c", filter={"year": 1})
        with pytest.raises(InvalidArgument, match="no column nothing"):
            PgEmbedVectorStore(client, "posts", id_column="nothing").add_texts(["c"])


def test_it_waits_as_long_as_told(pg_embed_db: psycopg.Connection[Any], pg_embed_fake: Client) -> None:
    create(pg_embed_fake, "text")
    pg_embed_fake.wait("docs", 30)
    pg_embed_db.execute("SELECT embed.pause('docs')")
    with pytest.raises(WaitTimeout, match="paused"):
        PgEmbedVectorStore(pg_embed_fake, "docs", wait=0.1).add_texts(["a"])
    (added,) = PgEmbedVectorStore(pg_embed_fake, "docs", wait=None).add_texts(["b"])
    row = pg_embed_db.execute("SELECT content, embedding FROM docs WHERE id = %s", [added]).fetchone()
    assert row == ("b", None)


@pytest.mark.pg_embed_fake(dimensions=8, sparse_dimensions=1000)
@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
def test_modes(pg_embed_fake: Client, mode: str) -> None:
    create(pg_embed_fake, "text", vectorizer={"sparse_column": "words"})
    store = PgEmbedVectorStore(pg_embed_fake, "docs", mode=mode)
    store.add_texts(TEXTS[1:], ids=["2", "3", "4"])
    wanted = [hit.row["id"] for hit in pg_embed_fake.search("docs", "green dog", k=2, mode=mode)]
    found: Callable[..., list[Document]] = store.similarity_search
    assert [document.id for document in found("green dog", k=2)] == wanted
    assert wanted[0] == "3"


LONG = ["red fox. " * 12 + "green dog. " * 12, "blue cat."]


async def test_chunks_come_in_place_of_rows(pg_embed_fake: Client, pg_embed_dsn: str) -> None:
    create(pg_embed_fake, "int", vectorizer={"storage": "table", "chunking": {"size": 16}})
    async with AsyncClient(pg_embed_dsn) as client:
        store = PgEmbedVectorStore(pg_embed_fake, "docs", async_client=client, chunks=2)
        assert store.add_texts(LONG, [{"lang": "en"}, {"lang": "de"}], ids=["1", "2"]) == ["1", "2"]
        hits = pg_embed_fake.search_chunks("docs", "green dog", k=2, per_row=2)
        assert sorted(hit.row["id"] for hit in hits) == [1, 1, 2]
        found = store.similarity_search_with_score("green dog", k=2)
        assert found == await store.asimilarity_search_with_score("green dog", k=2)
        assert [(one.page_content, one.id, score) for one, score in found] == [
            (hit.chunk, f"{hit.row['id']}/{hit.chunk_no}", hit.score) for hit in hits
        ]
        lang = {1: "en", 2: "de"}
        assert [one.metadata for one, _ in found] == [
            {"lang": lang[hit.row["id"]], "id": hit.row["id"], "chunk_no": hit.chunk_no, "context": ""}
            for hit in hits
        ]
        retriever = PgEmbedRetriever(store=store, k=2, filter={"lang": "de"})
        (only,) = retriever.invoke("green dog")
        assert (only.page_content, only.metadata["id"]) == ("blue cat.", 2)
        assert await retriever.ainvoke("green dog") == [only]
        diverse = store.max_marginal_relevance_search("green dog", k=2)
        assert {one.metadata["id"] for one in diverse} == {1, 2}
        (whole,) = store.get_by_ids(["1"])
        assert (whole.page_content, whole.metadata) == (LONG[0], {"lang": "en"})


async def test_where_the_database_has_no_transport(
    store: PgEmbedVectorStore, pg_embed_dsn: str, pg_embed_db: psycopg.Connection[Any]
) -> None:
    pg_embed_db.execute((sql_dir() / "transports" / "none.sql").read_text(encoding="utf-8"))
    with pytest.raises(TransportMissing):
        store.similarity_search("green dog", k=1)
    with Client(pg_embed_dsn, in_process=True) as client:
        async with AsyncClient(pg_embed_dsn, in_process=True) as later:
            own = PgEmbedVectorStore(client, "docs", metadata_columns=["year"], async_client=later)
            assert own.similarity_search("green dog", k=1)[0].id == "3"
            assert (await own.asimilarity_search("green dog", k=1))[0].id == "3"
