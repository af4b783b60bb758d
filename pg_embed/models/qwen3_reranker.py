"""Family "qwen3_reranker": the three sizes of Qwen3-Reranker, language models that answer yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pg_embed.errors import InputRejected
from pg_embed.models.options import read_options
from pg_embed.models.pairs import Pairs, RerankerFamily, TransformerReranker
from pg_embed.models.registry import Registry
from pg_embed.models.reranking import load_reranker
from pg_embed.models.tokens import estimate_tokens
from pg_embed.models.transformer import WEB_SEARCH, CheckpointOptions
from pg_embed.models.vocabulary import Vocabulary
from pg_embed.records import ModelSpec

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the"
    ' Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN3_RERANKER = RerankerFamily(
    name="qwen3_reranker",
    model_type="qwen3",
    model_class="Qwen3ForCausalLM",
    begin=(),
    end=(),
    max_tokens=8_192,
    longest=32_768,
    truncation="end of the document",
    labels=None,
)


@dataclass(frozen=True)
class Qwen3RerankerOptions(CheckpointOptions):
    """What makes a document an answer, told in English."""

    instruction: str = WEB_SEARCH


class YesNoPairs(Pairs):
    """A chat in which the model is asked for one word; how much likelier "yes" is than "no" is the logit."""

    left = True  # so that all answers stand in the last place

    def __init__(self, vocabulary: Vocabulary, instruction: str) -> None:
        super().__init__(vocabulary)
        self._instruction = instruction
        self._yes, self._no = vocabulary.id("yes"), vocabulary.id("no")
        self._prefix, self._suffix = vocabulary.encode([PREFIX, SUFFIX])
        [header] = vocabulary.encode([self._header("")])
        self.around = len(self._prefix) + len(header) + len(self._suffix)

    def read(self, query: str, texts: Sequence[str], max_tokens: int) -> list[list[list[int]]]:
        """Instruction, query and document are tokenised as one, and cut at their end."""
        header = self._header(query)
        room = max_tokens - len(self._prefix) - len(self._suffix)
        if len(self.vocabulary.first("", [header], room)[0]) == room:
            raise InputRejected(
                f"the query leaves no room for a document in {max_tokens} tokens",
                hint="shorten the query, or set a larger max_tokens",
            )
        bodies = self.vocabulary.first(header, texts, room)
        return [[[*self._prefix, *ids, *self._suffix]] for ids in bodies]

    def count_tokens(self, texts: Sequence[str], max_tokens: int) -> list[int]:
        """An estimate, a third of the UTF-8 bytes and the template's, but at most `max_tokens`."""
        prompt = PREFIX + self._header("") + SUFFIX
        return [min(count, max_tokens) for count in estimate_tokens(texts, prompt)]

    def logits(self, model: Any, ids: Any, mask: Any) -> Any:
        """Of "yes", less that of "no"."""
        last = model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[:, -1].float()
        return last[:, self._yes] - last[:, self._no]

    def _header(self, query: str) -> str:
        return f"<Instruct>: {self._instruction}\n<Query>: {query}\n<Document>: "


def load(spec: ModelSpec) -> TransformerReranker:
    """The likelihood of "yes", where there is only "yes" or "no"."""
    options = read_options(spec, Qwen3RerankerOptions)
    return load_reranker(QWEN3_RERANKER, options, partial(YesNoPairs, instruction=options.instruction))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("qwen3_reranker", "pg_embed.models.qwen3_reranker:load")
