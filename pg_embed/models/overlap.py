"""Family "fake_reranker": a score is the share of the query's words that a text has; for tests and trials.

Words are what lies between blanks and punctuation, in small letters, each counted once; a query without words
gives 0 for every text. The same query and text have the same score on every machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pg_embed.errors import InputRejected, ModelUnavailable
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.records import Card, ModelSpec, Scores

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class FakeRerankerOptions:
    """What it can be told; `fail_on` and `unavailable_on` are substrings of texts that make a call fail."""

    delay: float = 0.0  # seconds a call
    fail_on: str | None = None
    unavailable_on: str | None = None
    max_tokens: int = 8_192
    concurrency: int = 2
    max_batch_items: int = 1_024
    max_batch_tokens: int = 1_048_576
    listwise: bool = False  # wants all texts in one call, though it scores each by itself


class FakeReranker:
    """Counts words instead of reading them."""

    def __init__(self, options: FakeRerankerOptions) -> None:
        self._options = options
        self.card = Card(
            family="fake_reranker",
            checkpoint="words",
            outputs=("score",),
            dimensions=1,
            max_tokens=options.max_tokens,
            metric="ip",
            space_id=space_id("fake_reranker"),
            concurrency=options.concurrency,
            max_batch_items=options.max_batch_items,
            max_batch_tokens=options.max_batch_tokens,
            listwise=options.listwise,
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """A quarter of the characters, and one."""
        return [len(text) // 4 + 1 for text in texts]

    def rerank(self, query: str, texts: Sequence[str]) -> Scores:
        """Look for the query's words; the query's tokens are used for every text."""
        if self._options.delay:
            time.sleep(self._options.delay)
        self._fail_if_told(texts)
        wanted = _words(query)
        shares = [len(wanted & _words(text)) / max(1, len(wanted)) for text in texts]
        asked, *counts = self.count_tokens([query, *texts])
        return Scores(np.array(shares, np.float32), asked * len(texts) + sum(counts))

    def close(self) -> None:
        """Nothing is held."""

    def _fail_if_told(self, texts: Sequence[str]) -> None:
        options = self._options
        if options.fail_on and any(options.fail_on in text for text in texts):
            raise InputRejected(f"the fake reranker was told to refuse {options.fail_on!r}")
        if options.unavailable_on and any(options.unavailable_on in text for text in texts):
            raise ModelUnavailable(
                f"the fake reranker was told to fail on {options.unavailable_on!r} for now"
            )


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def load(spec: ModelSpec) -> FakeReranker:
    """A fake reranker; ready at once."""
    return FakeReranker(read_options(spec, FakeRerankerOptions))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("fake_reranker", "pg_embed.models.overlap:load")
