"""Family "bm25": values of the formula, what changes the space, and what every family keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.models.bm25 import MOST_TERMS, Bm25Embedder, average_length
from pg_embed.models.registry import default_registry
from pg_embed.models.words import NUMBERS, term_number
from pg_embed.records import Kind, ModelSpec, SparseVectors

TEXTS = [
    "How do I get my money back?",
    "",
    "You may send anything back within thirty days. " * 100,
    "naïve Größe 東京 пример 🦜 e\u0301",
    "\x01 control",
]


def make(**options: Any) -> Bm25Embedder:
    embedder = default_registry().load(ModelSpec("words", "bm25", options))
    assert isinstance(embedder, Bm25Embedder)
    return embedder


def sparse(embedder: Bm25Embedder, texts: list[str], kind: Kind = "document") -> SparseVectors:
    found = embedder.embed(texts, kind).sparse
    assert found is not None
    return found


def weights(embedder: Bm25Embedder, text: str, kind: Kind = "document") -> dict[int, float]:
    return dict(zip(*(part.tolist() for part in sparse(embedder, [text], kind).row(0)), strict=True))


def test_a_documents_values_are_bm25s() -> None:
    found = weights(make(k1=1.2, b=0.75, average_length=4), "cat cats dog")
    # of 3 terms: k1 * (1 - b + b * 3 / 4) = 0.975
    assert found == {
        term_number("cat"): pytest.approx(2 * 2.2 / 2.975),
        term_number("dog"): pytest.approx(2.2 / 1.975),
    }


def test_a_querys_values_are_counts() -> None:
    assert weights(make(), "cat cats dog", "query") == {term_number("cat"): 2, term_number("dog"): 1}


def test_without_b_the_length_does_not_count() -> None:
    embedder = make(b=0)
    assert (
        weights(embedder, "cat")[term_number("cat")]
        == weights(embedder, "cat " + "dog " * 50)[term_number("cat")]
    )


@pytest.mark.parametrize("kind", ["query", "document"])
def test_in_a_batch_equals_alone_and_keeps_the_order(kind: Kind) -> None:
    embedder = make()
    together = sparse(embedder, TEXTS, kind)
    assert len(together) == len(TEXTS)
    assert together.values.dtype == np.float32
    assert together.indices.dtype == np.int32
    for row, text in enumerate(TEXTS):
        indices, values = together.row(row)
        assert dict(zip(indices.tolist(), values.tolist(), strict=True)) == weights(embedder, text, kind)
        assert (np.diff(indices) > 0).all()
        assert ((indices >= 0) & (indices < NUMBERS)).all()
        assert (values > 0).all()


def test_no_texts_have_no_vectors() -> None:
    assert len(make().embed([], "document")) == 0
    assert len(sparse(make(), [])) == 0


def test_tokens_are_terms() -> None:
    embedder = make()
    assert embedder.count_tokens(["the cat and the dogs", ""]) == [2, 0]
    assert embedder.embed(["the cat and the dogs", "cat"], "document").tokens == 3


def test_of_too_many_terms_the_heaviest_are_kept() -> None:
    found = weights(make(), " ".join(f"word{n}" for n in range(20_000)) + " cat cat cat")
    assert len(found) == MOST_TERMS
    assert term_number("cat") in found


def test_the_card() -> None:
    card = make().card
    assert card is not None
    assert card.outputs == ("sparse",)
    assert card.size("sparse") == NUMBERS
    assert card.metric == "ip"
    assert not card.padded


@pytest.mark.parametrize("options", [{"language": "german"}, {"k1": 1.5}, {"b": 0.4}, {"average_length": 80}])
def test_what_changes_the_vectors_changes_the_space(options: dict[str, Any]) -> None:
    assert make(**options).card.space_id != make().card.space_id


def test_a_number_may_be_written_as_a_whole_one() -> None:
    assert make(k1=1).card.space_id == make(k1=1.0).card.space_id


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"language": "klingon"}, "klingon"),
        ({"b": 1.5}, "between 0 and 1"),
        ({"average_length": 0}, "1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        make(**options)


def test_the_average_length_of_a_sample() -> None:
    assert average_length(["the cat and the dogs", "cat"]) == 1.5
    with pytest.raises(InvalidArgument, match="no terms"):
        average_length(["the", ""])
