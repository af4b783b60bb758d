"""What the rerankers of bare transformers share: batches, limits, errors, and the space."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument, MissingExtra, ModelMisconfigured, ModelUnavailable
from pg_embed.models import local
from pg_embed.models.pairs import TransformerReranker
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import RERANKERS, ByName, Change
from tests.unit.models.reference import TEXTS

QUERY = "How do I get my money back?"


def model(family: str, folder: Path, **options: Any) -> TransformerReranker:
    loaded = default_registry().load(ModelSpec("tiny", family, {"checkpoint": str(folder), **options}))
    assert isinstance(loaded, TransformerReranker)
    return loaded


@pytest.fixture
def weights(checkpoint: ByName, tmp_path: Path) -> Path:
    """The file of weights of a copy of bge_reranker's checkpoint."""
    shutil.copytree(checkpoint("bge_reranker"), tmp_path / "copy")
    return tmp_path / "copy" / "model.safetensors"


def rewrite(file: Path, **changes: Any) -> None:
    """Put other tensors in the place of some, or nothing; a name's `__` is a dot."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


@pytest.mark.parametrize("family", RERANKERS)
def test_small_batches_keep_order_scores_and_tokens(checkpoint: ByName, family: str) -> None:
    large, small = model(family, checkpoint(family)), model(family, checkpoint(family), batch_size=2)
    assert small.card.max_batch_items == 2
    one, other = large.rerank(QUERY, TEXTS), small.rerank(QUERY, TEXTS)
    assert one.scores.dtype == np.float32
    assert np.allclose(one.scores, other.scores, atol=1e-5)
    assert one.tokens == other.tokens
    alone = [large.rerank(QUERY, [text]).scores[0] for text in TEXTS]
    assert np.allclose(one.scores, alone, atol=1e-5)


@pytest.mark.parametrize("family", RERANKERS)
def test_no_texts_have_no_scores(checkpoint: ByName, family: str) -> None:
    scores = model(family, checkpoint(family)).rerank(QUERY, [])
    assert (scores.scores.shape, scores.scores.dtype, scores.tokens) == ((0,), np.float32, 0)


@pytest.mark.parametrize("family", RERANKERS)
def test_loading_says_nothing(checkpoint: ByName, family: str, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint(family)
    capfd.readouterr()
    model(family, checkpoint(family))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", RERANKERS)
def test_two_threads_may_call_at_once(checkpoint: ByName, family: str) -> None:
    reranker = model(family, checkpoint(family))
    texts = [f"number {n} and so on " * (n % 5 + 1) for n in range(24)]
    expected = reranker.rerank(QUERY, texts).scores
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: reranker.rerank(QUERY, [text]).scores[0], texts))
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", RERANKERS)
def test_half_precision_is_as_told(checkpoint: ByName, family: str) -> None:
    import torch

    told, plain = model(family, checkpoint(family), dtype="bfloat16"), model(family, checkpoint(family))
    assert (told._model.dtype, plain._model.dtype) == (torch.bfloat16, torch.float32)
    assert told.rerank(QUERY, TEXTS).scores.dtype == np.float32
    assert told.card.space_id == plain.card.space_id  # the same but for rounding


@pytest.mark.parametrize("family", RERANKERS)
def test_the_card_says_what_the_model_gives_and_wants(checkpoint: ByName, family: str) -> None:
    card = model(family, checkpoint(family)).card
    assert (card.family, card.outputs, card.dimensions, card.metric) == (family, ("score",), 1, "ip")
    assert (card.concurrency, card.max_batch_items) == (2, 32)
    assert card.max_batch_tokens == local.cpu_tokens(None)
    assert card.shares_cpu
    assert card.padded == (family != "bce_reranker")
    assert not card.listwise


@pytest.mark.parametrize("family", ["bge_reranker", "qwen3_reranker"])
def test_tokens_are_counted_up_to_the_limit(checkpoint: ByName, family: str) -> None:
    reranker = model(family, checkpoint(family))
    short, long = reranker.count_tokens(["a cat", "a cat " * 10_000])
    assert 0 < short < long == reranker.card.max_tokens


@pytest.mark.parametrize("family", RERANKERS)
def test_a_checkpoint_of_another_type_is_an_error(checkpoint: ByName, family: str) -> None:
    other = "bce_reranker" if family == "qwen3_reranker" else "qwen3_reranker"
    with pytest.raises(ModelMisconfigured, match="reads checkpoints of type") as caught:
        model(family, checkpoint(other))
    assert "family" in str(caught.value.hint)


@pytest.mark.parametrize(("family", "embedder"), [("bge_reranker", "bce"), ("qwen3_reranker", "qwen3")])
def test_an_embedder_is_no_reranker(checkpoint: ByName, family: str, embedder: str) -> None:
    with pytest.raises(ModelMisconfigured, match=r"reads a .*For.*, not a .*Model") as caught:
        model(family, checkpoint(embedder))
    assert "family" in str(caught.value.hint)


def test_a_head_that_is_not_there_is_an_error(weights: Path) -> None:
    rewrite(weights, classifier__out_proj__weight=None, classifier__out_proj__bias=None)
    with pytest.raises(ModelMisconfigured, match=r"lacks 2 weights, the first is classifier\.out_proj\.bias"):
        model("bge_reranker", weights.parent)


@pytest.mark.parametrize("family", ["bce_reranker", "bge_reranker"])
def test_a_classifier_with_several_labels_is_no_reranker(changed: Change, family: str) -> None:
    folder = changed(family, config={"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}})
    with pytest.raises(ModelMisconfigured, match="has 2 labels and is no reranker") as caught:
        model(family, folder)
    assert "checkpoint" in str(caught.value.hint)


def test_a_model_that_makes_no_numbers_is_an_error(weights: Path) -> None:
    import torch

    rewrite(weights, classifier__out_proj__bias=torch.full((1,), float("nan")))
    with pytest.raises(ModelMisconfigured, match="not finite"):
        model("bge_reranker", weights.parent)


@pytest.mark.parametrize("family", RERANKERS)
@pytest.mark.parametrize(("query", "text"), [("\ud800", "a cat"), ("a cat", "\ud800")])
def test_a_text_that_is_not_unicode_is_rejected(
    checkpoint: ByName, family: str, query: str, text: str
) -> None:
    with pytest.raises(InputRejected, match="Unicode"):
        model(family, checkpoint(family)).rerank(query, [text])


@pytest.mark.parametrize("family", RERANKERS)
def test_a_lack_of_memory_passes(checkpoint: ByName, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = model(family, checkpoint(family))

    def exhausted(**_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(reranker._model, "forward", exhausted)
    with pytest.raises(ModelUnavailable, match="out of memory"):
        reranker.rerank(QUERY, ["a cat"])


def test_the_space_is_of_the_weights_and_of_what_is_told_not_of_their_place(
    checkpoint: ByName, weights: Path
) -> None:
    def space(**options: Any) -> str:
        return model("bge_reranker", weights.parent, **options).card.space_id

    here = model("bge_reranker", checkpoint("bge_reranker")).card.space_id
    assert space() == space(batch_size=2) == here
    told = [space(), space(max_tokens=100), space(activation="none")]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert len({*told, space()}) == 4


def test_a_tokenizer_that_reads_otherwise_is_another_space(checkpoint: ByName, changed: Change) -> None:
    blanks_count = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    other = changed("bge_reranker", tokenizer={"pre_tokenizer": blanks_count})
    spaces = {model("bge_reranker", folder).card.space_id for folder in (checkpoint("bge_reranker"), other)}
    assert len(spaces) == 2


@pytest.mark.parametrize("family", RERANKERS)
def test_remote_code_is_not_run(changed: Change, family: str) -> None:
    folder = changed(family)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(("AutoModel", config["architectures"][0]), "theirs.Model")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text("raise SystemExit('ran')")
    assert np.isfinite(model(family, folder).rerank(QUERY, TEXTS).scores).all()


@pytest.mark.parametrize("family", RERANKERS)
def test_an_option_of_embedders_is_none_of_theirs(checkpoint: ByName, family: str) -> None:
    with pytest.raises(InvalidArgument, match="no option 'metric'"):
        model(family, checkpoint(family), metric="ip")


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra) as caught:
        model("bge_reranker", Path("/absent"))
    assert "pg-embed[local]" in str(caught.value.hint)
