"""The family "gte_qwen" against its authors' algorithm, and the ways in which it goes wrong silently."""

from __future__ import annotations

from typing import Any

import pytest

from pg_embed.models.gte_qwen import load
from pg_embed.models.transformer import TransformerEmbedder
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName, Change
from tests.unit.models import reference
from tests.unit.models.reference import LONG, TEXTS

END = 0  # of <|endoftext|> in the tiny vocabulary
QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "


def model(folder: Any, **options: Any) -> TransformerEmbedder:
    return load(ModelSpec("tiny", "gte_qwen", {"checkpoint": str(folder), **options}))


def expected(folder: Any, texts: list[str], *, end: bool = True, bidirectional: bool = True) -> Any:
    rows = [[*reference.token_ids(folder, text), *[END] * end] for text in texts]
    return reference.last(folder, rows, bidirectional=bidirectional)


def test_documents_are_read_as_they_are_and_queries_behind_the_task(checkpoint: ByName) -> None:
    folder = checkpoint("gte_qwen")
    embedder = model(folder)
    assert reference.same(embedder.embed(TEXTS, "document").dense, expected(folder, TEXTS))
    queries = [QUERY + text for text in TEXTS]
    assert reference.same(embedder.embed(TEXTS, "query").dense, expected(folder, queries))


def test_the_tokenizer_alone_would_leave_out_the_end_token(checkpoint: ByName) -> None:
    folder = checkpoint("gte_qwen")
    ours = model(folder).embed(TEXTS, "document").dense
    assert reference.different(ours, expected(folder, TEXTS, end=False))


def test_the_configuration_alone_would_hide_later_tokens_from_earlier_ones(checkpoint: ByName) -> None:
    folder = checkpoint("gte_qwen")
    ours = model(folder).embed(TEXTS, "document").dense
    assert reference.different(ours, expected(folder, TEXTS, bidirectional=False))


def test_a_window_in_the_configuration_hides_nothing(checkpoint: ByName, changed: Change) -> None:
    windowed = {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0}
    windowed |= {"layer_types": ["sliding_attention"] * 2}
    folder = changed("gte_qwen", config=windowed)
    plain, ours = model(checkpoint("gte_qwen")), model(folder)
    texts = [text for text in TEXTS if len(text) > 10]
    assert reference.same(ours.embed(texts, "document").dense, plain.embed(texts, "document").dense)
    assert ours.card.space_id == plain.card.space_id
    assert reference.different(expected(folder, texts, bidirectional=False), expected(folder, texts))


def test_the_space_is_the_same_whether_or_not_the_configuration_says_what_is_so(
    checkpoint: ByName, changed: Change
) -> None:
    told = changed("gte_qwen", config={"is_causal": False})
    assert model(told).card.space_id == model(checkpoint("gte_qwen")).card.space_id


@pytest.mark.parametrize("max_tokens", [8, 64])
def test_long_texts_are_cut_before_the_end_token_is_added(checkpoint: ByName, max_tokens: int) -> None:
    folder = checkpoint("gte_qwen")
    ids = [*reference.token_ids(folder, LONG)[: max_tokens - 1], END]
    embeddings = model(folder, max_tokens=max_tokens, instruction="").embed([LONG], "document")
    assert reference.same(embeddings.dense, reference.last(folder, [ids], bidirectional=True))
    assert embeddings.tokens == max_tokens


def test_code_in_the_checkpoint_is_not_run(checkpoint: ByName) -> None:
    folder = checkpoint("gte_qwen")
    assert "modeling_qwen" in (folder / "config.json").read_text()
    assert "SystemExit" in (folder / "modeling_qwen.py").read_text()
    assert type(model(folder)._model).__module__.startswith("transformers.")
