"""Family "voyage": Voyage AI's text embeddings, with keys of Voyage's own or of MongoDB Atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pg_embed.models.answers import embeddings, openai_answer
from pg_embed.models.calls import Provider, filled, server_options
from pg_embed.models.provider import HostedEmbedder, HostedOptions, Limits, open_model, provider_card
from pg_embed.models.registry import Registry
from pg_embed.records import Card, Embeddings, Kind, ModelSpec

VOYAGE = Provider(  # MongoDB Atlas has the same models; each host refuses the other's keys
    {"": "https://api.voyageai.com/v1", "al-": "https://ai.mongodb.com/v1"}, "VOYAGE_API_KEY"
)
LONGEST_PROMPT = (
    "Represent the query for retrieving supporting documents: "  # the provider adds and counts it
)
ITEMS = 1_000  # texts a call
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
OTHERS = Limits(32_000, ITEMS, 120_000)


@dataclass(frozen=True, kw_only=True)
class VoyageOptions(HostedOptions):
    """What the family can be told; without `truncate`, a text that is too long is refused."""

    truncate: bool = True


class Voyage:
    """The contract. The provider puts its own prompts in front, by the kind of text that it is told."""

    longest_prompt = LONGEST_PROMPT

    def __init__(self, options: VoyageOptions) -> None:
        self._options = options
        self._limits = MODELS.get(options.model, OTHERS)
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
        size = self._limits.ask(self._options)
        return request if size is None else {**request, "output_dimension": size}

    def answer(self, told: Any, count: int) -> Embeddings:
        """The list under `data`."""
        return embeddings(openai_answer(told), count)

    def card(self, dimensions: int) -> Card:
        """The card; the models of one series share a space: one may embed documents, another the queries."""
        return provider_card("voyage", VOYAGE, self._options, self._limits, dimensions)


def load(spec: ModelSpec) -> HostedEmbedder:
    """Find the key and the host that it belongs to; a model not known here is asked for one vector."""
    options = server_options(spec, VoyageOptions)
    contract = Voyage(options)
    return open_model(contract, VOYAGE.open(options, "embeddings"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("voyage", "pg_embed.models.voyage:load")
