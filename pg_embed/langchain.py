"""LangChain's vector store and retriever over a table that a vectorizer keeps embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from pg_embed.client import AsyncClient, Client
from pg_embed.client.rows import Document as Row
from pg_embed.client.rows import Layout, Rows
from pg_embed.errors import InvalidArgument, MissingExtra
from pg_embed.search import Table

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
    from pydantic import ConfigDict
except ImportError as exc:
    raise MissingExtra("langchain-core is not installed", hint="pip install 'pg-embed[langchain]'") from exc

EMBEDS = "the database embeds: leave the embedding out, or give None"
DENSE: dict[str, Any] = {"mode": "dense", "rerank": None, "boost": None}  # whose scores are cosines
OPERATORS = {
    "$and": "and",
    "$or": "or",
    "$not": "not",
    "$eq": "=",
    "$ne": "<>",
    "$lt": "<",
    "$lte": "<=",
    "$gt": ">",
    "$gte": ">=",
    "$in": "in",
    "$nin": "not_in",
    "$like": "like",
    "$ilike": "ilike",
}


class PgEmbedVectorStore(VectorStore):  # type: ignore[misc]  # an extra
    """Documents as rows of a table with a vectorizer; the database embeds them, and the queries.

    Where it has no transport, give a client that embeds the queries itself: Client(dsn, in_process=True).

    Documents that are added are INSERTed (one that has the id of another takes its place), and waited for
    until they are embedded, `wait` seconds at most, or not at all if it is None. `metadata_columns` names
    the columns that hold values of the metadata; the others go to `metadata_column`, of jsonb, or None where
    there is none. A filter is embed.search's, over the metadata: {"lang": "en", "year": {">": 2020}}, where
    comparisons other than equality need a column of their own; "$and", "$gte", "$in" and the like are
    understood, too. Further options of a search are those of `pg_embed.search.Search`; `search_options` are
    meant for every one. Relevance, for a threshold, is the cosine of the dense vectors, which are then
    searched alone.

    Where the vectorizer splits texts, `chunks` says how many of the best chunks of each row are found in its
    place; `k` counts rows. Their metadata have the row's id by the name of its column, chunk_no and context.

    With `async_client` the asynchronous methods use it, else threads.
    """

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
        layout = Layout(table, id_column, content_column, metadata_column, tuple(metadata_columns))
        given = Client(client) if isinstance(client, str) else client
        self._rows = Rows(given, layout, async_client, chunks)
        self._wait = wait
        self._options = search_options

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write texts as rows; returns their ids."""
        added = self._rows.put(_rows(list(texts), metadatas, ids))
        self._rows.wait(self._wait)
        return added

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """The same, asynchronously."""
        added = await self._rows.put_async(_rows(list(texts), metadatas, ids))
        await self._rows.wait_async(self._wait)
        return added

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The best documents with embed.search's scores: high is good."""
        found = self._rows.search(query, k=k, filter=_filter(filter), **{**self._options, **kwargs})
        return [(_document(row), score) for row, score in found]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The same, asynchronously."""
        told = {**self._options, **kwargs}
        found = await self._rows.search_async(query, k=k, filter=_filter(filter), **told)
        return [(_document(row), score) for row, score in found]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return _relevant(self.similarity_search_with_score(query, k, **{**kwargs, **DENSE}))

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return _relevant(await self.asimilarity_search_with_score(query, k, **{**kwargs, **DENSE}))

    def similarity_search(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        """The best documents."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        """The same, asynchronously."""
        found = await self.asimilarity_search_with_score(query, k, filter, **kwargs)
        return [document for document, _ in found]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Good documents that are unlike each other, of `fetch_k` candidates; the database chooses them."""
        return self.similarity_search(query, k, filter, **_diverse(k, fetch_k, lambda_mult), **kwargs)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The same, asynchronously."""
        return await self.asimilarity_search(query, k, filter, **_diverse(k, fetch_k, lambda_mult), **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete documents by ids; those that are not there are no error. None deletes them all."""
        self._rows.delete(ids)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """The same, asynchronously."""
        await self._rows.delete_async(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by ids, in that order; those that are not there are left out."""
        return [_document(row) for row in self._rows.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The same, asynchronously."""
        return [_document(row) for row in await self._rows.get_async(ids)]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Any = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store made as the class is (client, table, …), and texts added; `embedding` must be None."""
        if embedding is not None:
            raise InvalidArgument("an embedding was given", hint=EMBEDS)
        store = cls(**kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store


class PgEmbedRetriever(BaseRetriever):  # type: ignore[misc]  # an extra
    """Documents of a `PgEmbedVectorStore` for a query, `k` of them; `options` are those of its search."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    store: PgEmbedVectorStore
    k: int = 4
    filter: dict[str, Any] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        told = {"k": self.k, "filter": self.filter, **self.options, **kwargs}
        return self.store.similarity_search(query, **told)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        told = {"k": self.k, "filter": self.filter, **self.options, **kwargs}
        return await self.store.asimilarity_search(query, **told)


def _filter(told: dict[str, Any] | None) -> dict[str, Any] | None:
    """A filter with operators as other stores of LangChain name them, in embed.search's own words."""
    return None if told is None else {_word(key): _spelled(_word(key), value) for key, value in told.items()}


def _spelled(word: str, value: Any) -> Any:
    if word in ("and", "or"):
        return [_filter(part) for part in value]
    if word == "not":
        return _filter({"$and": value} if isinstance(value, list) else value)
    return dict(_terms(value)) if isinstance(value, dict) else value


def _terms(told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in told.items():
        if key == "$between":
            yield from zip((">=", "<="), value, strict=True)
        elif key == "$exists":
            yield "is_null", not value
        else:
            yield _word(key), value


def _word(key: str) -> str:
    if not key.startswith("$"):
        return key
    if key not in OPERATORS:
        hint = f"there are {', '.join(OPERATORS)}, $between, $exists, and embed.search's own"
        raise InvalidArgument(f"a filter has no operator {key!r} here", hint=hint)
    return OPERATORS[key]


def _relevant(found: list[tuple[Document, float]]) -> list[tuple[Document, float]]:
    """Cosines as relevance, from 0 to 1."""
    return [(document, min(max(score, 0.0), 1.0)) for document, score in found]


def _diverse(k: int, fetch_k: int, lambda_mult: float) -> dict[str, Any]:
    return {"diversity": 1.0 - lambda_mult, "candidates": max(k, fetch_k)}


def _rows(texts: list[str], metadatas: list[dict[str, Any]] | None, ids: list[Any] | None) -> list[Row]:
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given is not None and len(given) != len(texts):
            raise InvalidArgument(
                f"there are {len(given)} {name} for {len(texts)} texts", hint="give one for each, or none"
            )
    told: Sequence[Any] = ids if ids is not None else [None] * len(texts)
    known = metadatas if metadatas is not None else [{}] * len(texts)
    return [Row(text, known[place] or {}, told[place]) for place, text in enumerate(texts)]


def _document(row: Row) -> Document:
    return Document(id=row.id, page_content=row.content, metadata={**row.metadata, **row.of})
