"""The few small protocols between rooms; implementations need not inherit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pg_embed.errors import PgEmbedError
from pg_embed.records import (
    VECTORS,
    Allowance,
    CallLimit,
    Card,
    Embeddings,
    Kind,
    ModelSpec,
    Outputs,
    Priority,
    Reservation,
    Scores,
)


class Embedder(Protocol):
    """A loaded model. Calls come from worker threads, at most `card.concurrency` at a time."""

    @property
    def card(self) -> Card:
        """What the model is; the same object for the model's whole life."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, exact or a documented estimate; used to fill batches and to bill."""

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Vectors of the texts, in their order; of the model's outputs those that are asked for, or more.

        Raises `InputRejected` (these texts will never do), `ModelUnavailable` (try again later) or
        `ModelMisconfigured` (nothing will do until somebody mends the configuration).
        """

    def close(self) -> None:
        """Let go of memory and connections; the model is not used afterwards."""


class ChunkEmbedder(Embedder, Protocol):
    """An embedder whose vectors of chunks know of the document that they are parts of.

    Its `embed` takes each text as a document of one chunk; queries have no other way.
    """

    def embed_chunks(self, documents: Sequence[Sequence[str]]) -> list[Embeddings]:
        """Vectors of each document's chunks, in their order; the chunks of a document are read together.

        Raises what `embed` raises, for all documents: they share calls.
        """


class Reranker(Protocol):
    """A loaded model that scores texts for a query; its card has the output "score" alone."""

    @property
    def card(self) -> Card:
        """What the model is; the same object for the model's whole life."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, exact or a documented estimate; used to fill batches and to bill."""

    def rerank(self, query: str, texts: Sequence[str]) -> Scores:
        """How well each text answers the query, in the order of the texts; at most `card.max_batch_items`.

        Raises what `Embedder.embed` raises.
        """

    def close(self) -> None:
        """Let go of memory and connections; the model is not used afterwards."""


class Throttle(Protocol):
    """Keeps the calls of a model within what its provider allows; used on the event loop alone."""

    def limit(self, spec: ModelSpec) -> CallLimit | None:
        """What a call of the model should have at most; None where nothing needs to be reserved."""

    async def reserve(self, spec: ModelSpec, items: int, tokens: int, priority: Priority) -> Reservation:
        """Reserve one call of so many texts and estimated tokens: it tells how long to wait before it.

        Raises `ModelUnavailable` where that is longer than such a caller should wait.
        """

    def settle(
        self,
        spec: ModelSpec,
        reservation: Reservation | None,
        used: int | None,
        allowance: Allowance | None,
        error: PgEmbedError | None,
    ) -> None:
        """A call ended: its tokens (None: it was not sent, or failed), and what the provider said
        of its limits. Also told of calls that were too many and for which nothing was reserved."""
