"""The family "qwen3" against its authors' algorithm, and the ways in which it goes wrong silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.models.qwen3 import load
from pg_embed.models.transformer import TransformerEmbedder
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName
from tests.unit.models import reference
from tests.unit.models.reference import LONG, TEXTS

TEXT_END, MESSAGE_END = 0, 2  # <|endoftext|> and <|im_end|> in the tiny vocabulary
QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def model(folder: Any, **options: Any) -> TransformerEmbedder:
    return load(ModelSpec("tiny", "qwen3", {"checkpoint": str(folder), **options}))


def expected(folder: Any, texts: list[str], **settings: Any) -> Any:
    return reference.last(folder, [reference.token_ids(folder, text, **settings) for text in texts])


def test_documents_are_read_as_they_are_and_queries_behind_the_task(checkpoint: ByName) -> None:
    folder = checkpoint("qwen3")
    embedder = model(folder)
    assert reference.token_ids(folder, "a cat")[-1] == TEXT_END
    assert reference.same(embedder.embed(TEXTS, "document").dense, expected(folder, TEXTS))
    queries = [QUERY + text for text in TEXTS]
    assert reference.same(embedder.embed(TEXTS, "query").dense, expected(folder, queries))


def test_a_blank_behind_the_task_would_give_other_vectors(checkpoint: ByName) -> None:
    folder = checkpoint("qwen3")
    blank = expected(folder, [f"{QUERY} {text}" for text in TEXTS])
    assert reference.different(model(folder).embed(TEXTS, "query").dense, blank)


def test_the_tokenizers_own_end_token_would_be_the_wrong_one(checkpoint: ByName) -> None:
    folder = checkpoint("qwen3")
    naive = expected(folder, TEXTS, add_eos_token=True)
    assert reference.token_ids(folder, "a cat", add_eos_token=True)[-1] == MESSAGE_END
    assert reference.different(model(folder).embed(TEXTS, "document").dense, naive)


def test_vectors_that_are_cut_are_made_of_length_one_again(checkpoint: ByName) -> None:
    folder = checkpoint("qwen3")
    full, cut = model(folder), model(folder, dimensions=32)
    naive = expected(folder, TEXTS)[:, :32]
    dense = cut.embed(TEXTS, "document").dense
    assert (np.linalg.norm(naive, axis=1) < 0.95).all()
    assert np.allclose(dense, reference.unit(naive), atol=1e-5)
    assert cut.card.dimensions == dense.shape[1] == 32
    assert cut.card.space_id != full.card.space_id == model(folder, dimensions=64).card.space_id


@pytest.mark.parametrize(("dimensions", "words"), [(31, "at least 32"), (65, "64 dimensions")])
def test_too_few_or_too_many_dimensions_are_an_error(checkpoint: ByName, dimensions: int, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        model(checkpoint("qwen3"), dimensions=dimensions)


@pytest.mark.parametrize("max_tokens", [8, 64])
def test_long_texts_are_cut_as_the_library_cuts_them(checkpoint: ByName, max_tokens: int) -> None:
    from transformers import AutoTokenizer

    folder = checkpoint("qwen3")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer(LONG, truncation=True, max_length=max_tokens)["input_ids"]
    embeddings = model(folder, max_tokens=max_tokens, instruction="").embed([LONG], "document")
    assert reference.same(embeddings.dense, reference.last(folder, [ids]))
    assert embeddings.tokens == max_tokens == len(ids)


def test_a_batch_padded_on_the_left_as_its_authors_do_gives_the_same_vectors(checkpoint: ByName) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(checkpoint("qwen3"))
    padded = AutoTokenizer.from_pretrained(folder, padding_side="left")(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(**padded).last_hidden_state
    assert not padded["attention_mask"].all()
    assert reference.same(model(folder).embed(TEXTS, "document").dense, states[:, -1].numpy())
