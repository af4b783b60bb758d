"""Family "jina_reranker": Jina AI's rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pg_embed.models.answers import scores, used_tokens
from pg_embed.models.calls import filled, server_options
from pg_embed.models.hosted_ranking import HostedReranker, RankingLimits, RankingOptions, ranking_card
from pg_embed.models.jina import JINA
from pg_embed.models.registry import Registry
from pg_embed.records import ModelSpec, Scores

ITEMS, TOKENS = 512, 1_000_000  # a call; the contract states no limits
DOC_LENGTH = {"jina-reranker-v3": 2_048}  # tokens of a text that are read; others take no word about it

MODELS = {
    "jina-reranker-v3.5": RankingLimits(131_072, ITEMS, TOKENS, listwise=True),
    "jina-reranker-v3": RankingLimits(131_072, ITEMS, TOKENS, listwise=True),
    "jina-reranker-v2-base-multilingual": RankingLimits(1_024, ITEMS, TOKENS),
}
OTHERS = RankingLimits(8_192, ITEMS, TOKENS)


@dataclass(frozen=True, kw_only=True)
class JinaRankingOptions(RankingOptions):
    """What the family can be told; a text that is longer than `max_doc_length` tokens is cut there."""

    concurrency: int = 5  # what a free account may
    truncate: bool = True
    max_doc_length: int | None = None


class JinaRanking:
    """The contract."""

    def __init__(self, options: JinaRankingOptions) -> None:
        self._options = options
        self._doc_length = options.max_doc_length or DOC_LENGTH.get(options.model)
        self.card = ranking_card(
            "jina_reranker",
            options.model,
            JINA.server(options),
            options,
            MODELS.get(options.model, OTHERS),
            max_doc_length=self._doc_length,
        )

    def request(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """All texts are asked for, and not sent back."""
        request = {
            "model": self._options.model,
            "query": query,
            "documents": filled(texts),
            "return_documents": False,
            "truncation": self._options.truncate,
        }
        return request if self._doc_length is None else {**request, "max_doc_length": self._doc_length}

    def answer(self, told: Any, count: int) -> Scores:
        """The list under `results`, which is sorted by score."""
        return scores(told["results"], "relevance_score", count, used_tokens(told))


def load(spec: ModelSpec) -> HostedReranker:
    """Find the key."""
    options = server_options(spec, JinaRankingOptions)
    return HostedReranker(JinaRanking(options), JINA.open(options, "rerank"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("jina_reranker", "pg_embed.models.jina_reranker:load")
