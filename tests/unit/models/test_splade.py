"""The family "splade" against the library's own encoder, and the checkpoints that it must refuse."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, MissingExtra, ModelMisconfigured
from pg_embed.models.splade import SpladeEmbedder, load
from pg_embed.records import Embeddings, Kind, ModelSpec, SparseVectors
from tests.fix_checkpoints import ByName

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "query", "passage", ":", "the", "cat"]
TEXTS = ["the cat", "", "a b c d e f g h i j " * 9, "passage : the cat", "unknown words", "the the the cat"]
KINDS: list[Kind] = ["query", "document"]
MAX_TOKENS = 32
TOLERANCE = 1e-5
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that guesses masked words, with random weights."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder = tmp_path_factory.mktemp("masked") / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(bert: Path) -> Path:
    """A SPLADE in the library's layout."""
    from sentence_transformers import SparseEncoder

    SparseEncoder(modules=_transformer(bert), device="cpu").save(str(bert.parent / "tiny"))
    return bert.parent / "tiny"


@pytest.fixture(scope="session")
def inference_free(bert: Path) -> Path:
    """One whose queries have fixed weights, and no special tokens."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(bert), model_max_length=MAX_TOKENS)
    torch.manual_seed(2)
    static = SparseStaticEmbedding(tokenizer, torch.rand(len(WORDS)))
    router = Router.for_query_document(query_modules=[static], document_modules=_transformer(bert))
    SparseEncoder(modules=[router], device="cpu").save(str(bert.parent / "inference_free"))
    return bert.parent / "inference_free"


def _transformer(bert: Path) -> list[Any]:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    transformer = Transformer(str(bert), transformer_task="fill-mask", max_seq_length=MAX_TOKENS)
    return [transformer, SpladePooling("max")]


@pytest.fixture
def make(tiny: Path, tmp_path: Path) -> Make:
    """Copies of the checkpoint with another configuration."""

    def make(**configuration: Any) -> Path:
        shutil.copytree(tiny, tmp_path / "checkpoint", dirs_exist_ok=True)
        change(tmp_path / "checkpoint" / "config_sentence_transformers.json", **configuration)
        return tmp_path / "checkpoint"

    return make


def change(file: Path, **settings: Any) -> None:
    """Set some keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def model(folder: Path, **options: Any) -> SpladeEmbedder:
    return load(ModelSpec("tiny", "splade", {"checkpoint": str(folder), **options}))


def sparse(embeddings: Embeddings) -> SparseVectors:
    assert embeddings.sparse is not None
    return embeddings.sparse


def theirs(folder: Path, texts: list[str], kind: Kind) -> Any:
    """Dense rows of the library's own encoder, one text at a time."""
    from sentence_transformers import SparseEncoder

    encoder = SparseEncoder(str(folder), device="cpu")
    encode = encoder.encode_query if kind == "query" else encoder.encode_document
    return np.stack([encode([text])[0].to_dense().numpy() for text in texts])


