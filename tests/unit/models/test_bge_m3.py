"""The family "bge_m3" against its authors' own class, and the ways in which it goes wrong silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, ModelUnavailable
from pg_embed.models import checkpoint as checkpoints
from pg_embed.models.bge_m3 import M3Head, load
from pg_embed.models.transformer import TransformerEmbedder
from pg_embed.records import Embeddings, ModelSpec, Output
from tests.fix_checkpoints import MAX_TOKENS, ByName, Change
from tests.fix_flag import TheirM3
from tests.unit.models import reference
from tests.unit.models.reference import LONG

TEXTS = [
    *reference.TEXTS,
    "",
    " ",
    "a cat sat on a cat a cat",
    "a <mask> sat on the <unk> mat </s> and <s> so on <pad>",
    "مرحبا नमस्ते пример 東京 unknown-ж",
    LONG,
]
PAIRS = [
    ("How do I get my money back?", "You may send anything back within thirty days."),
    ("a cat", "a cat sat on the mat"),
    ("пример 東京", "naïve Größe 東京 пример"),
    ("a cat", "the stock market fell by three percent"),
    ("", "a cat"),
]
TOLERANCE = 1e-5


def model(folder: Any, **options: Any) -> TransformerEmbedder:
    return load(ModelSpec("tiny", "bge_m3", {"checkpoint": str(folder), **options}))


def lexical(embeddings: Embeddings, row: int) -> dict[int, float]:
    """Weights by token id."""
    assert embeddings.sparse is not None
    indices, values = embeddings.sparse.row(row)
    return dict(zip(indices.tolist(), values.tolist(), strict=True))


def multi(embeddings: Embeddings) -> Any:
    assert embeddings.multi is not None
    return embeddings.multi


def scores(queries: Embeddings, documents: Embeddings) -> dict[str, list[float]]:
    """Of each query with the document in the same place, as the authors compute them; modes weigh alike."""
    dense = (queries.dense * documents.dense).sum(axis=1)
    pairs = range(len(queries))
    weights = [(lexical(queries, row), lexical(documents, row)) for row in pairs]
    sparse = np.asarray([sum(one[id] * other.get(id, 0) for id in one) for one, other in weights])
    colbert = np.asarray(
        [(multi(queries).row(row) @ multi(documents).row(row).T).max(axis=1).mean() for row in pairs]
    )
    return {
        "dense": dense.tolist(),
        "sparse": sparse.tolist(),
        "colbert": colbert.tolist(),
        "sparse+dense": ((dense + sparse) / 2).tolist(),
        "colbert+sparse+dense": ((dense + sparse + colbert) / 3).tolist(),
    }


@pytest.fixture
def embedder(checkpoint: ByName) -> TransformerEmbedder:
    return model(checkpoint("bge_m3"))


def assert_same(ours: Embeddings, theirs: dict[str, Any]) -> None:
    assert reference.same(ours.dense, theirs["dense"])
    assert np.abs(ours.dense - theirs["dense"]).max() <= TOLERANCE
    for row, expected in enumerate(theirs["sparse"]):
        found = lexical(ours, row)
        assert {str(token) for token in found} == set(expected)
        assert all(abs(found[int(token)] - weight) <= TOLERANCE for token, weight in expected.items())
        assert multi(ours).row(row).shape == theirs["multi"][row].shape
        assert np.abs(multi(ours).row(row) - theirs["multi"][row]).max() <= TOLERANCE
    assert len(ours) == len(theirs["sparse"]) == len(theirs["multi"])


def test_the_authors_class_gives_the_same_three_outputs_and_scores(
    checkpoint: ByName, embedder: TransformerEmbedder, their_m3: TheirM3
) -> None:
    theirs = their_m3(checkpoint("bge_m3"), TEXTS, MAX_TOKENS, PAIRS)
    assert_same(embedder.embed(TEXTS, "document"), theirs["embeddings"])
    queries, documents = zip(*PAIRS, strict=True)
    ours = scores(embedder.embed(queries, "query"), embedder.embed(documents, "document"))
    assert set(theirs["scores"]) == set(ours)
    for mode, expected in theirs["scores"].items():
        assert np.allclose(ours[mode], expected, rtol=0, atol=TOLERANCE), mode


def test_long_texts_are_cut_as_the_authors_class_cuts_them(checkpoint: ByName, their_m3: TheirM3) -> None:
    texts = [LONG, "a cat sat on the mat while the stock market fell", "a cat"]
    theirs = their_m3(checkpoint("bge_m3"), texts, 9)
    embeddings = model(checkpoint("bge_m3"), max_tokens=9).embed(texts, "document")
    assert_same(embeddings, theirs["embeddings"])
    assert np.diff(multi(embeddings).starts).tolist() == [8, 8, 3]


def test_alone_equals_in_a_batch(checkpoint: ByName) -> None:
    together = model(checkpoint("bge_m3"), batch_size=3).embed(TEXTS, "document")
    one_by_one = model(checkpoint("bge_m3"))
    for row, text in enumerate(TEXTS):
        alone = one_by_one.embed([text], "query")
        assert np.abs(alone.dense[0] - together.dense[row]).max() <= TOLERANCE
        assert lexical(alone, 0) == pytest.approx(lexical(together, row), abs=TOLERANCE)
        assert np.abs(multi(alone).row(0) - multi(together).row(row)).max() <= TOLERANCE


def test_sparse_vectors_are_as_records_want_them(embedder: TransformerEmbedder) -> None:
    embeddings = embedder.embed(TEXTS, "document")
    sparse = embeddings.sparse
    assert sparse is not None
    assert (sparse.starts.dtype, sparse.indices.dtype, sparse.values.dtype) == (
        np.int64,
        np.int32,
        np.float32,
    )
    assert (sparse.values > 0).all()
    for row in range(len(sparse)):
        assert (np.diff(sparse.row(row)[0]) > 0).all()
    assert sparse.row(TEXTS.index(""))[0].size == 0


def test_the_largest_weight_of_a_token_counts_and_not_their_sum(
    checkpoint: ByName, embedder: TransformerEmbedder
) -> None:
    import torch

    folder, text = checkpoint("bge_m3"), "a cat sat on a cat a cat"
    ids = reference.token_ids(folder, text)
    linear = torch.load(folder / "sparse_linear.pt", weights_only=True)
    weights = (reference.states(folder, ids) @ linear["weight"].T + linear["bias"]).relu().flatten().tolist()
    places: dict[int, list[float]] = {}
    for token, weight in zip(ids[1:-1], weights[1:-1], strict=True):
        places.setdefault(token, []).append(weight)
    several = {token: found for token, found in places.items() if sum(weight > 0 for weight in found) > 1}
    found = lexical(embedder.embed([text], "document"), 0)
    assert several
    for token, weighed in several.items():
        assert found[token] == pytest.approx(max(weighed), abs=TOLERANCE)
        assert found[token] < sum(weighed) - 1e-3


def test_special_tokens_have_no_weight_but_the_mask_may(
    checkpoint: ByName, embedder: TransformerEmbedder
) -> None:
    text = "a <mask> sat on the <unk> mat </s> and <s> so on <pad> 🦜"
    ids = reference.token_ids(checkpoint("bge_m3"), text)
    assert {0, 1, 2, 3} <= set(ids)
    head = embedder._head
    assert isinstance(head, M3Head)
    head.sparse.weight.data.zero_()
    head.sparse.bias.data.fill_(1)  # every token weighs 1
    found = lexical(embedder.embed([text], "document"), 0)
    assert found == dict.fromkeys(set(ids) - {0, 1, 2, 3}, 1.0)
    mask = reference.token_ids(checkpoint("bge_m3"), "<mask>")[-2]
    assert mask in found


def test_token_vectors_leave_out_the_first_token_and_keep_the_last(
    checkpoint: ByName, embedder: TransformerEmbedder
) -> None:
    import torch

    folder = checkpoint("bge_m3")
    linear = torch.load(folder / "colbert_linear.pt", weights_only=True)
    states = reference.states(folder, reference.token_ids(folder, "a cat"))
    expected = reference.unit((states @ linear["weight"].T + linear["bias"]).numpy())
    found = multi(embedder.embed(["a cat"], "document")).row(0)
    assert np.abs(found - expected[1:]).max() <= TOLERANCE
    assert multi(embedder.embed([""], "document")).row(0).shape == (1, 64)


def test_sentence_transformers_would_make_random_vectors(
    checkpoint: ByName, embedder: TransformerEmbedder
) -> None:
    """Why its sparse encoder does not serve this checkpoint, though it loads it."""
    from sentence_transformers import SparseEncoder

    encoders = [SparseEncoder(str(checkpoint("bge_m3")), device="cpu") for _ in range(2)]
    one, other = (encoder.encode(["a cat"]).to_dense().numpy() for encoder in encoders)
    assert not np.allclose(one, other)
    again = model(checkpoint("bge_m3")).embed(["a cat"], "document")
    assert lexical(again, 0) == lexical(embedder.embed(["a cat"], "document"), 0)


@pytest.mark.parametrize("wanted", [("dense",), ("sparse",), ("multi",), ("dense", "sparse")])
def test_only_what_is_asked_for_is_computed(
    embedder: TransformerEmbedder, monkeypatch: pytest.MonkeyPatch, wanted: tuple[Output, ...]
) -> None:
    everything = embedder.embed(TEXTS, "document")
    head = embedder._head
    for output in ("sparse", "multi"):
        if output not in wanted:
            monkeypatch.setattr(getattr(head, output), "forward", None)
    some = embedder.embed(TEXTS, "document", frozenset(wanted))
    assert some.tokens == everything.tokens
    assert some.dense.shape == (len(TEXTS), 64 if "dense" in wanted else 0)
    assert ("sparse" in wanted) == (some.sparse is not None)
    assert ("multi" in wanted) == (some.multi is not None)
    if "dense" in wanted:
        assert np.array_equal(some.dense, everything.dense)
    if "sparse" in wanted:
        assert lexical(some, 4) == lexical(everything, 4)
    if "multi" in wanted:
        assert np.array_equal(multi(some).vectors, multi(everything).vectors)


def test_three_outputs_take_one_forward_pass(
    embedder: TransformerEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [], embedder._model.forward

    def counted(**inputs: Any) -> Any:
        calls.append(len(inputs["input_ids"]))
        return forward(**inputs)

    monkeypatch.setattr(embedder._model, "forward", counted)
    embedder.embed(TEXTS, "document")
    assert sum(calls) == len(TEXTS)  # in as many passes as this machine's threads need


def test_no_texts_have_empty_outputs(embedder: TransformerEmbedder) -> None:
    embeddings = embedder.embed([], "document")
    assert embeddings.dense.shape == (0, 64)
    assert embeddings.sparse is not None
    assert len(embeddings.sparse) == 0
    assert multi(embeddings).vectors.shape == (0, 64)
    dense = embedder.embed([], "document", frozenset({"dense"}))
    assert (dense.sparse, dense.multi) == (None, None)


def test_the_card_has_the_sizes_of_all_outputs(embedder: TransformerEmbedder) -> None:
    card = embedder.card
    assert card.outputs == ("dense", "sparse", "multi")
    assert (card.dimensions, card.size("multi"), card.max_tokens) == (64, 64, MAX_TOKENS)
    assert card.size("sparse") == embedder._model.config.vocab_size


def test_token_vectors_may_be_narrower_than_the_states(changed: Change) -> None:
    import torch

    folder = changed("bge_m3")
    torch.save(torch.nn.Linear(64, 24).state_dict(), folder / "colbert_linear.pt")
    embedder = model(folder)
    assert (embedder.card.dimensions, embedder.card.size("multi")) == (64, 24)
    assert multi(embedder.embed(["a cat"], "document")).vectors.shape == (3, 24)


@pytest.mark.parametrize("name", ["sparse_linear.pt", "colbert_linear.pt"])
def test_a_checkpoint_without_a_linear_layer_is_an_error(changed: Change, name: str) -> None:
    folder = changed("bge_m3")
    (folder / name).unlink()
    with pytest.raises(ModelMisconfigured, match=f"no {name}"):
        model(folder)


def test_a_linear_layer_of_another_size_is_an_error(changed: Change) -> None:
    import torch

    folder = changed("bge_m3")
    torch.save(torch.nn.Linear(64, 2).state_dict(), folder / "sparse_linear.pt")
    with pytest.raises(ModelMisconfigured, match="2 weights a token"):
        model(folder)
    torch.save(torch.nn.Linear(32, 1).state_dict(), folder / "sparse_linear.pt")
    with pytest.raises(ModelMisconfigured, match=r"sparse_linear\.pt reads 32 .* 64"):
        model(folder)


def test_code_in_a_linear_layers_file_is_not_run(changed: Change, tmp_path: Path) -> None:
    import torch

    folder = changed("bge_m3")
    torch.save(Planted(tmp_path / "ran"), folder / "sparse_linear.pt")
    with pytest.raises(ModelMisconfigured, match="cannot be loaded"):
        model(folder)
    assert not (tmp_path / "ran").exists()


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["sparse_linear.pt", "colbert_linear.pt"])
def test_the_space_is_of_the_linear_layers_too(changed: Change, checkpoint: ByName, name: str) -> None:
    import torch

    folder = changed("bge_m3")
    assert model(folder).card.space_id == model(checkpoint("bge_m3")).card.space_id
    saved = torch.load(folder / name, weights_only=True)
    torch.save({**saved, "bias": saved["bias"] + 1}, folder / name)
    assert model(folder).card.space_id != model(checkpoint("bge_m3")).card.space_id


def test_a_weight_that_is_no_number_is_an_error_and_not_left_out(changed: Change) -> None:
    import torch

    folder = changed("bge_m3")
    saved = torch.load(folder / "sparse_linear.pt", weights_only=True)
    torch.save({**saved, "bias": torch.full((1,), float("nan"))}, folder / "sparse_linear.pt")
    with pytest.raises(ModelMisconfigured, match="not finite"):
        model(folder)


def test_a_text_without_room_is_told_to_the_caller(checkpoint: ByName) -> None:
    with pytest.raises(InvalidArgument, match="at most 512"):
        model(checkpoint("bge_m3"), max_tokens=MAX_TOKENS + 1)


def test_a_lack_of_memory_on_the_way_to_arrays_passes(
    embedder: TransformerEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> None:
        raise MemoryError("Unable to allocate 2.00 GiB for an array")

    monkeypatch.setattr(embedder._head.multi, "forward", exhausted)
    with pytest.raises(ModelUnavailable, match="out of memory"):
        embedder.embed(["a cat"], "document")


def test_a_text_that_is_not_unicode_is_rejected(embedder: TransformerEmbedder) -> None:
    with pytest.raises(InputRejected, match="Unicode"):
        embedder.embed(["\ud800"], "document")


def test_the_linear_layers_are_fetched_with_the_weights() -> None:
    """Of the files that the hub has, by the library's own choice."""
    from huggingface_hub.utils import filter_repo_objects

    weights = {"pytorch_model.bin", "sparse_linear.pt", "colbert_linear.pt"}
    files = [*weights, "config.json", "tokenizer.json", "onnx/model.onnx", "README.md", "imgs/bm25.jpg"]
    patterns = [*checkpoints.CONFIGURATION, *checkpoints.WEIGHTS, *checkpoints.OLD_WEIGHTS]
    wanted = filter_repo_objects(files, allow_patterns=patterns, ignore_patterns=checkpoints.OTHER_FORMATS)
    assert set(wanted) == weights | {"config.json", "tokenizer.json"}
