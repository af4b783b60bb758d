"""Family "voyage_reranker": Voyage AI's rerankers, with keys of Voyage's own or of MongoDB Atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pg_embed.models.answers import scores, used_tokens
from pg_embed.models.calls import filled, server_options
from pg_embed.models.hosted_ranking import HostedReranker, RankingLimits, RankingOptions, ranking_card
from pg_embed.models.registry import Registry
from pg_embed.models.voyage import VOYAGE
from pg_embed.records import ModelSpec, Scores

LIMITS = RankingLimits(32_000, 1_000, 600_000)
MODELS = {
    "rerank-2": RankingLimits(16_000, 1_000, 600_000),
    "rerank-2-lite": RankingLimits(8_000, 1_000, 300_000),
}


@dataclass(frozen=True, kw_only=True)
class VoyageRankingOptions(RankingOptions):
    """What the family can be told; without `truncate`, a query or text that is too long is refused."""

    truncate: bool = True


class VoyageRanking:
    """The contract."""

    def __init__(self, options: VoyageRankingOptions) -> None:
        self._options = options
        self.card = ranking_card(
            "voyage_reranker",
            options.model,
            VOYAGE.server(options),
            options,
            MODELS.get(options.model, LIMITS),
        )

    def request(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """All texts are asked for, and not sent back."""
        return {
            "query": query,
            "documents": filled(texts),
            "model": self._options.model,
            "truncation": self._options.truncate,
        }

    def answer(self, told: Any, count: int) -> Scores:
        """The list under `data`, which is sorted by score."""
        return scores(told["data"], "relevance_score", count, used_tokens(told))


def load(spec: ModelSpec) -> HostedReranker:
    """Find the key and the host that it belongs to."""
    options = server_options(spec, VoyageRankingOptions)
    return HostedReranker(VoyageRanking(options), VOYAGE.open(options, "rerank"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("voyage_reranker", "pg_embed.models.voyage_reranker:load")
