"""What the families of bare transformers share: batches, limits, errors, and the space."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument, MissingExtra, ModelMisconfigured, ModelUnavailable
from pg_embed.models import local
from pg_embed.models.registry import default_registry
from pg_embed.models.transformer import TransformerEmbedder, batches
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import BUILDERS, ByName, Change
from tests.unit.models import reference
from tests.unit.models.reference import TEXTS


def model(family: str, folder: Path, **options: Any) -> TransformerEmbedder:
    loaded = default_registry().load(ModelSpec("tiny", family, {"checkpoint": str(folder), **options}))
    assert isinstance(loaded, TransformerEmbedder)
    return loaded


@pytest.fixture
def weights(checkpoint: ByName, tmp_path: Path) -> Path:
    """The file of weights of a copy of qwen3's checkpoint."""
    shutil.copytree(checkpoint("qwen3"), tmp_path / "copy")
    return tmp_path / "copy" / "model.safetensors"


def rewrite(file: Path, **changes: Any) -> None:
    """Put other tensors in the place of some, or nothing; a name's `__` is a dot."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


@pytest.mark.parametrize(
    ("items", "tokens", "expected"),
    [
        (2, 100, [[1, 3], [0, 2]]),
        (9, 100, [[1, 3, 0, 2]]),
        (9, 20, [[1, 3], [0, 2]]),
        (9, 5, [[1], [3], [0], [2]]),
    ],
)
def test_a_batch_has_the_longest_first_and_stays_within_both_bounds(
    items: int, tokens: int, expected: list[list[int]]
) -> None:
    assert list(batches([3, 10, 2, 9], items, tokens)) == expected


def test_no_texts_are_no_batches(checkpoint: ByName) -> None:
    assert list(batches([], 2, 100)) == []
    embeddings = model("qwen3", checkpoint("qwen3")).embed([], "document")
    assert (embeddings.dense.shape, embeddings.tokens) == ((0, 64), 0)


@pytest.mark.parametrize("family", BUILDERS)
def test_small_batches_keep_order_vectors_and_tokens(checkpoint: ByName, family: str) -> None:
    large, small = model(family, checkpoint(family)), model(family, checkpoint(family), batch_size=2)
    assert small.card.max_batch_items == 2
    one, other = large.embed(TEXTS, "query"), small.embed(TEXTS, "query")
    assert reference.same(one.dense, other.dense)
    assert one.tokens == other.tokens


@pytest.mark.parametrize("family", BUILDERS)
def test_a_very_long_text_is_cut_without_changing_its_vector(checkpoint: ByName, family: str) -> None:
    embedder = model(family, checkpoint(family), max_tokens=64)
    words, shorter = "a cat " * 20_000, "a cat " * 300
    dense = embedder.embed([words, shorter], "document").dense
    assert reference.same(dense[:1], dense[1:])


def test_a_text_that_seems_to_end_after_its_blanks_is_read_as_a_whole(checkpoint: ByName) -> None:
    embedder = model("bce", checkpoint("bce"))
    dense = embedder.embed([" " * 100_000 + "a cat", "a cat"], "document").dense
    assert reference.same(dense[:1], dense[1:])


@pytest.mark.parametrize("family", BUILDERS)
def test_loading_says_nothing(checkpoint: ByName, family: str, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint(family)
    capfd.readouterr()
    model(family, checkpoint(family))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", BUILDERS)
def test_two_threads_may_call_at_once(checkpoint: ByName, family: str) -> None:
    embedder = model(family, checkpoint(family))
    texts = [f"number {n} and so on " * (n % 5 + 1) for n in range(24)]
    expected = embedder.embed(texts, "query").dense
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: embedder.embed([text], "query").dense[0], texts))
    assert reference.same(np.array(found), expected)


@pytest.mark.parametrize("family", BUILDERS)
def test_half_precision_is_the_checkpoints_affair(checkpoint: ByName, family: str, tmp_path: Path) -> None:
    """On a CPU we compute in float32, also where the checkpoint is stored in less."""
    import torch
    from transformers import AutoModel

    shutil.copytree(checkpoint(family), tmp_path / "half", ignore=shutil.ignore_patterns("*.bin"))
    halved = AutoModel.from_pretrained(str(checkpoint(family)), dtype=torch.float16)
    halved.save_pretrained(tmp_path / "half")
    half = model(family, tmp_path / "half")
    dense = half.embed(TEXTS, "document").dense
    assert dense.dtype == np.float32
    assert half._model.dtype == torch.float32
    assert reference.same(dense, model(family, checkpoint(family)).embed(TEXTS, "document").dense)
    told = model(family, tmp_path / "half", dtype="bfloat16")
    assert told._model.dtype == torch.bfloat16
    assert told.embed(TEXTS, "document").dense.dtype == np.float32
    assert told.card.space_id == half.card.space_id  # the same but for rounding


@pytest.mark.parametrize(
    ("family", "token"),
    [("e5_mistral", "</s>"), ("gritlm", "<s>"), ("gte_qwen", "<|endoftext|>"), ("qwen3", "<|endoftext|>")],
)
def test_a_tokenizer_without_a_declared_token_is_an_error(changed: Change, family: str, token: str) -> None:
    folder = changed(family)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(token, "<other>"))
    with pytest.raises(ModelMisconfigured, match="has no token") as caught:
        model(family, folder)
    assert token in str(caught.value)


def test_a_checkpoint_of_another_type_is_an_error(checkpoint: ByName) -> None:
    with pytest.raises(ModelMisconfigured, match="of type qwen2, not qwen3"):
        model("gte_qwen", checkpoint("qwen3"))


def test_a_checkpoint_without_tokenizer_json_is_an_error(changed: Change) -> None:
    folder = changed("qwen3")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelMisconfigured, match=r"no tokenizer\.json"):
        model("qwen3", folder)


def test_a_folder_without_a_model_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelMisconfigured, match="cannot be loaded"):
        model("qwen3", tmp_path)


def test_weights_that_are_not_there_are_an_error(weights: Path) -> None:
    rewrite(weights, layers__1__mlp__up_proj__weight=None)
    with pytest.raises(ModelMisconfigured, match=r"lacks 1 weights.*layers\.1\.mlp\.up_proj"):
        model("qwen3", weights.parent)


def test_a_model_that_makes_no_numbers_is_an_error(weights: Path) -> None:
    import torch

    rewrite(weights, norm__weight=torch.full((64,), float("nan")))
    with pytest.raises(ModelMisconfigured, match="not finite"):
        model("qwen3", weights.parent)


def test_a_text_that_is_not_unicode_is_rejected(checkpoint: ByName) -> None:
    with pytest.raises(InputRejected, match="Unicode"):
        model("qwen3", checkpoint("qwen3")).embed(["\ud800"], "document")


def test_a_lack_of_memory_passes(checkpoint: ByName, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = model("qwen3", checkpoint("qwen3"))

    def exhausted(**_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(embedder._model, "forward", exhausted)
    with pytest.raises(ModelUnavailable, match="out of memory"):
        embedder.embed(["a cat"], "document")


@pytest.mark.parametrize("max_tokens", [1, 10, 513])
def test_max_tokens_has_room_for_a_text_and_is_no_more_than_the_checkpoint_can_do(
    checkpoint: ByName, max_tokens: int
) -> None:
    with pytest.raises(InvalidArgument, match="at most 512"):
        model("e5_mistral", checkpoint("e5_mistral"), max_tokens=max_tokens)


def test_the_space_is_of_the_weights_and_limits_not_of_their_place(checkpoint: ByName, weights: Path) -> None:
    here, there = model("qwen3", checkpoint("qwen3")), model("qwen3", weights.parent)
    assert here.card.space_id == there.card.space_id
    assert model("qwen3", weights.parent, max_tokens=100).card.space_id != here.card.space_id
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model("qwen3", weights.parent).card.space_id != here.card.space_id


def test_the_card_says_how_the_model_wants_to_be_fed(checkpoint: ByName) -> None:
    card = model("qwen3", checkpoint("qwen3"), metric="ip").card
    assert (card.family, card.dimensions, card.max_tokens, card.metric) == ("qwen3", 64, 512, "ip")
    assert (card.concurrency, card.max_batch_items) == (2, 32)
    assert card.max_batch_tokens == local.cpu_tokens(None)
    assert card.padded
    assert card.shares_cpu


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra) as caught:
        model("qwen3", Path("/absent"))
    assert "pg-embed[local]" in str(caught.value.hint)
