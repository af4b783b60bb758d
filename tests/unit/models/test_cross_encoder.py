"""The family "cross_encoder" against sentence-transformers' CrossEncoder, on tiny BERTs and XLM-RoBERTas."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InvalidArgument, ModelMisconfigured
from pg_embed.models.cross_encoder import CrossEncoderReranker, load
from pg_embed.models.local import OutOfMemory
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import MAX_TOKENS, SPREAD, _tokenizer_files, _xlm_roberta_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "query", ":", "the", "cat", "money"]
QUERY = "How do I get my money back?"
TEXTS = [
    "You may send anything back within thirty days.",
    "the cat",
    "",
    " ",
    "the stock market fell by three percent",
    "naïve Größe 東京 пример 🦜",
    "a cat sat on the mat " * 30,
    "money " * 1_000,
]
Change = Callable[..., Path]
KINDS = ("bert", "xlm-roberta")


def make_bert(folder: Path, architecture: str = "BertForSequenceClassification", labels: int = 1) -> None:
    """A BERT with 64 positions."""
    import torch
    import transformers

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=SPREAD,
        num_labels=labels,
    )
    getattr(transformers, architecture)(config).save_pretrained(folder)
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)


def make_xlm_roberta(folder: Path) -> None:
    """Old weights; a tokenizer that does not say how long a text may be."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    tokenizer = _xlm_roberta_tokenizer()
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=MAX_TOKENS + 2,
        initializer_range=SPREAD,
        num_labels=1,
    )
    folder.mkdir()
    config.architectures = ["XLMRobertaForSequenceClassification"]
    config.save_pretrained(folder)
    torch.save(XLMRobertaForSequenceClassification(config).state_dict(), folder / "pytorch_model.bin")
    special = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
    settings = {f"{name}_token": token for name, token in special.items()}
    _tokenizer_files(folder, tokenizer, tokenizer_class="XLMRobertaTokenizer", **settings)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoints by their kind."""
    root = tmp_path_factory.mktemp("cross_encoders")
    make_bert(root / "bert")
    make_xlm_roberta(root / "xlm-roberta")
    return {kind: root / kind for kind in KINDS}


@pytest.fixture
def changed(folders: dict[str, Path], tmp_path: Path) -> Change:
    """A copy of the BERT with other settings in its config.json."""

    def changed(**settings: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(folders["bert"], folder)
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**told, **settings}))
        return folder

    return changed


def model(folder: Path, **options: Any) -> CrossEncoderReranker:
    return load(ModelSpec("tiny", "cross_encoder", {"checkpoint": str(folder), **options}))


def theirs(folder: Path, query: str, texts: list[str], **options: Any) -> Any:
    """Scores of the library itself, one text at a time."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(folder), device="cpu", **options)
    if "xlm" in folder.name and "max_length" not in options:
        encoder.max_seq_length = (
            MAX_TOKENS  # of itself it takes the table of positions for the limit, and fails
        )
    return np.array([encoder.predict([(query, text)])[0] for text in texts])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_library_s_batched_or_alone(folders: dict[str, Path], kind: str) -> None:
    folder = folders[kind]
    expected = theirs(folder, QUERY, TEXTS)
    reranker = model(folder)
    found = reranker.rerank(QUERY, TEXTS)
    assert found.scores.dtype == np.float32
    assert np.allclose(found.scores, expected, atol=1e-5)
    assert expected.max() - expected.min() > 0.1, "a model that scores all alike would prove nothing"
    alone = [reranker.rerank(QUERY, [text]).scores[0] for text in TEXTS]
    assert np.allclose(alone, expected, atol=1e-5)
    small = model(folder, batch_size=3)
    assert small.card.max_batch_items == 3
    assert np.allclose(small.rerank(QUERY, TEXTS).scores, expected, atol=1e-5)


def test_without_activation_scores_are_what_the_model_says(folders: dict[str, Path]) -> None:
    import torch

    folder = folders["bert"]
    raw = model(folder, activation="none").rerank("the cat", TEXTS).scores
    assert np.allclose(raw, theirs(folder, "the cat", TEXTS, activation_fn=torch.nn.Identity()), atol=1e-5)
    assert np.allclose(1 / (1 + np.exp(-raw)), model(folder).rerank("the cat", TEXTS).scores, atol=1e-5)
    with pytest.raises(InvalidArgument, match="one of sigmoid, none"):
        model(folder, activation="softmax")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("query", ["", "the cat", "money " * 80], ids=["empty", "short", "long"])
def test_long_pairs_are_cut_as_the_library_cuts_them(folders: dict[str, Path], kind: str, query: str) -> None:
    folder = folders[kind]
    blanks = " " * 20_000  # so many that what comes first has no tokens
    texts = [*TEXTS, "the cat " * 2_500, blanks + "the cat", "the cat " * 15 + blanks + "money"]
    assert np.allclose(model(folder).rerank(query, texts).scores, theirs(folder, query, texts), atol=1e-5)
    short = model(folder, max_tokens=24)
    assert short.card.max_tokens == 24
    cut = theirs(folder, query, texts, max_length=24)
    assert np.allclose(short.rerank(query, texts).scores, cut, atol=1e-5)


@pytest.mark.timeout(30)
def test_a_long_query_with_a_long_text_is_read_in_no_time(folders: dict[str, Path]) -> None:
    found = model(folders["bert"]).rerank("money " * 10_000, ["the cat " * 100_000])
    assert found.tokens == 64


