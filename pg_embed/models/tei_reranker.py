"""Family "tei_reranker": rerankers behind Hugging Face's Text Embeddings Inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pg_embed.errors import ModelMisconfigured
from pg_embed.models.answers import scores
from pg_embed.models.calls import ServerOptions, filled, server_options
from pg_embed.models.hosted_ranking import HostedReranker, RankingLimits, ranking_card
from pg_embed.models.registry import Registry
from pg_embed.models.tei import TEI, TeiInfo, read_info
from pg_embed.records import ModelSpec, Scores


@dataclass(frozen=True, kw_only=True)
class TeiRankingOptions(ServerOptions):
    """What the family can be told; the model and the limits are told by the server."""

    base_url: str = field()
    truncate: bool = True


class TeiRanking:
    """The contract of `/rerank`."""

    def __init__(self, options: TeiRankingOptions, info: TeiInfo) -> None:
        self._options = options
        self.card = ranking_card(
            "tei_reranker",
            info.model_id,
            info.server(options),
            replace(options, concurrency=info.concurrency(options)),
            RankingLimits(info.max_input_length, info.items, info.max_batch_tokens),
        )

    def request(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """Scores between 0 and 1 are asked for, texts are not sent back."""
        return {
            "query": query,
            "texts": filled(texts),
            "truncate": self._options.truncate,
            "raw_scores": False,
            "return_text": False,
        }

    def answer(self, told: Any, count: int) -> Scores:
        """A list that is sorted by score; the server tells no tokens in it."""
        return scores(told, "score", count, 0)


def load(spec: ModelSpec) -> HostedReranker:
    """Ask the server what it is."""
    options = server_options(spec, TeiRankingOptions)
    info = read_info(options)
    if info.kind != "reranker":
        raise ModelMisconfigured(
            f"the model at {options.base_url} is no reranker",
            hint="a model that makes vectors is served by the family tei",
        )
    return HostedReranker(TeiRanking(options, info), TEI.open(options, "rerank"))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("tei_reranker", "pg_embed.models.tei_reranker:load")