def assert_same(found: SparseVectors, expected: Any) -> None:
    assert len(found) == len(expected)
    for row, dense in enumerate(expected):
        indices, values = found.row(row)
        assert indices.tolist() == np.flatnonzero(dense).tolist()
        assert np.abs(values - dense[indices]).max(initial=0) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_librarys_encoder_gives_the_same_vectors(tiny: Path, kind: Kind) -> None:
    embeddings = model(tiny, batch_size=4).embed(TEXTS, kind)
    assert_same(sparse(embeddings), theirs(tiny, TEXTS, kind))
    assert embeddings.dense.shape == (len(TEXTS), 0)
    assert 0 < len(sparse(embeddings).values) < len(TEXTS) * len(WORDS)
    found = sparse(embeddings)
    assert (found.indices.dtype, found.values.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_equals_in_a_batch(tiny: Path, kind: Kind) -> None:
    embedder = model(tiny)
    together = embedder.embed(TEXTS, kind)
    alone = [embedder.embed([text], kind) for text in TEXTS]
    assert together.tokens == sum(embeddings.tokens for embeddings in alone)
    for row, embeddings in enumerate(alone):
        indices, values = sparse(embeddings).row(0)
        assert indices.tolist() == sparse(together).row(row)[0].tolist()
        assert np.abs(values - sparse(together).row(row)[1]).max(initial=0) <= TOLERANCE


def test_queries_may_have_fixed_weights(inference_free: Path) -> None:
    embedder = model(inference_free)
    texts = [text for text in TEXTS if text]
    for kind in KINDS:
        assert_same(sparse(embedder.embed(texts, kind)), theirs(inference_free, texts, kind))
    indices, _ = sparse(embedder.embed(["the cat", "", "cat"], "query")).row(0)
    assert indices.tolist() == [WORDS.index("the"), WORDS.index("cat")]


def test_an_empty_query_of_fixed_weights_has_none(inference_free: Path) -> None:
    embedder = model(inference_free)
    assert sparse(embedder.embed([""], "query")).starts.tolist() == [0, 0]
    assert np.diff(sparse(embedder.embed(["", "the cat", ""], "query")).starts).tolist() == [0, 2, 0]


def test_fixed_weights_are_part_of_the_space(inference_free: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(inference_free, tmp_path / "copy")
    assert model(tmp_path / "copy").card.space_id == model(inference_free).card.space_id
    [file] = (tmp_path / "copy").glob("query*/**/*.safetensors")
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert model(tmp_path / "copy").card.space_id != model(inference_free).card.space_id


def test_both_routes_are_cut_at_the_limit_that_is_told(inference_free: Path) -> None:
    embedder = model(inference_free, max_tokens=6)
    assert embedder.card.max_tokens == 6
    assert embedder.embed(["a b c d e f g h i j"], "query").tokens == 6
    assert embedder.embed(["a b c d e f g h i j"], "document").tokens == 6


def test_a_masked_language_model_in_its_own_layout_is_a_splade(bert: Path, tiny: Path) -> None:
    found = sparse(model(bert, max_tokens=MAX_TOKENS).embed(TEXTS, "document"))
    expected = sparse(model(tiny).embed(TEXTS, "document"))
    assert found.indices.tolist() == expected.indices.tolist()
    assert np.allclose(found.values, expected.values, atol=TOLERANCE)


def test_an_older_name_of_the_transformer_will_do(make: Make, tiny: Path) -> None:
    folder = make()
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.sparse_encoder.models.MLMTransformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert model(folder).card.space_id == model(tiny).card.space_id


def test_prompts_are_the_checkpoints_unless_told(make: Make, tiny: Path) -> None:
    prompts: dict[Kind, str] = {"query": "query: ", "document": "passage: "}
    folder = make(prompts=prompts)
    own = model(folder)
    told = model(tiny, query_prompt="query: ", document_prompt="passage: ")
    plain = model(tiny)
    assert own.card.space_id == told.card.space_id != plain.card.space_id
    for kind in KINDS:
        expected = theirs(folder, ["the cat"], kind)
        assert_same(sparse(own.embed(["the cat"], kind)), expected)
        assert_same(sparse(told.embed(["the cat"], kind)), expected)
        assert_same(sparse(plain.embed([f"{prompts[kind]}the cat"], kind)), expected)


def test_the_checkpoint_may_bound_the_weights_of_a_text(make: Make, tiny: Path) -> None:
    bounded = make(max_active_dims=3)
    embedder = model(bounded)
    found = sparse(embedder.embed(TEXTS, "document"))
    assert_same(found, theirs(bounded, TEXTS, "document"))
    assert np.diff(found.starts).max() == 3
    assert embedder.card.space_id != model(tiny).card.space_id


def test_long_texts_are_cut(tiny: Path) -> None:
    embedder = model(tiny, max_tokens=4)
    found = sparse(embedder.embed(["a b", "a b c d e f", "a b " * 10_000], "document"))
    for row in (1, 2):
        assert found.row(row)[0].tolist() == found.row(0)[0].tolist()
        assert np.allclose(found.row(row)[1], found.row(0)[1], atol=TOLERANCE)
    assert embedder.embed(["a b c d e f"], "document").tokens == embedder.card.max_tokens == 4
    assert model(tiny, max_tokens=1_000).card.max_tokens == MAX_TOKENS


def test_the_card_has_the_size_of_the_vocabulary(tiny: Path) -> None:
    card = model(tiny).card
    assert (card.family, card.outputs, card.dimensions, card.metric) == (
        "splade",
        ("sparse",),
        len(WORDS),
        "ip",
    )
    assert card.size("sparse") == len(WORDS)


def test_a_forward_pass_is_bounded_by_the_logits_it_makes(tiny: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pg_embed.models.splade.CPU_LOGITS", 40 * len(WORDS))
    embedder = model(tiny)
    calls, forward = [], embedder._forward
    monkeypatch.setattr(embedder, "_forward", lambda texts, kind: calls.append(texts) or forward(texts, kind))
    embedder.embed(TEXTS, "document")
    assert embedder.card.max_batch_tokens == 40
    assert len(calls) > 1
    assert calls[0] == [TEXTS[2]]


def test_no_texts_have_no_vectors(tiny: Path) -> None:
    embeddings = model(tiny).embed([], "document")
    assert (embeddings.dense.shape, len(sparse(embeddings)), embeddings.tokens) == ((0, 0), 0, 0)


def test_two_threads_may_call_at_once(tiny: Path) -> None:
    embedder = model(tiny)
    texts = [f"{letter} the cat " * (n % 5 + 1) for n, letter in enumerate("abcdefghij" * 3)]
    expected = sparse(embedder.embed(texts, "document"))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: sparse(embedder.embed([text], "document")), texts))
    for row, alone in enumerate(found):
        assert alone.indices.tolist() == expected.row(row)[0].tolist()
        assert np.allclose(alone.values, expected.row(row)[1], atol=TOLERANCE)


def test_half_precision_still_gives_float32(tiny: Path) -> None:
    half = model(tiny, dtype="bfloat16")
    assert sparse(half.embed(["the cat"], "document")).values.dtype == np.float32
    assert half.card.space_id == model(tiny).card.space_id


@pytest.mark.parametrize("family", ["bge_m3", "bce"])
def test_a_checkpoint_that_is_no_splade_is_an_error(checkpoint: ByName, family: str) -> None:
    with pytest.raises(ModelMisconfigured, match=r"no SPLADE.*Pooling, SparseAutoEncoder") as caught:
        model(checkpoint(family))
    assert "bge_m3" in str(caught.value.hint)


def test_a_dense_checkpoint_of_the_library_is_an_error(bert: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(bert), max_seq_length=MAX_TOKENS)
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(tmp_path / "dense"))
    with pytest.raises(ModelMisconfigured, match="no SPLADE"):
        model(tmp_path / "dense")


