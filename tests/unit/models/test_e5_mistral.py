"""The family "e5_mistral" against its authors' algorithm, and the ways in which it goes wrong silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pg_embed.models.e5_mistral import load
from pg_embed.models.transformer import TransformerEmbedder
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName, Change
from tests.unit.models import reference
from tests.unit.models.reference import LONG, TEXTS

BOTH = {"add_bos_token": True, "add_eos_token": True}
QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "


def model(folder: Any, **options: Any) -> TransformerEmbedder:
    return load(ModelSpec("tiny", "e5_mistral", {"checkpoint": str(folder), **options}))


def expected(folder: Any, texts: list[str], **settings: Any) -> Any:
    return reference.last(folder, [reference.token_ids(folder, text, **(settings or BOTH)) for text in texts])


def test_documents_are_read_as_they_are_and_queries_behind_the_task(checkpoint: ByName) -> None:
    folder = checkpoint("e5_mistral")
    embedder = model(folder)
    assert reference.same(embedder.embed(TEXTS, "document").dense, expected(folder, TEXTS))
    queries = [QUERY + text for text in TEXTS]
    assert reference.same(embedder.embed(TEXTS, "query").dense, expected(folder, queries))


def test_the_tokenizer_alone_would_leave_out_an_end_token(checkpoint: ByName) -> None:
    folder = checkpoint("e5_mistral")
    ours = model(folder).embed(TEXTS, "document").dense
    for settings in ({"use_fast": True}, {"add_eos_token": True}):
        assert reference.different(ours, expected(folder, TEXTS, **settings))


@pytest.mark.parametrize("max_tokens", [8, 64])
def test_long_texts_are_cut_before_the_end_token_is_added(checkpoint: ByName, max_tokens: int) -> None:
    folder = checkpoint("e5_mistral")
    ids = [*reference.token_ids(folder, LONG, **BOTH)[: max_tokens - 1], 2]
    embeddings = model(folder, max_tokens=max_tokens, instruction="").embed([LONG], "document")
    assert reference.same(embeddings.dense, reference.last(folder, [ids]))
    assert embeddings.tokens == max_tokens


def test_padding_on_the_left_gives_the_same_vectors(checkpoint: ByName) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(checkpoint("e5_mistral"))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", pad_token="</s>", **BOTH)
    padded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(**padded).last_hidden_state
    assert not padded["attention_mask"].all()
    assert reference.same(model(folder).embed(TEXTS, "document").dense, states[:, -1].numpy())


def test_the_tokens_are_counted(checkpoint: ByName) -> None:
    folder = checkpoint("e5_mistral")
    count = sum(len(reference.token_ids(folder, text, **BOTH)) for text in TEXTS)
    assert model(folder).embed(TEXTS, "document").tokens == count


def test_the_task_may_be_another_or_none(checkpoint: ByName) -> None:
    folder = checkpoint("e5_mistral")
    other, none = model(folder, instruction="find cats"), model(folder, instruction="")
    query = "Instruct: find cats\nQuery: a cat"
    assert reference.same(other.embed(["a cat"], "query").dense, expected(folder, [query]))
    assert np.array_equal(none.embed(TEXTS, "query").dense, none.embed(TEXTS, "document").dense)
    assert len({other.card.space_id, none.card.space_id, model(folder).card.space_id}) == 3


def test_the_window_of_the_configuration_stays(changed: Change) -> None:
    folder = changed("e5_mistral", config={"sliding_window": 4})
    assert reference.same(model(folder).embed(TEXTS, "document").dense, expected(folder, TEXTS))
