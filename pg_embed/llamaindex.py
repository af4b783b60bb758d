"""LlamaIndex's vector store over a table that a vectorizer keeps embedded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pg_embed.client import AsyncClient, Client
from pg_embed.client.rows import Document, Layout, Rows
from pg_embed.errors import InvalidArgument, MissingExtra
from pg_embed.search import Table

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode, TextNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterOperator,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as exc:
    raise MissingExtra(
        "llama-index-core is not installed", hint="pip install 'pg-embed[llamaindex]'"
    ) from exc

NODE = "_node_content"  # where LlamaIndex keeps the rest of a node
SOURCE = "ref_doc_id"
OPERATORS = {
    FilterOperator.EQ: "=",
    FilterOperator.NE: "<>",
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
    FilterOperator.IN: "in",
    FilterOperator.NIN: "not_in",
    FilterOperator.ALL: "contains",
    FilterOperator.CONTAINS: "contains",
}
MATCHES = {FilterOperator.TEXT_MATCH: "like", FilterOperator.TEXT_MATCH_INSENSITIVE: "ilike"}
MODES = {
    VectorStoreQueryMode.DEFAULT: None,
    VectorStoreQueryMode.MMR: None,
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.SPARSE: "sparse",
    VectorStoreQueryMode.TEXT_SEARCH: "sparse",
}


class PgEmbedVectorStore(BasePydanticVectorStore):  # type: ignore[misc]  # an extra
    """Nodes as rows of a table with a vectorizer; the database embeds them, and the queries.

    Where it has no transport, give a client that embeds the queries itself: Client(dsn, in_process=True).

    LlamaIndex need not embed: `add` INSERTs the nodes' texts and waits, `wait` seconds at most, until they
    are embedded; a query is asked by its text. The columns, options and `chunks` are those of
    `pg_embed.langchain.PgEmbedVectorStore`. Rows that came otherwise are found as TextNodes. With
    `async_client` the asynchronous methods use it, else threads.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    _rows: Any = PrivateAttr()
    _wait: float | None = PrivateAttr()
    _options: dict[str, Any] = PrivateAttr()

    def __init__(
        self,
        client: Client | str,
        table: Table,
        *,
        id_column: str = "id",
        content_column: str = "content",
        metadata_column: str | None = "metadata",
        metadata_columns: Sequence[str] = (),
        wait: float | None = 60.0,
        async_client: AsyncClient | None = None,
        chunks: int | None = None,
        **search_options: Any,
    ) -> None:
        super().__init__()
        layout = Layout(table, id_column, content_column, metadata_column, tuple(metadata_columns))
        given = Client(client) if isinstance(client, str) else client
        self._rows = Rows(given, layout, async_client, chunks)
        self._wait = wait
        self._options = search_options

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows the class."""
        return "PgEmbedVectorStore"

    @property
    def client(self) -> Client:
        """The client of the database."""
        found: Client = self._rows.client
        return found

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes as rows, in place of those that have their ids; their own vectors are not used."""
        added: list[str] = self._rows.put([_document(node) for node in nodes])
        self._rows.wait(self._wait)
        return added

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """The same, asynchronously."""
        added: list[str] = await self._rows.put_async([_document(node) for node in nodes])
        await self._rows.wait_async(self._wait)
        return added

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._rows.delete(like=(SOURCE, ref_doc_id))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """The same, asynchronously."""
        await self._rows.delete_async(like=(SOURCE, ref_doc_id))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by their ids."""
        self._rows.delete(_only_ids(node_ids, filters))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """The same, asynchronously."""
        await self._rows.delete_async(_only_ids(node_ids, filters))

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes by their ids, in that order; those that are not there are left out."""
        return [_node(row) for row in self._rows.get(_only_ids(node_ids, filters))]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """The same, asynchronously."""
        return [_node(row) for row in await self._rows.get_async(_only_ids(node_ids, filters))]

    def clear(self) -> None:
        """Delete every row of the table."""
        self._rows.delete()

    async def aclear(self) -> None:
        """The same, asynchronously."""
        await self._rows.delete_async()

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The best nodes with embed.search's scores: high is good."""
        text, options = self._asked(query, kwargs)
        return _result(self._rows.search(text, **options))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The same, asynchronously."""
        text, options = self._asked(query, kwargs)
        return _result(await self._rows.search_async(text, **options))

    def _asked(self, query: VectorStoreQuery, more: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if query.query_str is None:
            raise InvalidArgument("the query has no text", hint="the database embeds it: give query_str")
        if query.mode not in MODES:
            names = ", ".join(mode.value for mode in MODES)
            raise InvalidArgument(f"there is no mode {query.mode.value!r} here", hint=f"there are: {names}")
        own = {"k": query.similarity_top_k, "filter": _filter(query, self._rows.layout.id)}
        if MODES[query.mode] is not None:
            own["mode"] = MODES[query.mode]
        if query.mode is VectorStoreQueryMode.HYBRID:
            own["k"] = query.hybrid_top_k or query.similarity_top_k
            if query.alpha is not None:
                own["weights"] = (query.alpha, 1.0 - query.alpha)
        if query.mode is VectorStoreQueryMode.MMR:
            own["diversity"] = 1.0 - (0.5 if query.mmr_threshold is None else query.mmr_threshold)
        return query.query_str, {**self._options, **own, **more}


def _document(node: BaseNode) -> Document:
    metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    return Document(node.get_content(metadata_mode=MetadataMode.NONE), metadata, node.node_id)


def _node(row: Document) -> BaseNode:
    if NODE not in row.metadata:
        return TextNode(id_=row.id, text=row.content, metadata={**row.metadata, **row.of})
    node = metadata_dict_to_node(dict(row.metadata), text=row.content)
    if row.of:
        node.id_ = row.id
        node.metadata.update(row.of)
    return node


def _result(found: Sequence[tuple[Document, float]]) -> VectorStoreQueryResult:
    nodes = [_node(row) for row, _ in found]
    return VectorStoreQueryResult(
        nodes=nodes, similarities=[score for _, score in found], ids=[row.id for row, _ in found]
    )


def _only_ids(node_ids: list[str] | None, filters: MetadataFilters | None) -> list[str]:
    if node_ids is None or filters is not None:
        raise InvalidArgument(
            "nodes are got and deleted by their ids, not by filters",
            hint="give node_ids, or query with filters",
        )
    return node_ids


def _filter(query: VectorStoreQuery, id_column: str) -> dict[str, Any] | None:
    parts: list[dict[str, Any]] = []
    if query.filters is not None:
        parts.append(_filters(query.filters))
    if query.node_ids:  # an index without nodes of its own tells of no ids
        parts.append({id_column: {"in": query.node_ids}})
    if query.doc_ids:
        parts.append({SOURCE: {"in": query.doc_ids}})
    return {"and": parts} if parts else None


def _filters(told: MetadataFilters) -> dict[str, Any]:
    parts = [_filters(one) if isinstance(one, MetadataFilters) else _one(one) for one in told.filters]
    condition = "and" if told.condition is None else told.condition.value
    if not parts:
        return {}
    return {"not": {"or": parts}} if condition == "not" else {condition: parts}


def _one(told: Any) -> dict[str, Any]:
    if told.operator in OPERATORS:
        return {told.key: {OPERATORS[told.operator]: told.value}}
    if told.operator is FilterOperator.ANY:
        return {"or": [{told.key: {"contains": one}} for one in told.value]}
    if told.operator is FilterOperator.IS_EMPTY:
        return {told.key: {"is_null": True}}
    text = str(told.value).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return {told.key: {MATCHES[told.operator]: f"%{text}%"}}
