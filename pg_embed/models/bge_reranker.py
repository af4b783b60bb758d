"""Family "bge_reranker": BAAI's bge-reranker-v2-m3, bge-reranker-large and bge-reranker-base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pg_embed.models.options import read_options
from pg_embed.models.pairs import Activation, Pairs, RerankerFamily, TransformerReranker
from pg_embed.models.registry import Registry
from pg_embed.models.reranking import load_reranker
from pg_embed.models.transformer import CheckpointOptions
from pg_embed.records import ModelSpec

BGE_RERANKER = RerankerFamily(
    name="bge_reranker",
    model_type="xlm-roberta",
    model_class="XLMRobertaForSequenceClassification",
    begin=("<s>",),
    end=("</s>",),
    max_tokens=1_024,  # the authors' class cuts at 512 unless told, which v2-m3 does not need
    longest=8_192,
    accelerated="float16",
    first_position=2,
    truncation="query to three quarters, then document",
)


@dataclass(frozen=True)
class BgeRerankerOptions(CheckpointOptions):
    """The authors' own class gives bare logits unless told; ours gives 0 to 1, as most rerankers do.

    The order is the same, and a threshold or a weighted sum goes on working when the model is changed.
    """

    activation: Activation = "sigmoid"


class BgePairs(Pairs):
    """`<s> query </s></s> document </s>`."""

    around = 16  # with fewer, a query of three quarters leaves no token to the document

    def read(self, query: str, texts: Sequence[str], max_tokens: int) -> list[list[list[int]]]:
        """The query is cut at three quarters of `max_tokens`, the document to what is left."""
        begin, end = self.vocabulary.begin, self.vocabulary.end
        [asked] = self.vocabulary.first("", [query], max_tokens * 3 // 4)
        before = [*begin, *asked, *end, *end]
        documents = self.vocabulary.first("", texts, max_tokens - len(before) - len(end))
        return [[[*before, *ids, *end]] for ids in documents]


def load(spec: ModelSpec) -> TransformerReranker:
    """One label's logit for a pair, made a number from 0 to 1 unless told otherwise."""
    options = read_options(spec, BgeRerankerOptions)
    return load_reranker(BGE_RERANKER, options, BgePairs, options.activation)


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("bge_reranker", "pg_embed.models.bge_reranker:load")
