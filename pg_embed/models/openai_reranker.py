"""Family "openai_reranker": rerankers on servers like vLLM and Infinity, which else speak as OpenAI does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pg_embed.models.answers import scores, used_tokens
from pg_embed.models.calls import Provider, filled, server_options
from pg_embed.models.hosted_ranking import HostedReranker, RankingLimits, RankingOptions, ranking_card
from pg_embed.models.registry import Registry
from pg_embed.records import ModelSpec, Scores

NOBODY = Provider({}, None)  # OpenAI itself has no rerankers
LIMITS = RankingLimits(8_192, 1_000, 1_000_000)  # rather many: such a server makes batches of its own


@dataclass(frozen=True, kw_only=True)
class ServedRankingOptions(RankingOptions):
    """What the family can be told.

    `truncate` has vLLM cut a query and text that are too long together, which it else refuses; other servers
    cut without a word. Turn it off for a server that refuses the field `truncate_prompt_tokens`.
    """

    base_url: str = field()
    truncate: bool = True


class ServedRanking:
    """The contract of `/rerank`, in the fields that these servers and Cohere share."""

    def __init__(self, options: ServedRankingOptions) -> None:
        self._options = options
        self.card = ranking_card("openai_reranker", options.model, NOBODY.server(options), options, LIMITS)

    def request(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """All texts are asked for."""
        request: dict[str, Any] = {
            "model": self._options.model,
            "query": query,
            "documents": filled(texts),
            "top_n": len(texts),
        }
        return {**request, "truncate_prompt_tokens": -1} if self._options.truncate else request

    def answer(self, told: Any, count: int) -> Scores:
        """The list under `results`, which is sorted by score."""
        return scores(told["results"], "relevance_score", count, used_tokens(told))


def load(spec: ModelSpec) -> HostedReranker:
    """Find the key, if the options name one."""
    options = server_options(spec, ServedRankingOptions)
    return HostedReranker(ServedRanking(options), NOBODY.open(options, "rerank"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("openai_reranker", "pg_embed.models.openai_reranker:load")
