"""The family "bce_reranker" against its authors' own class."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument
from pg_embed.models.bce_reranker import load, windows
from pg_embed.models.pairs import TransformerReranker
from pg_embed.records import ModelSpec
from tests.fix_bcembedding import BceScores
from tests.fix_checkpoints import ByName
from tests.unit.models.reference import TEXTS

QUERY = "How do I get my money back?"
WORDS = "You may send anything back within thirty days while the stock market fell by three percent and so on"
LONG = " ".join(WORDS.split()[:: 1 + n % 5][n % 3] + " " + WORDS for n in range(60))
LONG_QUERY = "a cat sat on the mat " * 50  # 300 tokens: windows of 208, which share 52


def model(folder: Path, **options: Any) -> TransformerReranker:
    return load(ModelSpec("tiny", "bce_reranker", {"checkpoint": str(folder), **options}))


def job(query: str, texts: list[str], *, windows: bool = True) -> dict[str, Any]:
    return {"query": query, "texts": texts, "windows": windows}


def test_the_authors_class_gives_the_same_scores(checkpoint: ByName, bce_scores: BceScores) -> None:
    folder = checkpoint("bce_reranker")
    texts = [*TEXTS, LONG, "🦜", LONG[:3_000], " ".join(reversed(LONG.split()))]
    jobs = [job(QUERY, texts), job(LONG_QUERY, texts), job(QUERY, [*TEXTS, ""], windows=False)]
    reranker = model(folder)
    for asked, theirs in zip(jobs, bce_scores(folder, jobs), strict=True):
        ours = reranker.rerank(asked["query"], asked["texts"])
        assert np.allclose(ours.scores, theirs, atol=1e-5)
        assert np.ptp(ours.scores) > 0.01
        one_by_one = [reranker.rerank(asked["query"], [text]).scores[0] for text in asked["texts"]]
        assert np.allclose(ours.scores, one_by_one, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 407, 408, 409, 736, 737, 1_500])
def test_windows_share_tokens_and_end_with_the_text(tokens: int) -> None:
    ids = list(range(tokens))
    pieces = windows(ids, 408)
    assert all(len(piece) == 408 for piece in pieces[:-1])
    assert all(right[:80] == left[-80:] for left, right in pairwise(pieces))
    assert pieces[-1][-1] == ids[-1]
    assert len(pieces[-1]) > 80 or len(pieces) == 1
    assert [*pieces[0], *(number for piece in pieces[1:] for number in piece[80:])] == ids


def test_a_small_window_shares_a_quarter() -> None:
    assert windows(list(range(200)), 101) == [
        list(range(101)),
        list(range(76, 177)),
        list(range(152, 200)),
    ]


def test_the_end_of_a_long_text_counts_where_cutting_would_lose_it(checkpoint: ByName) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = checkpoint("bce_reranker")
    reranker = model(folder)
    texts = [LONG + end * 400 for end in (" cat", " mat", " money", " Instruct:")]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    classifier = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    batch = tokenizer([QUERY] * 4, texts, truncation=True, max_length=512, padding=True, return_tensors="pt")
    with torch.inference_mode():
        naive = torch.sigmoid(classifier(**batch).logits[:, 0]).numpy()
    assert np.ptp(naive) == 0
    ours = reranker.rerank(QUERY, texts)
    assert (ours.scores > naive + 0.01).all()
    assert len(set(ours.scores)) == 4
    assert ours.tokens > 1_800 * 4


def test_empty_texts_do_not_shift_the_others(checkpoint: ByName) -> None:
    """The authors' `rerank` drops them, numbers what is left, and fails on blanks."""
    reranker = model(checkpoint("bce_reranker"))
    scores = reranker.rerank(QUERY, ["", TEXTS[1], "", TEXTS[2]]).scores
    assert np.allclose(scores[[1, 3]], reranker.rerank(QUERY, TEXTS[1:3]).scores, atol=1e-6)
    assert np.allclose(scores[[0, 2]], reranker.rerank(QUERY, ["  "]).scores, atol=1e-6)


def test_nothing_behind_128_000_characters_is_read(checkpoint: ByName) -> None:
    reranker = model(checkpoint("bce_reranker"))
    text = " " * 127_990 + "a cat sat on the mat"
    assert reranker.rerank(QUERY, [text]).scores[0] == reranker.rerank(QUERY, ["a cat sat "]).scores[0]
    assert reranker.count_tokens([text * 2, "a cat"]) == [42_668, 3]


def test_a_query_that_leaves_no_room_for_windows_is_rejected(checkpoint: ByName) -> None:
    reranker = model(checkpoint("bce_reranker"))
    longest = "cat " * 407
    assert np.isfinite(reranker.rerank(longest, [LONG]).scores).all()
    with pytest.raises(InputRejected, match="more than the 407 tokens") as caught:
        reranker.rerank(longest + "cat", ["a cat"])
    assert "shorten" in str(caught.value.hint)


@pytest.mark.parametrize("max_tokens", [104, 513])
def test_max_tokens_has_room_for_windows_and_is_no_more_than_the_checkpoint_can_do(
    checkpoint: ByName, max_tokens: int
) -> None:
    with pytest.raises(InvalidArgument, match="at most 512 for this checkpoint, and more than 104"):
        model(checkpoint("bce_reranker"), max_tokens=max_tokens)
