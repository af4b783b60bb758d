"""The family "bce" against plain transformers and sentence-transformers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pg_embed.models.bce import load
from pg_embed.models.transformer import TransformerEmbedder
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import MAX_TOKENS, ByName, Change
from tests.unit.models import reference
from tests.unit.models.reference import LONG, TEXTS


def model(folder: Any, **options: Any) -> TransformerEmbedder:
    return load(ModelSpec("tiny", "bce", {"checkpoint": str(folder), **options}))


def token_ids(folder: Any, text: str) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    found: list[int] = tokenizer(text, truncation=True, max_length=MAX_TOKENS, padding=False)["input_ids"]
    return found


def test_vectors_are_of_the_first_token_whatever_the_kind(checkpoint: ByName) -> None:
    folder = checkpoint("bce")
    texts = [*TEXTS, LONG]
    rows = [reference.states(folder, token_ids(folder, text)) for text in texts]
    embedder = model(folder)
    embeddings = embedder.embed(texts, "document")
    assert reference.same(embeddings.dense, reference.unit([states[0].numpy() for states in rows]))
    assert embeddings.tokens == sum(map(len, rows))
    assert np.array_equal(embedder.embed(texts, "query").dense, embeddings.dense)
    assert reference.different(embeddings.dense, reference.unit([states.numpy().mean(0) for states in rows]))


def test_sentence_transformers_gives_the_same_vectors(checkpoint: ByName) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = str(checkpoint("bce"))
    transformer = Transformer(folder, max_seq_length=MAX_TOKENS)
    theirs = SentenceTransformer(modules=[transformer, Pooling(64, "cls"), Normalize()], device="cpu")
    texts = [*TEXTS, LONG, ""]
    assert reference.same(model(folder).embed(texts, "document").dense, theirs.encode(texts))


def test_cutting_and_padding_saved_with_the_tokenizer_are_not_ours(checkpoint: ByName) -> None:
    folder = checkpoint("bce")
    text = "a cat sat on the mat " * 5
    assert '"max_length":16' in (folder / "tokenizer.json").read_text().replace(" ", "").replace("\n", "")
    assert model(folder).embed([text], "document").tokens > 16
    assert model(folder).embed(["a cat"], "document").tokens < 16


def test_the_tokenizer_is_the_checkpoints_own_and_not_the_librarys_idea_of_it(changed: Change) -> None:
    """Transformers 5 builds the tokenizer anew for a known class, and takes not all from tokenizer.json."""
    blanks_count = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    folder = changed("bce", tokenizer={"pre_tokenizer": blanks_count})
    assert len(token_ids(folder, "a  cat")) == 4
    assert model(folder).embed(["a  cat"], "document").tokens == 5


def test_the_longest_text_fits_the_table_of_positions(checkpoint: ByName) -> None:
    embedder = model(checkpoint("bce"))
    assert embedder.card.max_tokens == 512
    assert embedder.embed([LONG * 3], "document").tokens == 512
