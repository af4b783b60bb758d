"""Tiny checkpoints with random weights, in the layouts of the published ones, with their contradictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MAX_TOKENS = 512
SPREAD = 0.3  # of random weights: enough for the attention of a tiny model to tell tokens apart
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "initializer_range": SPREAD,
}
SPEECH = [
    "Given a web search query, retrieve relevant passages that answer the query",
    "How do I get my money back? You may send anything back within thirty days.",
    "a cat sat on the mat while the stock market fell by three percent",
    "Instruct: Query: <|user|> <|embed|> number and so on word text",
]
ByName = Callable[[str], Path]
Change = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> ByName:
    """The folder of a family's tiny checkpoint, made once."""
    root = tmp_path_factory.mktemp("tiny")

    def named(family: str) -> Path:
        folder = root / family
        if not folder.exists():
            {**BUILDERS, **RERANKERS}[family](folder)
        return folder

    return named


@pytest.fixture
def changed(checkpoint: ByName, tmp_path: Path) -> Change:
    """A copy of a tiny checkpoint, some of whose JSON files have other settings."""

    def changed(family: str, **files: dict[str, Any]) -> Path:
        folder = tmp_path / family
        shutil.copytree(checkpoint(family), folder, dirs_exist_ok=True)
        for name, settings in files.items():
            file = folder / f"{name}.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
        return folder

    return changed


def _e5_mistral(folder: Path) -> None:
    """The configuration asks for an end token, tokenizer.json adds none."""
    tokenizer = _llama_tokenizer()
    _decoder(folder, "Mistral", "MistralModel", tokenizer, bos_token_id=1, eos_token_id=2, sliding_window=256)
    _tokenizer_files(
        folder,
        tokenizer,
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        add_bos_token=True,
        add_eos_token=True,
    )


def _gritlm(folder: Path) -> None:
    """Weights of a language model with its head, remote code that is named in the configuration."""
    tokenizer = _llama_tokenizer()
    _decoder(
        folder,
        "Mistral",
        "MistralForCausalLM",
        tokenizer,
        bos_token_id=1,
        eos_token_id=2,
        sliding_window=None,
    )
    _tokenizer_files(
        folder,
        tokenizer,
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        add_bos_token=True,
        add_eos_token=False,
    )


