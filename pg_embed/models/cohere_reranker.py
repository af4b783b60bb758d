"""Family "cohere_reranker": Cohere's rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pg_embed.models.answers import billed_tokens, scores
from pg_embed.models.calls import filled, server_options
from pg_embed.models.cohere import COHERE
from pg_embed.models.hosted_ranking import HostedReranker, RankingLimits, RankingOptions, ranking_card
from pg_embed.models.registry import Registry
from pg_embed.records import ModelSpec, Scores

ITEMS = 1_000  # texts a call: 10,000 are taken, no more than 1,000 are advised
TOKENS = 4_096_000  # a call; none is stated, this is as many texts as may be, each as long as it is read
LIMITS = RankingLimits(32_768, ITEMS, TOKENS)
MODELS = {"rerank-v3.5": RankingLimits(4_096, ITEMS, TOKENS)}


@dataclass(frozen=True, kw_only=True)
class CohereRankingOptions(RankingOptions):
    """What the family can be told; a text that is longer than `max_tokens_per_doc` is cut there."""

    max_tokens_per_doc: int = 4_096


class CohereRanking:
    """The contract."""

    def __init__(self, options: CohereRankingOptions) -> None:
        self._options = options
        self.card = ranking_card(
            "cohere_reranker",
            options.model,
            COHERE.server(options),
            options,
            MODELS.get(options.model, LIMITS),
            max_tokens_per_doc=options.max_tokens_per_doc,
        )

    def request(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """All texts are asked for, each as far as the options say."""
        return {
            "model": self._options.model,
            "query": query,
            "documents": filled(texts),
            "max_tokens_per_doc": self._options.max_tokens_per_doc,
        }

    def answer(self, told: Any, count: int) -> Scores:
        """The list under `results`, which is sorted by score."""
        return scores(told["results"], "relevance_score", count, billed_tokens(told))


def load(spec: ModelSpec) -> HostedReranker:
    """Find the key."""
    options = server_options(spec, CohereRankingOptions)
    return HostedReranker(CohereRanking(options), COHERE.open(options, "rerank"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("cohere_reranker", "pg_embed.models.cohere_reranker:load")
