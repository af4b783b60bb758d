"""LlamaIndex's stores over real tables, run where its package is: see test_adapters.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from pg_embed import AsyncClient, Client
from pg_embed.errors import InvalidArgument
from pg_embed.llamaindex import PgEmbedVectorStore


def node(key: str, text: str, source: str, **metadata: Any) -> TextNode:
    related = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)}
    return TextNode(id_=key, text=text, metadata=metadata, relationships=related)


NODES = [
    node("1", "red fox", "first", lang="en", year=2019, tags=["a", "b"]),
    node("2", "red fox", "first", lang="de", year=2020, tags=["b"]),
    node("3", "green dog", "second", lang="en", year=2021),
    node("4", "blue cat", "third", lang="fr"),
]


@pytest.fixture
async def store(pg_embed_fake: Client, pg_embed_dsn: str) -> AsyncIterator[PgEmbedVectorStore]:
    """The four nodes, whose year has a column of its own."""
    with pg_embed_fake.connection() as connection:
        connection.execute("CREATE TABLE docs (id text PRIMARY KEY, content text, metadata jsonb, year int)")
    pg_embed_fake.vectorize("docs", "content", sparse_column="words")
    async with AsyncClient(pg_embed_dsn) as client:
        made = PgEmbedVectorStore(pg_embed_fake, "docs", metadata_columns=["year"], async_client=client)
        assert made.add(NODES) == ["1", "2", "3", "4"]
        yield made


pytestmark = pytest.mark.pg_embed_fake(dimensions=8, sparse_dimensions=1000)


def asked(text: str = "red fox", k: int = 10, **options: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_str=text, similarity_top_k=k, **options)


async def test_nodes_come_back_as_they_went(store: PgEmbedVectorStore) -> None:
    for found in (store.get_nodes(["3", "nothing", "1"]), await store.aget_nodes(["3", "nothing", "1"])):
        assert [one.node_id for one in found] == ["3", "1"]
        assert [one.get_content() for one in found] == ["green dog", "red fox"]
        assert found[0].metadata == NODES[2].metadata
        assert found[0].ref_doc_id == "second"


async def test_queries_are_those_of_the_search(store: PgEmbedVectorStore, pg_embed_fake: Client) -> None:
    for mode, options in (
        (VectorStoreQueryMode.DEFAULT, {}),
        (VectorStoreQueryMode.HYBRID, {"mode": "hybrid", "weights": (0.9, 0.1)}),
        (VectorStoreQueryMode.SPARSE, {"mode": "sparse"}),
    ):
        hits = pg_embed_fake.search("docs", "green dog", k=3, **options)
        told = asked("green dog", 3, mode=mode, alpha=0.9)
        for found in (store.query(told), await store.aquery(told)):
            assert found.ids == [hit.row["id"] for hit in hits]
            assert found.similarities == [hit.score for hit in hits]
            assert [one.node_id for one in found.nodes or []] == found.ids
            assert found.ids[0] == "3"


def test_marginal_relevance_keeps_doubles_apart(store: PgEmbedVectorStore) -> None:
    assert set(store.query(asked(k=2)).ids or []) == {"1", "2"}
    found = store.query(asked(k=2, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.1), mode="dense")
    assert len(set(found.ids or []) & {"1", "2"}) == 1


def one(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


FILTERS = [
    ([one("lang", "en")], {"1", "3"}),
    ([one("lang", "en", FilterOperator.NE)], {"2", "4"}),
    ([one("lang", ["en", "de"], FilterOperator.IN)], {"1", "2", "3"}),
    ([one("lang", ["en", "de"], FilterOperator.NIN)], {"4"}),
    ([one("year", 2020, FilterOperator.GTE)], {"2", "3"}),
    ([one("year", 2020, FilterOperator.GT)], {"3"}),
    ([one("year", 2020, FilterOperator.LT)], {"1"}),
    ([one("year", 2020, FilterOperator.LTE)], {"1", "2"}),
    ([one("year", None, FilterOperator.IS_EMPTY)], {"4"}),
    ([one("tags", "b", FilterOperator.CONTAINS)], {"1", "2"}),
    ([one("tags", ["a", "b"], FilterOperator.ALL)], {"1"}),
    ([one("tags", ["a", "b"], FilterOperator.ANY)], {"1", "2"}),
    ([one("content", "d f", FilterOperator.TEXT_MATCH)], {"1", "2"}),
    ([one("content", "D F", FilterOperator.TEXT_MATCH)], set()),
    ([one("content", "D F", FilterOperator.TEXT_MATCH_INSENSITIVE)], {"1", "2"}),
    ([one("content", "%", FilterOperator.TEXT_MATCH)], set()),
    ([one("lang", "en"), one("year", 2019)], {"1"}),
]


@pytest.mark.parametrize(("told", "wanted"), FILTERS)
def test_filters(store: PgEmbedVectorStore, told: list[Any], wanted: set[str]) -> None:
    assert set(store.query(asked(filters=MetadataFilters(filters=told))).ids or []) == wanted


def test_filters_joined(store: PgEmbedVectorStore) -> None:
    both = [one("lang", "fr"), one("year", 2019)]
    either = MetadataFilters(filters=both, condition=FilterCondition.OR)
    assert set(store.query(asked(filters=either)).ids or []) == {"1", "4"}
    neither = MetadataFilters(filters=both, condition=FilterCondition.NOT)
    assert set(store.query(asked(filters=neither)).ids or []) == {"2", "3"}
    inner = MetadataFilters(filters=[one("lang", "en"), either])
    assert set(store.query(asked(filters=inner)).ids or []) == {"1"}
    assert set(store.query(asked(filters=MetadataFilters(filters=[]))).ids or []) == {"1", "2", "3", "4"}
    assert set(store.query(asked(node_ids=["1", "4"], doc_ids=["first"])).ids or []) == {"1"}


async def test_deleting(store: PgEmbedVectorStore) -> None:
    store.delete("first")
    assert set(store.query(asked()).ids or []) == {"3", "4"}
    await store.adelete("second")
    assert set(store.query(asked()).ids or []) == {"4"}
    assert await store.async_add(NODES[:3]) == ["1", "2", "3"]
    store.delete_nodes(["1"])
    await store.adelete_nodes(["2"])
    assert set(store.query(asked()).ids or []) == {"3", "4"}
    await store.aclear()
    assert store.get_nodes(["3", "4"]) == []


async def test_a_documents_nodes_are_deleted_by_a_column_of_their_own(
    pg_embed_fake: Client, pg_embed_dsn: str
) -> None:
    with pg_embed_fake.connection() as connection:
        connection.execute(
            "CREATE TABLE docs (id text PRIMARY KEY, content text, metadata jsonb, ref_doc_id text)"
        )
    pg_embed_fake.vectorize("docs", "content")
    async with AsyncClient(pg_embed_dsn) as client:
        store = PgEmbedVectorStore(
            pg_embed_fake, "docs", metadata_columns=["ref_doc_id"], async_client=client
        )
        store.add(NODES)
        store.delete("first")
        await store.adelete("third")
        assert [one.node_id for one in store.get_nodes(["1", "2", "3", "4"])] == ["3"]


async def test_without_an_asynchronous_client_calls_go_by_threads(
    store: PgEmbedVectorStore, pg_embed_fake: Client
) -> None:
    plain = PgEmbedVectorStore(pg_embed_fake, "docs", metadata_columns=["year"])
    assert (await plain.aquery(asked("green dog", 2))).ids == store.query(asked("green dog", 2)).ids
    assert await plain.async_add([node("5", "lazy cow", "fourth")]) == ["5"]
    assert [one.node_id for one in await plain.aget_nodes(["5"])] == ["5"]
    await plain.adelete_nodes(["1"])
    await plain.adelete("second")
    assert [one.node_id for one in store.get_nodes(["1", "2", "3", "4", "5"])] == ["2", "4", "5"]
    await plain.aclear()
    assert store.get_nodes(["2", "4", "5"]) == []


def test_rows_of_others_are_nodes_too(
    store: PgEmbedVectorStore, pg_embed_db: Any, pg_embed_fake: Client
) -> None:
    pg_embed_db.execute("INSERT INTO docs VALUES ('5', 'lazy cow', '{\"lang\": \"nl\"}', 2026)")
    pg_embed_fake.wait("docs", 30)
    (found,) = store.query(asked("lazy cow", 1)).nodes or []
    assert (found.node_id, found.get_content()) == ("5", "lazy cow")
    assert found.metadata == {"lang": "nl", "year": 2026}


async def test_an_index_asks_no_model_of_its_own(store: PgEmbedVectorStore) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=1))
    retriever = index.as_retriever(similarity_top_k=1)
    for found in (retriever.retrieve("green dog"), await retriever.aretrieve("green dog")):
        assert [scored.node.node_id for scored in found] == ["3"]
        assert found[0].score is not None


def test_what_does_not_fit(store: PgEmbedVectorStore) -> None:
    with pytest.raises(InvalidArgument, match="no text"):
        store.query(VectorStoreQuery(query_embedding=[1.0]))
    with pytest.raises(InvalidArgument, match="no mode 'svm'"):
        store.query(asked(mode=VectorStoreQueryMode.SVM))
    with pytest.raises(InvalidArgument, match="by their ids"):
        store.delete_nodes(filters=MetadataFilters(filters=[one("lang", "en")]))
    with pytest.raises(InvalidArgument, match="within the metadata"):
        store.query(asked(filters=MetadataFilters(filters=[one("lang", "a", FilterOperator.GT)])))


async def test_chunks_come_in_place_of_nodes(pg_embed_fake: Client, pg_embed_dsn: str) -> None:
    with pg_embed_fake.connection() as connection:
        connection.execute("CREATE TABLE docs (id text PRIMARY KEY, content text, metadata jsonb)")
    pg_embed_fake.vectorize("docs", "content", storage="table", chunking={"size": 16})
    long = "red fox. " * 12 + "green dog. " * 12
    async with AsyncClient(pg_embed_dsn) as client:
        store = PgEmbedVectorStore(pg_embed_fake, "docs", async_client=client, chunks=2)
        store.add([node("1", long, "first", lang="en")])
        with pg_embed_fake.connection() as connection:
            connection.execute("INSERT INTO docs VALUES ('2', 'blue cat.', '{\"lang\": \"de\"}')")
        pg_embed_fake.wait("docs")
        hits = pg_embed_fake.search_chunks("docs", "green dog", k=2, per_row=2)
        assert sorted(hit.row["id"] for hit in hits) == ["1", "1", "2"]
        for found in (store.query(asked("green dog", 2)), await store.aquery(asked("green dog", 2))):
            nodes = found.nodes or []
            assert [one.get_content() for one in nodes] == [hit.chunk for hit in hits]
            assert [one.node_id for one in nodes] == found.ids
            assert found.ids == [f"{hit.row['id']}/{hit.chunk_no}" for hit in hits]
            assert found.similarities == [hit.score for hit in hits]
            for one, hit in zip(nodes, hits, strict=True):
                lang = {"1": "en", "2": "de"}[hit.row["id"]]
                of = {"id": hit.row["id"], "chunk_no": hit.chunk_no, "context": ""}
                assert one.metadata == {"lang": lang, **of}
                assert one.ref_doc_id == ("first" if hit.row["id"] == "1" else None)
        assert store.get_nodes(["1"])[0].get_content() == long
