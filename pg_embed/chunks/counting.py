"""Counting the tokens of texts: by a tokenizer, or by an estimate where a hosted model's is not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

BYTES_PER_TOKEN = 3  # as models estimate: English has about 4, code 3, Chinese 3
TEXTS_A_BATCH = 1024  # so that few encodings are in memory at once


class Counter:
    """Tokens of a text; `many` counts several at once, which tokenizers do on all cores."""

    def __init__(self, many: Callable[[Sequence[str]], list[int]]) -> None:
        self._many = many

    def __call__(self, text: str) -> int:
        """Tokens of one text, without those that begin and end an input."""
        return self._many([text])[0]

    def many(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        batches = (texts[at : at + TEXTS_A_BATCH] for at in range(0, len(texts), TEXTS_A_BATCH))
        return [count for batch in batches for count in self._many(batch)]


def tokenized(tokenizer: Any) -> Counter:
    """A counter by a tokenizer of `tokenizers` or of transformers, which it leaves as it is.

    Its truncation and padding do not count. It is as thread safe as the tokenizer: a fast one is copied.
    """
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(fast, "to_str"):
        return Counter(lambda texts: _slow(tokenizer, texts))
    own = type(fast).from_str(fast.to_str())
    own.no_truncation()
    own.no_padding()
    return Counter(
        lambda texts: [
            len(encoding.ids) for encoding in own.encode_batch_fast(list(texts), add_special_tokens=False)
        ]
    )


def estimated() -> Counter:
    """A counter without a tokenizer: a third of the UTF-8 bytes, rounded up; seldom too low."""
    return Counter(
        lambda texts: [-(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN) for text in texts]
    )


def many(count: Callable[[str], int], texts: Sequence[str]) -> list[int]:
    """Tokens of each text by any counter."""
    return count.many(texts) if isinstance(count, Counter) else [count(text) for text in texts]


def _slow(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    found = tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return [len(ids) for ids in found["input_ids"]]
