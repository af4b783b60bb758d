"""Embedders of chunks in their documents: what they share, whichever the provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pg_embed.models.calls import ask, packed
from pg_embed.models.hosted import Endpoint
from pg_embed.models.provider import Contract, HostedEmbedder
from pg_embed.records import Embeddings, Kind

Documents = Sequence[Sequence[str]]


class ChunkContract(Contract, Protocol):
    """One provider's API for documents that are given as chunks."""

    @property
    def max_batch_documents(self) -> int:
        """Documents a call, where the card's limit of items is not smaller."""

    @property
    def max_batch_chunks(self) -> int:
        """Chunks a call, of all its documents."""

    def request_chunks(self, documents: Documents, kind: Kind) -> dict[str, Any]:
        """The body of a call; no document is without chunks."""

    def answer_chunks(self, told: Any, counts: Sequence[int]) -> list[Embeddings]:
        """What the answer to documents of so many chunks says; the tokens of all stand with the first."""


class ContextualEmbedder(HostedEmbedder):
    """A model that reads the chunks of a document together; `embed` takes each text as a document of one."""

    def __init__(self, contract: ChunkContract, endpoint: Endpoint) -> None:
        self._chunks = contract
        super().__init__(contract, endpoint)

    def embed_chunks(self, documents: Documents) -> list[Embeddings]:
        """Whole documents, as many a call as the limits let pass; a document that is too large goes alone.

        Raises what `embed` raises; the provider refuses a document that is longer than the model reads.
        """
        full = [document for document in documents if document]
        counts = [sum(self.count_tokens(document)) for document in full]
        costs = [(1, len(document), tokens) for document, tokens in zip(full, counts, strict=True)]
        most = min(self.card.max_batch_items, self._chunks.max_batch_documents)
        limits = (most, self._chunks.max_batch_chunks, self.card.max_batch_tokens)
        found = iter(
            [
                result
                for part in packed(costs, limits)
                for result in self._embed_chunks(full[part], counts[part])
            ]
        )
        empty = Embeddings(dense=np.empty((0, self.card.dimensions), np.float32))
        return [next(found) if document else empty for document in documents]

    def _embed_chunks(self, documents: Documents, counts: list[int]) -> list[Embeddings]:
        request = self._chunks.request_chunks(documents, "document")
        sizes = [len(document) for document in documents]
        results = ask(self._endpoint, request, lambda told: self._chunks.answer_chunks(told, sizes))
        for result in results:
            self._check_size(result)
        used = results[0].tokens or sum(counts)
        return [
            Embeddings(dense=result.dense, tokens=tokens)
            for result, tokens in zip(results, shares(used, counts), strict=True)
        ]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """A total in whole parts, by weights that are above zero."""
    marks = np.rint(np.cumsum([0, *weights]) * (total / sum(weights))).astype(np.int64)
    return [int(share) for share in np.diff(marks)]
