"""A checkpoint's own tokenizer, around whose tokens we put the special ones.

What a tokenizer adds by itself changes with the library's version, and the files of a checkpoint contradict
each other; where the last token is pooled, a missing one makes vectors worse without a sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from pg_embed.errors import InputRejected, ModelMisconfigured
from pg_embed.models import local


class Vocabulary:
    """A tokenizer that one thread uses at a time."""

    def __init__(self, tokenizer: Any, begin: Sequence[str], end: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()
        self.begin = [self.id(token) for token in begin]
        self.end = [self.id(token) for token in end]

    def read(self, header: str, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text behind the header and between the special tokens, at most `max_tokens`.

        A very long text is cut before it is tokenised, where that changes nothing.
        """
        room = max_tokens - len(self.begin) - len(self.end)
        characters = max_tokens * local.CHARACTERS_PER_TOKEN
        found = self._encode([header + text[:characters] for text in texts])
        for row, text in enumerate(texts):
            if len(text) > characters and len(found[row]) <= room:
                [found[row]] = self._encode([header + text])
        return [[*self.begin, *ids[:room], *self.end] for ids in found]

    def header(self, header: str) -> list[int]:
        """The ids that stand before every text."""
        return [*self.begin, *self._encode([header])[0]]

    def id(self, token: str) -> int:
        """The id of a token that must be there."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ModelMisconfigured(
                f"the checkpoint's tokenizer has no token {token}, which this family needs",
                hint="check that the checkpoint is of this family",
            )
        return found

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            with self._lock:
                encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        except TypeError as exc:
            raise InputRejected("a text is not valid Unicode and cannot be tokenised") from exc
        return [encoding.ids for encoding in encodings]


def load_vocabulary(folder: Path, begin: Sequence[str], end: Sequence[str]) -> Vocabulary:
    """The tokenizer of a checkpoint's tokenizer.json, without the cutting and padding saved in it."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelMisconfigured(
            "the checkpoint has no tokenizer.json",
            hint="let transformers write one: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        )
    [tokenizers] = local.libraries("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Vocabulary(tokenizer, begin, end)