def test_the_longest_pair_fits_the_table_of_positions(folders: dict[str, Path]) -> None:
    for kind, limit in (("bert", 64), ("xlm-roberta", MAX_TOKENS)):
        reranker = model(folders[kind])
        assert reranker.card.max_tokens == limit
        assert model(folders[kind], max_tokens=10_000).card.max_tokens == limit
        assert reranker.rerank(QUERY, ["money " * 2_000]).tokens == limit
        assert max(reranker.count_tokens(["word " * 10_000])) == limit


def test_tokens_are_those_of_the_pairs(folders: dict[str, Path]) -> None:
    found = model(folders["bert"]).rerank("the cat", ["money", "a b"])
    assert found.tokens == 2 * (2 + 3) + 1 + 2


def test_no_texts_are_no_scores(folders: dict[str, Path]) -> None:
    found = model(folders["bert"]).rerank("q", [])
    assert (found.scores.shape, found.tokens) == ((0,), 0)


def test_its_card_is_a_reranker_s(folders: dict[str, Path]) -> None:
    card = model(folders["bert"]).card
    assert (card.outputs, card.dimensions, card.metric, card.listwise) == (("score",), 1, "ip", False)
    assert card.space_id == model(folders["bert"], batch_size=2).card.space_id
    for options in ({"activation": "none"}, {"max_tokens": 20}):
        assert model(folders["bert"], **options).card.space_id != card.space_id
    assert model(folders["xlm-roberta"]).card.space_id != card.space_id


def test_scores_are_float32_whatever_the_model_computes_in(folders: dict[str, Path]) -> None:
    half = model(folders["bert"], dtype="bfloat16").rerank(QUERY, TEXTS).scores
    assert half.dtype == np.float32
    assert np.allclose(half, model(folders["bert"]).rerank(QUERY, TEXTS).scores, atol=0.05)


def test_a_pass_without_room_is_halved_and_the_smaller_size_remembered(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = model(folders["bert"])
    texts = ["money back"] * 8
    expected = reranker.rerank(QUERY, texts).scores
    forward, sizes = CrossEncoderReranker._forward, []

    def narrow(self: CrossEncoderReranker, query: str, part: list[str]) -> Any:
        sizes.append(len(part))
        if len(part) > 2:
            raise OutOfMemory("out of memory")
        return forward(self, query, part)

    monkeypatch.setattr(CrossEncoderReranker, "_forward", narrow)
    assert np.allclose(reranker.rerank(QUERY, texts).scores, expected, atol=1e-5)
    assert sizes[:3] == [8, 4, 2]
    sizes.clear()
    reranker.rerank(QUERY, texts)
    assert max(sizes) <= 2


def test_two_threads_may_call_at_once(folders: dict[str, Path]) -> None:
    reranker = model(folders["bert"])
    texts = [f"{'the cat ' * (n % 9)} money" for n in range(64)]
    expected = reranker.rerank(QUERY, texts).scores
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: reranker.rerank(QUERY, [text]).scores[0], texts))
    assert np.allclose(found, expected, atol=1e-5)


def test_a_prompt_of_the_checkpoint_is_used(folders: dict[str, Path], tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(
        str(folders["bert"]), device="cpu", prompts={"q": "query: "}, default_prompt_name="q"
    )
    encoder.save_pretrained(str(tmp_path / "prompted"))
    expected = theirs(tmp_path / "prompted", "the cat", TEXTS)
    found = model(tmp_path / "prompted").rerank("the cat", TEXTS).scores
    assert np.allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, model(folders["bert"]).rerank("the cat", TEXTS).scores, atol=1e-5)


def test_several_labels_are_refused(tmp_path: Path) -> None:
    make_bert(tmp_path / "classes", labels=3)
    with pytest.raises(ModelMisconfigured, match="3 labels, and a reranker must have one"):
        model(tmp_path / "classes")


@pytest.mark.parametrize("architecture", ["BertLMHeadModel", "BertModel"])
def test_a_model_without_a_head_for_pairs_is_refused(tmp_path: Path, architecture: str) -> None:
    make_bert(tmp_path / "bare", architecture)
    with pytest.raises(ModelMisconfigured, match=f"sequence classification, not {architecture}"):
        model(tmp_path / "bare")


def test_a_bare_language_model_is_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ModelMisconfigured, match="not MistralForCausalLM"):
        model(checkpoint("gritlm"))


def test_weights_that_would_be_random_are_refused(tmp_path: Path) -> None:
    """A head that the configuration promises, and the weights lack."""
    make_bert(tmp_path / "bare", "BertLMHeadModel")
    told = json.loads((tmp_path / "bare" / "config.json").read_text())
    told["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "bare" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelMisconfigured, match="lacks 4 weights, the first is bert"):
        model(tmp_path / "bare")


def test_code_in_a_checkpoint_is_not_run(changed: Change) -> None:
    folder = changed(
        auto_map={"AutoModelForSequenceClassification": "evil.Model", "AutoConfig": "evil.Config"}
    )
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert model(folder).rerank("the cat", ["money"]).scores.shape == (1,)


def test_a_folder_without_a_model_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelMisconfigured, match="cannot be loaded"):
        model(tmp_path)
    with pytest.raises(ModelMisconfigured, match="no folder"):
        model(tmp_path / "absent")


def test_too_few_tokens_for_any_pair_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(InvalidArgument, match="max_tokens is 4, but must be more than the 3 special tokens"):
        model(folders["bert"], max_tokens=4)
    assert model(folders["bert"], max_tokens=5).rerank("the cat", ["money money"]).tokens == 5
