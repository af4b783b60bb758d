"""Family "cohere": Cohere's text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pg_embed.models.answers import Answer, billed_tokens, embeddings
from pg_embed.models.calls import Provider, filled, server_options
from pg_embed.models.provider import HostedEmbedder, HostedOptions, Limits, open_model, provider_card
from pg_embed.models.registry import Registry
from pg_embed.records import Card, Embeddings, Kind, ModelSpec

COHERE = Provider({"": "https://api.cohere.com/v2"}, "CO_API_KEY")
INPUT_TYPES: dict[Kind, str] = {"query": "search_query", "document": "search_document"}
ITEMS = 96  # texts a call
TOKENS = 128_000  # a call
V5_SIZES = (2048, 1536, 1024, 768, 512, 256)
V4_SIZES = (1536, 1024, 512, 256)

MODELS = {
    "embed-v5.0-pro": Limits(128_000, ITEMS, TOKENS, V5_SIZES, space="embed-v5.0"),
    "embed-v5.0-fast": Limits(128_000, ITEMS, TOKENS, V5_SIZES, space="embed-v5.0"),
    "embed-v4.0": Limits(128_000, ITEMS, TOKENS, V4_SIZES),
    "embed-english-v3.0": Limits(512, ITEMS, TOKENS, (1024,)),
    "embed-multilingual-v3.0": Limits(512, ITEMS, TOKENS, (1024,)),
    "embed-english-light-v3.0": Limits(512, ITEMS, TOKENS, (384,)),
    "embed-multilingual-light-v3.0": Limits(512, ITEMS, TOKENS, (384,)),
}
OTHERS = Limits(128_000, ITEMS, TOKENS)


@dataclass(frozen=True, kw_only=True)
class CohereOptions(HostedOptions):
    """What the family can be told; `truncate` says which end of a text that is too long is cut off."""

    truncate: Literal["NONE", "START", "END"] = "END"


class Cohere:
    """The contract. Vectors are asked for as numbers, the one form that all models and servers have."""

    longest_prompt = ""

    def __init__(self, options: CohereOptions) -> None:
        self._options = options
        self._limits = MODELS.get(options.model, OTHERS)
        self.dimensions = self._limits.choose(options)

    def request(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """The texts and what they are."""
        request = {
            "model": self._options.model,
            "texts": filled(texts),
            "input_type": INPUT_TYPES[kind],
            "embedding_types": ["float"],
            "truncate": self._options.truncate,
        }
        size = self._limits.ask(self._options)
        return request if size is None else {**request, "output_dimension": size}

    def answer(self, told: Any, count: int) -> Embeddings:
        """The vectors in the order of the texts, and the tokens that are billed."""
        return embeddings(Answer(told["embeddings"]["float"], None, billed_tokens(told)), count)

    def card(self, dimensions: int) -> Card:
        """The card; a long text without its beginning is another text."""
        cut = "START" if self._options.truncate == "START" else None
        return provider_card("cohere", COHERE, self._options, self._limits, dimensions, cut=cut)


def load(spec: ModelSpec) -> HostedEmbedder:
    """Find the key; a model that is not known here is asked for one vector."""
    options = server_options(spec, CohereOptions)
    contract = Cohere(options)
    return open_model(contract, COHERE.open(options, "embed"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("cohere", "pg_embed.models.cohere:load")
