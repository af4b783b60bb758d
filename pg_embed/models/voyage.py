"""Family "voyage": Voyage AI's text embeddings, with keys of Voyage's own or of MongoDB Atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pg_embed.models.answers import embeddings, openai_answer, used_tokens
from pg_embed.models.calls import Provider, filled, server_options
from pg_embed.models.contextual import ContextualEmbedder, Documents
from pg_embed.models.provider import HostedEmbedder, HostedOptions, Limits, open_model, provider_card
from pg_embed.models.registry import Registry
from pg_embed.records import Card, Embeddings, Kind, ModelSpec, join

VOYAGE = Provider(  # MongoDB Atlas has the same models; each host refuses the other's keys
    {"": "https://api.voyageai.com/v1", "al-": "https://ai.mongodb.com/v1"}, "VOYAGE_API_KEY"
)
LONGEST_PROMPT = (
    "Represent the query for retrieving supporting documents: "  # the provider adds and counts it
)
ITEMS = 1_000  # texts or documents a call
CHUNKS = 16_000  # of documents, a call
SIZES = (1024, 256, 512, 2048)

MODELS = {
    "voyage-4-large": Limits(32_000, ITEMS, 120_000, SIZES, space="voyage-4"),
    "voyage-4": Limits(32_000, ITEMS, 320_000, SIZES, space="voyage-4"),
    "voyage-4-lite": Limits(32_000, ITEMS, 1_000_000, SIZES, space="voyage-4"),
    "voyage-code-4": Limits(32_000, ITEMS, 120_000, SIZES),
    "voyage-3-large": Limits(32_000, ITEMS, 120_000, SIZES),
    "voyage-3.5": Limits(32_000, ITEMS, 320_000, SIZES),
    "voyage-3.5-lite": Limits(32_000, ITEMS, 1_000_000, SIZES),
    "voyage-code-3": Limits(32_000, ITEMS, 120_000, SIZES),
    "voyage-finance-2": Limits(32_000, ITEMS, 120_000, (1024,)),
    "voyage-law-2": Limits(16_000, ITEMS, 120_000, (1024,)),
    "voyage-code-2": Limits(16_000, ITEMS, 120_000, (1536,)),
}
CONTEXTUAL = {
    "voyage-context-4": Limits(32_000, ITEMS, 120_000, SIZES),
    "voyage-context-3": Limits(32_000, ITEMS, 120_000, SIZES),
}
OTHERS = Limits(32_000, ITEMS, 120_000)


@dataclass(frozen=True, kw_only=True)
class VoyageOptions(HostedOptions):
    """What the family can be told; without `truncate`, a text that is too long is refused.

    The models of contextualised chunks are never asked to truncate: their part of the API knows no such word.
    """

    truncate: bool = True


class Voyage:
    """The contract. The provider puts its own prompts in front, by the kind of text that it is told."""

    longest_prompt = LONGEST_PROMPT

    def __init__(self, options: VoyageOptions) -> None:
        self._options = options
        self._limits = {**MODELS, **CONTEXTUAL}.get(options.model, OTHERS)
        self.dimensions = self._limits.choose(options)

    def request(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """The texts and what they are."""
        request = {
            "model": self._options.model,
            "input": filled(texts),
            "input_type": kind,
            "truncation": self._options.truncate,
            "output_dtype": "float",
            "encoding_format": "base64",
        }
        return self._sized(request)

    def answer(self, told: Any, count: int) -> Embeddings:
        """The list under `data`."""
        return embeddings(openai_answer(told), count)

    def card(self, dimensions: int) -> Card:
        """The card; the models of one series share a space: one may embed documents, another the queries."""
        return provider_card("voyage", VOYAGE, self._options, self._limits, dimensions)

    def _sized(self, request: dict[str, Any]) -> dict[str, Any]:
        size = self._limits.ask(self._options)
        return request if size is None else {**request, "output_dimension": size}


class VoyageChunks(Voyage):
    """The contract of contextualised chunks; a text or a query is a document of one chunk."""

    max_batch_documents = ITEMS
    max_batch_chunks = CHUNKS

    def request(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """Each text by itself, and what they are."""
        return self.request_chunks([[text] for text in texts], kind)

    def answer(self, told: Any, count: int) -> Embeddings:
        """The one chunk of each document."""
        return join(self.answer_chunks(told, [1] * count))

    def request_chunks(self, documents: Documents, kind: Kind) -> dict[str, Any]:
        """The documents as they are chunked here, and what they are."""
        return self._sized(
            {
                "model": self._options.model,
                "inputs": [filled(document) for document in documents],
                "input_type": kind,
                "output_dtype": "float",
                "encoding_format": "base64",
            }
        )

    def answer_chunks(self, told: Any, counts: Sequence[int]) -> list[Embeddings]:
        """A list of documents under `data`, and in each a list of chunks."""
        found = {document["index"]: document for document in told["data"]}
        if len(told["data"]) != len(counts) or sorted(found) != list(range(len(counts))):
            raise ValueError("documents are missing or doubled")
        results = [embeddings(openai_answer(found[place]), count) for place, count in enumerate(counts)]
        return [replace(results[0], tokens=used_tokens(told)), *results[1:]]


def load(spec: ModelSpec) -> HostedEmbedder:
    """Find the key and the host that it belongs to; a model not known here is asked for one vector."""
    options = server_options(spec, VoyageOptions)
    if options.model.startswith("voyage-context-"):
        return open_model(
            VoyageChunks(options), VOYAGE.open(options, "contextualizedembeddings"), ContextualEmbedder
        )
    return open_model(Voyage(options), VOYAGE.open(options, "embeddings"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("voyage", "pg_embed.models.voyage:load")
