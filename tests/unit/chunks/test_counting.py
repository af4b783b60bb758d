"""Counting tokens: MiniLM's tokenizer, a tiny one, and the estimate."""

from __future__ import annotations

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from pg_embed.chunks import Counter, estimated, tokenized

LONG = "word " * 3000


def test_a_tokenizer_counts_what_it_would_truncate_and_stays_as_it_is(minilm_tokenizer: Tokenizer) -> None:
    truncation = minilm_tokenizer.truncation
    assert tokenized(minilm_tokenizer)(LONG) == 3000
    assert minilm_tokenizer.truncation == truncation


def test_begin_and_end_are_not_counted_and_padding_is_not(minilm_counter: Counter) -> None:
    assert minilm_counter.many(["", "one", "one two three"]) == [0, 1, 3]


def test_a_tokenizer_of_transformers_counts_the_same(
    tiny_tokenizer: Tokenizer, byte_counter: Counter
) -> None:
    counter = tokenized(PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer))
    for text in ("", "abc", "é 日本", LONG):
        assert counter(text) == byte_counter(text) == len(text.encode())


def test_without_a_tokenizer_three_bytes_are_a_token() -> None:
    assert estimated().many(["", "a", "abc", "abcd", "日本"]) == [0, 1, 1, 2, 2]
