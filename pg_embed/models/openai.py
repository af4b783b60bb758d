"""Family "openai": OpenAI's embeddings and every server that speaks its contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pg_embed.models.answers import embeddings, openai_answer
from pg_embed.models.calls import Provider, server_options
from pg_embed.models.provider import HostedEmbedder, HostedOptions, open_model
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.records import Card, Embeddings, Kind, ModelSpec

HOST = "https://api.openai.com/v1"
OPENAI = Provider({"": HOST}, "OPENAI_API_KEY")


@dataclass(frozen=True, kw_only=True)
class OpenAIOptions(HostedOptions):
    """What the family can be told; the prompts are for servers whose model wants some."""

    base_url: str = HOST
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int = 8_192
    max_batch_items: int = 2_048
    max_batch_tokens: int = 300_000


class OpenAI:
    """The contract of `/embeddings`, as OpenAI has published it and many servers speak it."""

    def __init__(self, options: OpenAIOptions) -> None:
        self._options = options
        self.dimensions = options.dimensions
        self._prompts: dict[Kind, str] = {"query": options.query_prompt, "document": options.document_prompt}
        self.longest_prompt = max(self._prompts.values(), key=len)

    def request(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """The texts behind the prompt of their kind; base64 is asked for, lists will do."""
        prompt = self._prompts[kind]
        request: dict[str, Any] = {
            "model": self._options.model,
            "input": [prompt + text or " " for text in texts],
            "encoding_format": "base64",
        }
        if self._options.dimensions is not None:
            request["dimensions"] = self._options.dimensions
        return request

    def answer(self, told: Any, count: int) -> Embeddings:
        """The list under `data`."""
        return embeddings(openai_answer(told), count)

    def card(self, dimensions: int) -> Card:
        """The card; OpenAI itself is not part of the space, another server is."""
        options = self._options
        return Card(
            family="openai",
            checkpoint=options.model,
            outputs=("dense",),
            dimensions=dimensions,
            max_tokens=options.max_tokens,
            metric=options.metric,
            space_id=space_id(
                "openai",
                model=options.model,
                server=OPENAI.server(options),
                dimensions=dimensions,
                prompts=[options.query_prompt, options.document_prompt],
            ),
            concurrency=options.concurrency,
            max_batch_items=options.max_batch_items,
            max_batch_tokens=options.max_batch_tokens,
            padded=False,
            paid=True,
        )


def load(spec: ModelSpec) -> HostedEmbedder:
    """Find the key; without the option dimensions, ask the server for one vector."""
    options = server_options(spec, OpenAIOptions)
    return open_model(OpenAI(options), OPENAI.open(options, "embeddings"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("openai", "pg_embed.models.openai:load")
