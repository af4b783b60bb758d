"""The family "qwen3_reranker" against its authors' algorithm, and how it goes wrong silently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured
from pg_embed.models.pairs import TransformerReranker
from pg_embed.models.qwen3_reranker import load
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName, Change
from tests.unit.models.reference import LONG, TEXTS, Float32

QUERY = "How do I get my money back?"
TASK = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
BODY = "<Instruct>: {task}\n<Query>: {query}\n<Document>: {text}"


def model(folder: Path, **options: Any) -> TransformerReranker:
    return load(ModelSpec("tiny", "qwen3_reranker", {"checkpoint": str(folder), **options}))


def likelihoods(
    folder: Path,
    bodies: Sequence[str],
    *,
    max_length: int = 1_024,
    around: tuple[str, str] = (BEFORE, AFTER),
) -> Float32:
    """The authors' way: the body is cut, put between the ids of two texts, and padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    before, after = (tokenizer.encode(text, add_special_tokens=False) for text in around)
    inputs = tokenizer(
        list(bodies),
        padding=False,
        truncation="longest_first",
        return_attention_mask=False,
        max_length=max_length - len(before) - len(after),
    )
    inputs["input_ids"] = [[*before, *ids, *after] for ids in inputs["input_ids"]]
    batch = tokenizer.pad(inputs, padding=True, return_tensors="pt")
    speaker = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = speaker(**batch).logits[:, -1]
    no, yes = (tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes"))
    found: Float32 = torch.log_softmax(logits[:, [no, yes]], dim=1)[:, 1].exp().numpy()
    return found


def bodies(query: str, texts: Sequence[str], body: str = BODY, task: str = TASK) -> list[str]:
    return [body.format(task=task, query=query, text=text) for text in texts]


def test_the_authors_algorithm_gives_the_same_scores(checkpoint: ByName) -> None:
    folder = checkpoint("qwen3_reranker")
    texts = [*TEXTS, LONG, ""]
    reranker = model(folder)
    ours = reranker.rerank(QUERY, texts)
    assert np.allclose(ours.scores, likelihoods(folder, bodies(QUERY, texts)), atol=1e-5)
    assert np.ptp(ours.scores) > 0.01
    alone = [likelihoods(folder, bodies(QUERY, [text]))[0] for text in texts]
    assert np.allclose(ours.scores, alone, atol=1e-5)
    one_by_one = [reranker.rerank(QUERY, [text]).scores[0] for text in texts]
    assert np.allclose(ours.scores, one_by_one, atol=1e-5)


def test_an_instruction_takes_the_place_of_the_default_one(checkpoint: ByName) -> None:
    folder = checkpoint("qwen3_reranker")
    task = "Find the sentence about a cat"
    ours = model(folder, instruction=task)
    expected = likelihoods(folder, bodies(QUERY, TEXTS, task=task))
    assert np.allclose(ours.rerank(QUERY, TEXTS).scores, expected, atol=1e-5)
    assert (np.abs(expected - model(folder).rerank(QUERY, TEXTS).scores) > 2e-5).all()
    assert ours.card.space_id != model(folder).card.space_id


def test_blank_lines_between_the_fields_would_give_other_scores(checkpoint: ByName) -> None:
    """The authors' example for vLLM has them."""
    folder = checkpoint("qwen3_reranker")
    apart = "<Instruct>: {task}\n\n<Query>: {query}\n\n<Document>: {text}"
    naive = likelihoods(folder, bodies(QUERY, TEXTS, apart))
    assert (np.abs(model(folder).rerank(QUERY, TEXTS).scores - naive) > 2e-5).all()


def test_a_pair_without_the_template_would_give_other_scores(checkpoint: ByName) -> None:
    folder = checkpoint("qwen3_reranker")
    naive = likelihoods(folder, bodies(QUERY, TEXTS, "{query}{text}"), around=("", ""))
    assert (np.abs(model(folder).rerank(QUERY, TEXTS).scores - naive) > 2e-5).all()


def test_the_likelihood_of_yes_among_all_tokens_would_be_another(checkpoint: ByName) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(checkpoint("qwen3_reranker"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    [text] = bodies(QUERY, ["a cat"])
    ids = [i for part in (BEFORE, text, AFTER) for i in tokenizer.encode(part, add_special_tokens=False)]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder)(input_ids=torch.tensor([ids])).logits[0, -1]
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    [ours] = model(checkpoint("qwen3_reranker")).rerank(QUERY, ["a cat"]).scores
    assert ours == pytest.approx(float(torch.sigmoid(logits[yes] - logits[no])), abs=1e-5)
    assert abs(ours - float(logits.softmax(0)[yes])) > 1e-2


@pytest.mark.parametrize("room", [1, 20])
def test_a_long_document_is_cut_before_the_template_ends(checkpoint: ByName, room: int) -> None:
    from transformers import AutoTokenizer

    folder = checkpoint("qwen3_reranker")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    [empty] = bodies(QUERY, [""])
    parts = [tokenizer.encode(part, add_special_tokens=False) for part in (BEFORE, empty, AFTER)]
    max_tokens = sum(map(len, parts)) + room
    ours = model(folder, max_tokens=max_tokens).rerank(QUERY, [LONG, "a cat"])
    expected = likelihoods(folder, bodies(QUERY, [LONG, "a cat"]), max_length=max_tokens)
    assert np.allclose(ours.scores, expected, atol=1e-5)
    assert ours.tokens <= 2 * max_tokens
    naive = likelihoods(folder, [empty + LONG + AFTER], max_length=max_tokens, around=(BEFORE, ""))
    assert abs(ours.scores[0] - naive[0]) > 1e-4


def test_a_query_that_leaves_no_room_for_a_document_is_rejected(checkpoint: ByName) -> None:
    reranker = model(checkpoint("qwen3_reranker"))
    with pytest.raises(InputRejected, match="no room for a document in 1024 tokens") as caught:
        reranker.rerank("a cat sat on the mat " * 1_000, TEXTS)
    assert "shorten the query" in str(caught.value.hint)


def test_max_tokens_has_room_for_the_template(checkpoint: ByName) -> None:
    with pytest.raises(InvalidArgument, match="at most 1024 for this checkpoint, and more than"):
        model(checkpoint("qwen3_reranker"), max_tokens=64)


def test_tokens_are_counted_with_the_template(checkpoint: ByName) -> None:
    reranker = model(checkpoint("qwen3_reranker"))
    short, long = reranker.count_tokens(["a cat", LONG])
    assert short > len(BEFORE + TASK + AFTER) // 3
    assert long == reranker.card.max_tokens == 1_024


@pytest.mark.parametrize("word", ["yes", "no"])
def test_an_answer_that_is_not_one_token_is_an_error(changed: Change, word: str) -> None:
    """In other vocabularies the word may be two tokens, and the first of them says little."""
    folder = changed("qwen3_reranker")
    told = json.loads((folder / "tokenizer.json").read_text())["model"]
    told["vocab"]["<unused>"] = told["vocab"].pop(word)
    told["merges"] = [pair for pair in told["merges"] if word not in ("".join(pair), *pair)]
    folder = changed("qwen3_reranker", tokenizer={"model": told})
    with pytest.raises(ModelMisconfigured, match=f"has no token {word}"):
        model(folder)


def test_a_head_of_its_own_must_be_there(checkpoint: ByName, tmp_path: Path) -> None:
    """The larger sizes have one; where it is the table of tokens, it is stored once."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    shutil.copytree(checkpoint("qwen3_reranker"), tmp_path / "own")
    speaker = AutoModelForCausalLM.from_pretrained(str(tmp_path / "own"))
    assert "lm_head.weight" not in load_file(tmp_path / "own" / "model.safetensors")
    speaker.config.tie_word_embeddings = False
    speaker.lm_head.weight = type(speaker.lm_head.weight)(speaker.lm_head.weight.detach().flip(0).clone())
    speaker.save_pretrained(tmp_path / "own")
    ours = model(tmp_path / "own").rerank(QUERY, TEXTS).scores
    assert np.allclose(ours, likelihoods(tmp_path / "own", bodies(QUERY, TEXTS)), atol=1e-5)
    tensors = load_file(tmp_path / "own" / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "own" / "model.safetensors")
    with pytest.raises(ModelMisconfigured, match=r"lacks 1 weights, the first is lm_head\.weight"):
        model(tmp_path / "own")


def test_an_embedder_of_the_same_kind_is_no_reranker(checkpoint: ByName, tmp_path: Path) -> None:
    """Its configuration names the same class, and would give scores."""
    shutil.copytree(checkpoint("qwen3_reranker"), tmp_path / "embedder")
    (tmp_path / "embedder" / "1_Pooling").mkdir()
    with pytest.raises(ModelMisconfigured, match="makes vectors"):
        model(tmp_path / "embedder")


def test_a_classifier_made_of_it_is_another_familys(changed: Change) -> None:
    folder = changed("qwen3_reranker", config={"architectures": ["Qwen3ForSequenceClassification"]})
    with pytest.raises(
        ModelMisconfigured, match="reads a Qwen3ForCausalLM, not a Qwen3ForSequence"
    ) as caught:
        model(folder)
    assert "family" in str(caught.value.hint)
