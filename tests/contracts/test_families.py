"""What every family keeps: order, independence of the batch, any text, dimensions, finite float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pg_embed.models.registry import default_registry
from pg_embed.protocols import Embedder
from pg_embed.records import Kind, ModelSpec
from tests.fix_checkpoints import BUILDERS
from tests.fix_models import PROVIDERS
from tests.providers.server import ProviderServer

TEXTS = [
    "How do I get my money back?",
    "",
    " ",
    "You may send anything back within thirty days. " * 100,
    "naïve Größe 東京 пример 🦜 e\u0301",
    "a\tb\nc\r\n",
    "\x01 control",
    "word",
]


@pytest.fixture(params=["fake", "minilm", "tei", *PROVIDERS, *BUILDERS])
def embedder(request: pytest.FixtureRequest) -> Iterator[Embedder]:
    if request.param == "minilm":
        yield request.getfixturevalue("minilm")
        return
    options: dict[str, object] = {"dimensions": 16}
    if request.param in PROVIDERS:
        start: Callable[[str], ProviderServer] = request.getfixturevalue("start_provider")
        options = {"base_url": start(request.param).base_url, "model": "any"}
    if request.param == "tei":
        options = {"base_url": request.getfixturevalue("start_provider")("tei").base_url}
    if request.param in BUILDERS:
        options = {"checkpoint": str(request.getfixturevalue("checkpoint")(request.param))}
    embedder = default_registry().load(ModelSpec(request.param, request.param, options))
    yield embedder
    embedder.close()


@pytest.mark.parametrize("kind", ["query", "document"])
def test_in_a_batch_equals_alone_and_keeps_the_order(embedder: Embedder, kind: Kind) -> None:
    together = embedder.embed(TEXTS, kind).dense
    alone = np.concatenate([embedder.embed([text], kind).dense for text in TEXTS])
    cosines = (together * alone).sum(axis=1)
    assert np.allclose(cosines, 1, atol=1e-5)


def test_vectors_are_finite_float32_of_length_one_and_of_the_dimensions_on_the_card(
    embedder: Embedder,
) -> None:
    dense = embedder.embed(TEXTS, "document").dense
    assert dense.dtype == np.float32
    assert dense.shape == (len(TEXTS), embedder.card.dimensions)
    assert np.isfinite(dense).all()
    assert np.allclose(np.linalg.norm(dense, axis=1), 1, atol=1e-5)


def test_different_texts_have_different_vectors(embedder: Embedder) -> None:
    dense = embedder.embed(["a cat", "the stock market"], "document").dense
    assert dense[0] @ dense[1] < 0.9


def test_many_texts_come_back_in_order(embedder: Embedder) -> None:
    most = min(96, embedder.card.max_batch_items) if embedder.card.family == "tei" else 96
    texts = [f"number {n} " + "and so on " * (n % 7) for n in range(most)]
    dense = embedder.embed(texts, "document").dense
    picked = [0, 31, most // 3, most // 2, most - 1]
    few = embedder.embed([texts[n] for n in picked], "document").dense
    assert np.allclose((dense[picked] * few).sum(axis=1), 1, atol=1e-5)


def test_tokens_are_counted_for_every_text_and_for_the_call(embedder: Embedder) -> None:
    counts = embedder.count_tokens(TEXTS)
    assert len(counts) == len(TEXTS)
    assert all(count > 0 for count in counts)
    assert embedder.embed(TEXTS, "document").tokens > 0


def test_the_card_stays_the_same(embedder: Embedder) -> None:
    assert embedder.card is embedder.card
    assert embedder.card.outputs[0] == "dense"
    assert embedder.card.space_id