def _gte_qwen(folder: Path) -> None:
    """No post-processor, remote code that is named in the configuration, and attention that it does not."""
    tokenizer = _qwen_tokenizer()
    _decoder(folder, "Qwen2", "Qwen2Model", tokenizer)
    _tokenizer_files(
        folder,
        tokenizer,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        add_eos_token=True,
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_qwen.Qwen2Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_qwen.py").write_text("raise SystemExit('ran')")


def _qwen3(folder: Path) -> None:
    """tokenizer.json adds <|endoftext|>, though the tokenizer's end token is another."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = _qwen_tokenizer()
    end = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
    tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", pair="$A <|endoftext|> $B <|endoftext|>", special_tokens=[end]
    )
    _decoder(folder, "Qwen3", "Qwen3Model", tokenizer, head_dim=16)
    _tokenizer_files(
        folder,
        tokenizer,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        add_bos_token=False,
    )


def _bce(folder: Path) -> None:
    """Old weights, cutting and padding saved in tokenizer.json, a position table with two rows too many."""
    _old_xlm_roberta(folder, "XLMRobertaModel")


def _bce_reranker(folder: Path) -> None:
    """As its sibling."""
    _old_xlm_roberta(folder, "XLMRobertaForSequenceClassification")


def _bge_m3(folder: Path) -> None:
    """Old weights, and the two linear layers beside them."""
    make_bge_m3(folder)


def make_bge_m3(folder: Path, **size: int) -> None:
    """Of any size, for benchmarks too."""
    import torch

    tokenizer = _xlm_roberta_tokenizer()
    model = _encoder("XLMRobertaModel", tokenizer, MAX_TOKENS, **size)
    _save_old(folder, model)
    _xlm_roberta_files(folder, tokenizer, MAX_TOKENS)
    hidden_size = model.config.hidden_size
    for name, features in (("sparse_linear.pt", 1), ("colbert_linear.pt", hidden_size)):
        layer = torch.nn.Linear(hidden_size, features)
        torch.nn.init.normal_(layer.weight, std=SPREAD)
        torch.save(layer.state_dict(), folder / name)


def _bge_reranker(folder: Path) -> None:
    """Of bge-reranker-v2-m3: as many positions as there."""
    tokenizer = _xlm_roberta_tokenizer()
    _encoder("XLMRobertaForSequenceClassification", tokenizer, 8_192).save_pretrained(folder)
    _xlm_roberta_files(folder, tokenizer, 8_192)


def _qwen3_reranker(folder: Path) -> None:
    """No post-processor, and a head that is the table of tokens: the weights are stored once."""
    tokenizer = _qwen_tokenizer("yes", "no", "assistant <think>", *["Judge whether the Document meets"] * 2)
    tokenizer.add_tokens(["<think>", "</think>"])
    _decoder(
        folder,
        "Qwen3",
        "Qwen3ForCausalLM",
        tokenizer,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=2 * MAX_TOKENS,
    )
    _tokenizer_files(
        folder,
        tokenizer,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        add_bos_token=False,
    )


BUILDERS: dict[str, Callable[[Path], None]] = {
    "bce": _bce,
    "bge_m3": _bge_m3,
    "e5_mistral": _e5_mistral,
    "gritlm": _gritlm,
    "gte_qwen": _gte_qwen,
    "qwen3": _qwen3,
}
RERANKERS: dict[str, Callable[[Path], None]] = {
    "bce_reranker": _bce_reranker,
    "bge_reranker": _bge_reranker,
    "qwen3_reranker": _qwen3_reranker,
}


def _decoder(folder: Path, library: str, architecture: str, tokenizer: Any, **settings: Any) -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    sizes = {"num_key_value_heads": 2, "max_position_embeddings": MAX_TOKENS}
    config = getattr(transformers, f"{library}Config")(
        vocab_size=tokenizer.get_vocab_size(), **TINY, **{**sizes, **settings}
    )
    getattr(transformers, architecture)(config).save_pretrained(folder)


def _encoder(architecture: str, tokenizer: Any, positions: int, **size: int) -> Any:
    """The model, whose position table has two rows more, as XLM-RoBERTa's."""
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.XLMRobertaConfig(
        **{"vocab_size": tokenizer.get_vocab_size(), **TINY, **size},
        max_position_embeddings=positions + 2,
        num_labels=1,
    )
    settings = {"add_pooling_layer": False} if architecture == "XLMRobertaModel" else {}
    return getattr(transformers, architecture)(config, **settings)


def _save_old(folder: Path, model: Any) -> None:
    """Weights as they were saved in the days of these checkpoints."""
    import torch

    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _old_xlm_roberta(folder: Path, architecture: str) -> None:
    tokenizer = _xlm_roberta_tokenizer()
    _save_old(folder, _encoder(architecture, tokenizer, MAX_TOKENS))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16, pad_id=1, pad_token="<pad>")
    _xlm_roberta_files(folder, tokenizer, MAX_TOKENS)


def _xlm_roberta_files(folder: Path, tokenizer: Any, max_tokens: int) -> None:
    _tokenizer_files(
        folder,
        tokenizer,
        tokenizer_class="XLMRobertaTokenizer",
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=max_tokens,
    )


def _tokenizer_files(folder: Path, tokenizer: Any, **settings: Any) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _llama_tokenizer() -> Any:
    """Llama's: blanks as ▁, bytes for unknown letters, only <s> in the post-processor."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.ByteFallback()
    special = ["<unk>", "<s>", "</s>"]
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special + octets, show_progress=False)
    tokenizer.train_from_iterator([word for text in SPEECH for word in text.split()], trainer)
    told = json.loads(tokenizer.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(told))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _qwen_tokenizer(*speech: str) -> Any:
    """Qwen's: bytes, and no post-processor; it learns `speech` besides."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SPEECH, *speech], trainer)
    return tokenizer


def _xlm_roberta_tokenizer() -> Any:
    """XLM-RoBERTa's: pieces with their likelihoods."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = sorted({f"▁{word}" for text in SPEECH for word in text.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [(word, -3.0) for word in words] + [(letter, -6.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces, ("<mask>", 0.0)], unk_id=3))
    tokenizer.add_special_tokens([name for name, _ in special] + ["<mask>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer
