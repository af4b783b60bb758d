"""Family "bce_reranker": maidalun1020/bce-reranker-base_v1, which reads long documents through windows."""

from __future__ import annotations

from collections.abc import Sequence

from pg_embed.errors import InputRejected
from pg_embed.models.options import read_options
from pg_embed.models.pairs import Pairs, RerankerFamily, TransformerReranker
from pg_embed.models.registry import Registry
from pg_embed.models.reranking import load_reranker
from pg_embed.models.tokens import estimate_tokens
from pg_embed.models.transformer import CheckpointOptions
from pg_embed.records import ModelSpec

LONGEST_TEXT = 128_000  # characters; the rest is not read
LEAST_ROOM = 101  # tokens of a document in a window
OVERLAP = 80  # tokens of a window that the next one reads again, but at most a quarter of it
BCE_RERANKER = RerankerFamily(
    name="bce_reranker",
    model_type="xlm-roberta",
    model_class="XLMRobertaForSequenceClassification",
    begin=("<s>",),
    end=("</s>",),
    max_tokens=512,
    longest=512,
    accelerated="float32",
    first_position=2,
    truncation="windows, the best counts",
    padded=False,  # a long document is many rows
)


class WindowPairs(Pairs):
    """`<s> query </s></s> window </s>` for each window of a document.

    The authors' `rerank` drops empty texts, numbers what is left and fails on blanks; here both are scored as
    its `compute_score` does, as a pair without a document.
    """

    around = 4 + LEAST_ROOM - 1

    def read(self, query: str, texts: Sequence[str], max_tokens: int) -> list[list[list[int]]]:
        """The query is never cut; it must leave `LEAST_ROOM` tokens to the windows."""
        begin, end = self.vocabulary.begin, self.vocabulary.end
        [asked] = self.vocabulary.first("", [query], max_tokens)
        before = [*begin, *asked, *end, *end]
        room = max_tokens - len(before) - len(end)
        if room < LEAST_ROOM:
            raise InputRejected(
                f"the query has more than the {len(asked) + room - LEAST_ROOM} tokens that this model takes",
                hint="shorten the query",
            )
        documents = self.vocabulary.encode([text[:LONGEST_TEXT] for text in texts])
        return [[[*before, *window, *end] for window in windows(ids, room)] for ids in documents]

    def count_tokens(self, texts: Sequence[str], max_tokens: int) -> list[int]:
        """An estimate, a third of the UTF-8 bytes; what is read in several windows is counted once."""
        return estimate_tokens([text[:LONGEST_TEXT] for text in texts])


def windows(ids: list[int], room: int) -> list[list[int]]:
    """Pieces of at most `room` tokens, each of which begins with the end of the one before it."""
    step = room - min(OVERLAP, room // 4)
    return [ids[start : start + room] for start in range(0, max(len(ids) - room, 0) + step, step)]


def load(spec: ModelSpec) -> TransformerReranker:
    """One label's logit for a pair, made a number from 0 to 1."""
    return load_reranker(BCE_RERANKER, read_options(spec, CheckpointOptions), WindowPairs)


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("bce_reranker", "pg_embed.models.bce_reranker:load")
