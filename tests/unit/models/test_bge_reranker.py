"""The family "bge_reranker" against its authors' own class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.models.bge_reranker import load
from pg_embed.models.pairs import TransformerReranker
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName, Change
from tests.fix_flag import FlagScores
from tests.unit.models.reference import LONG, TEXTS

QUERY = "How do I get my money back?"
KNOWN = [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[4], LONG]  # without letters that the vocabulary lacks
LONG_QUERY = "a cat sat on the mat while the stock market fell " * 10


def model(folder: Path, **options: Any) -> TransformerReranker:
    return load(ModelSpec("tiny", "bge_reranker", {"checkpoint": str(folder), **options}))


def job(query: str, texts: list[str], *, joined: bool = False, **settings: Any) -> dict[str, Any]:
    return {"pairs": [[query, text] for text in texts], "joined": joined, "settings": settings}


def token_ids(folder: Path, query: str, text: str | None, **settings: Any) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    found: list[int] = tokenizer(query, text, **settings)["input_ids"]
    return found


def logit(folder: Path, ids: list[int]) -> float:
    import torch
    from transformers import AutoModelForSequenceClassification

    classifier = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32).eval()
    with torch.inference_mode():
        return float(classifier(input_ids=torch.tensor([ids])).logits[0, 0])


def test_the_authors_class_gives_the_same_scores(checkpoint: ByName, flag_scores: FlagScores) -> None:
    folder = checkpoint("bge_reranker")
    jobs = [
        job(QUERY, KNOWN, max_length=1_024),
        job(QUERY, KNOWN, max_length=64),
        job(LONG_QUERY, KNOWN, max_length=64),
        job("", KNOWN, max_length=1_024),
        job(QUERY, KNOWN, max_length=1_024, normalize=True),
    ]
    cases: list[tuple[str, dict[str, Any]]] = [
        (QUERY, {"activation": "none"}),
        (QUERY, {"activation": "none", "max_tokens": 64}),
        (LONG_QUERY, {"activation": "none", "max_tokens": 64}),
        ("", {"activation": "none"}),
        (QUERY, {}),
    ]
    for (query, options), theirs in zip(cases, flag_scores(folder, jobs), strict=True):
        ours = model(folder, **options).rerank(query, KNOWN).scores
        alone, together = np.split(theirs, 2)
        assert np.allclose(ours, alone, atol=1e-5)
        assert np.allclose(ours, together, atol=1e-5)
        assert np.ptp(ours) > 0.01


def test_texts_are_read_as_the_authors_class_read_them_under_transformers_4(
    checkpoint: ByName, flag_scores: FlagScores
) -> None:
    """Under 5 it makes text of the ids, and ids of that text.

    These are others where letters are unknown, and an empty text is then no text: the query stands alone.
    """
    folder = checkpoint("bge_reranker")
    texts = ["naïve Größe 東京 пример 🦜", "a🦜cat", "", "  "]
    jobs = [job(QUERY, [*KNOWN, *texts], joined=joined, max_length=64) for joined in (True, False)]
    joined, again = flag_scores(folder, jobs)
    ours = model(folder, activation="none", max_tokens=64).rerank(QUERY, [*KNOWN, *texts]).scores
    assert np.allclose(ours, joined[: len(ours)], atol=1e-5)
    assert np.allclose(joined[: len(KNOWN)], again[: len(KNOWN)], atol=1e-5)
    assert not np.isclose(ours, again[: len(ours)], atol=1e-3)[len(KNOWN) :].any()


def test_a_pair_is_cut_in_the_document_and_a_long_query_before_it(checkpoint: ByName) -> None:
    folder = checkpoint("bge_reranker")
    reranker = model(folder, activation="none", max_tokens=64)
    ours = reranker.rerank(QUERY, [LONG])
    ids = token_ids(folder, QUERY, LONG, truncation="only_second", max_length=64)
    assert ours.tokens == len(ids) == 64
    assert ours.scores[0] == pytest.approx(logit(folder, ids), abs=1e-5)
    ours = reranker.rerank(LONG_QUERY, [LONG])
    query, text = token_ids(folder, LONG_QUERY, None)[1:49], token_ids(folder, LONG, None)[1:13]
    assert ours.scores[0] == pytest.approx(logit(folder, [0, *query, 2, 2, *text, 2]), abs=1e-5)
    naive = token_ids(folder, LONG_QUERY, LONG, truncation="longest_first", max_length=64)
    assert abs(ours.scores[0] - logit(folder, naive)) > 1e-3


def test_one_end_token_between_query_and_document_would_be_too_few(checkpoint: ByName) -> None:
    folder = checkpoint("bge_reranker")
    [ours] = model(folder, activation="none").rerank(QUERY, ["a cat"]).scores
    query, text = (token_ids(folder, text, None)[1:-1] for text in (QUERY, "a cat"))
    assert ours == pytest.approx(logit(folder, [0, *query, 2, 2, *text, 2]), abs=1e-5)
    assert abs(ours - logit(folder, [0, *query, 2, *text, 2])) > 1e-3


def test_sentence_transformers_gives_the_same_scores(checkpoint: ByName) -> None:
    from sentence_transformers import CrossEncoder

    folder = checkpoint("bge_reranker")
    texts = [*TEXTS, "", LONG]
    theirs = CrossEncoder(str(folder), max_length=1_024, device="cpu").predict([(QUERY, t) for t in texts])
    assert np.allclose(model(folder).rerank(QUERY, texts).scores, theirs, atol=1e-5)


def test_scores_are_from_0_to_1_unless_told_and_in_the_same_order(checkpoint: ByName) -> None:
    folder = checkpoint("bge_reranker")
    scores, logits = (
        model(folder, activation=activation).rerank(QUERY, TEXTS).scores for activation in ("sigmoid", "none")
    )
    assert ((scores > 0) & (scores < 1)).all()
    assert np.allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert np.array_equal(np.argsort(scores), np.argsort(logits))


def test_a_pair_has_1024_tokens_unless_told_or_the_checkpoint_can_do_less(
    checkpoint: ByName, changed: Change
) -> None:
    long = [LONG * 12]
    assert model(checkpoint("bge_reranker")).rerank(QUERY, long).tokens == 1_024
    assert model(checkpoint("bge_reranker"), max_tokens=8_192).rerank(QUERY, long).tokens == 8_192
    base = changed("bce_reranker")  # as many positions as bge-reranker-base
    assert model(base).card.max_tokens == model(base).rerank(QUERY, long).tokens == 512


@pytest.mark.parametrize("max_tokens", [16, 8_193])
def test_max_tokens_has_room_for_a_document(checkpoint: ByName, max_tokens: int) -> None:
    with pytest.raises(InvalidArgument, match="at most 8192 for this checkpoint, and more than 16"):
        model(checkpoint("bge_reranker"), max_tokens=max_tokens)


def test_the_least_max_tokens_leaves_a_token_to_the_document(checkpoint: ByName) -> None:
    reranker = model(checkpoint("bge_reranker"), max_tokens=17)
    scores = reranker.rerank(LONG_QUERY, ["cat", "market"])
    assert scores.tokens == 34
    assert scores.scores[0] != scores.scores[1]