def test_a_head_that_is_not_in_the_file_is_an_error(make: Make) -> None:
    from safetensors.torch import load_file, save_file

    file = make() / "model.safetensors"
    base = {name: tensor for name, tensor in load_file(file).items() if name.startswith("bert.")}
    save_file(base, file, metadata={"format": "pt"})
    with pytest.raises(ModelMisconfigured, match="lacks the weights of its head cls"):
        model(file.parent)


def test_old_files_of_weights_have_heads_too(make: Make, tiny: Path) -> None:
    import torch
    from safetensors.torch import load_file

    file = make() / "model.safetensors"
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    found = sparse(model(file.parent).embed(TEXTS, "document"))
    assert found.indices.tolist() == sparse(model(tiny).embed(TEXTS, "document")).indices.tolist()


def test_code_in_a_checkpoint_is_not_run(make: Make) -> None:
    folder = make()
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelMisconfigured, match="not part of Sentence Transformers"):
        model(folder)


def test_weights_that_are_no_numbers_are_an_error(make: Make) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    file = make() / "model.safetensors"
    tensors = load_file(file)
    tensors["cls.predictions.bias"] = torch.full((len(WORDS),), float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelMisconfigured, match="not finite"):
        model(file.parent)


def test_a_text_that_is_not_unicode_is_rejected(tiny: Path) -> None:
    with pytest.raises(InputRejected, match="Unicode"):
        model(tiny).embed(["\ud800"], "document")


def test_loading_says_nothing(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model(tiny)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("library", ["torch", "transformers", "sentence_transformers"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra) as caught:
        model(Path("/absent"))
    assert "pg-embed[local]" in str(caught.value.hint)
