"""A checkpoint of sentence-transformers as an ONNX graph: the same vectors, made once, kept privately."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InvalidArgument, MissingExtra, ModelMisconfigured
from pg_embed.models import exported
from pg_embed.models.checkpoint import find_checkpoint
from pg_embed.models.sentence_transformers import SentenceTransformerEmbedder, load
from pg_embed.protocols import Embedder
from pg_embed.records import ModelSpec

MINILM = "all-MiniLM-L6-v2"
TEXTS = ["How do I read a csv file?", "", "word " * 400, "naïve 東京", *(f"text {n} " * n for n in range(40))]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache, which is empty at first; graphs of other tests are kept in it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def model(checkpoint: str | Path = MINILM, **options: Any) -> SentenceTransformerEmbedder:
    told = {"checkpoint": str(checkpoint), "backend": "onnx", **options}
    return load(ModelSpec("minilm", "sentence_transformers", told))


def cosines(one: Embedder, other: Embedder) -> Any:
    return (one.embed(TEXTS, "document").dense * other.embed(TEXTS, "document").dense).sum(axis=1)


@pytest.fixture(scope="module")
def graph(cache: Path) -> SentenceTransformerEmbedder:
    """MiniLM as a graph."""
    return model()


def test_vectors_are_those_of_torch_and_share_their_space(
    graph: SentenceTransformerEmbedder, minilm: Embedder
) -> None:
    found, expected = graph.embed(TEXTS, "document"), minilm.embed(TEXTS, "document")
    assert np.allclose(found.dense, expected.dense, atol=1e-5)
    assert found.tokens == expected.tokens
    assert graph.card == minilm.card


def test_a_graph_is_made_once_and_only_its_owner_can_change_it(
    graph: SentenceTransformerEmbedder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "pg_embed" / "onnx"
    assert not list(folder.glob("making-*"))
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())].count(0o700) >= 2
    assert not any(path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir()))

    def refuse(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(exported, "_export", refuse)
    again = model()
    assert np.array_equal(again.embed(TEXTS, "query").dense, graph.embed(TEXTS, "query").dense)


@pytest.fixture(scope="module")
def small(cache: Path) -> SentenceTransformerEmbedder:
    """MiniLM as a graph with eight bits."""
    return model(quantize="int8")


def test_int8_is_a_space_of_its_own_and_not_far_away(
    small: SentenceTransformerEmbedder, graph: SentenceTransformerEmbedder, minilm: Embedder
) -> None:
    likeness = cosines(small, minilm)
    assert likeness.mean() > 0.999
    assert likeness.min() > 0.99
    assert likeness.min() < 0.99999  # else nothing was quantised
    assert small.card.space_id != graph.card.space_id


def test_int8_vectors_do_not_depend_on_the_texts_beside_them(small: SentenceTransformerEmbedder) -> None:
    together = small.embed(TEXTS, "document").dense
    alone = np.concatenate([small.embed([text], "document").dense for text in TEXTS])
    assert (together * alone).sum(axis=1).min() > 0.99999


def test_int8_leaves_values_and_narrowing_products_as_they_are(
    small: SentenceTransformerEmbedder, cache: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    graphs = [onnx.load(str(file)).graph for file in cache.rglob("model.onnx")]
    [nodes] = [made.node for made in graphs if any(node.op_type == "Product" for node in made.node)]
    eight = [node.name for node in nodes if node.op_type == "Product"]
    kinds = "query/MatMul", "key/MatMul", "attention/output/dense/MatMul", "intermediate/dense/MatMul"
    assert all(name.endswith(kinds) for name in eight)
    assert len(eight) == 6 * len(kinds)


def test_a_cut_vector_is_normalised_again(graph: SentenceTransformerEmbedder) -> None:
    expected = graph.embed(TEXTS, "query").dense[:, :32]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(model(dimensions=32).embed(TEXTS, "query").dense, expected, atol=1e-5)


def test_two_threads_may_call_at_once(graph: SentenceTransformerEmbedder) -> None:
    expected = graph.embed(TEXTS, "document").dense
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: graph.embed([text], "query").dense[0], TEXTS))
    assert np.allclose(found, expected, atol=1e-5)


def test_a_pass_without_room_is_halved(
    graph: SentenceTransformerEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = graph.embed(TEXTS, "document").dense
    sizes: list[int] = []

    class Full:
        """A runtime that has room for 8 texts."""

        def __init__(self, session: Any) -> None:
            self._session = session

        def run(self, names: list[str], given: dict[str, Any]) -> Any:
            sizes.append(len(given["input_ids"]))
            if sizes[-1] > 8:
                raise Exception("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer")
            return self._session.run(names, given)

    made = model()
    monkeypatch.setattr(made._graph, "_session", Full(made._graph._session))  # type: ignore[union-attr]
    assert np.allclose(made.embed(TEXTS, "document").dense, expected, atol=1e-5)
    assert max(sizes) > 8


def test_a_graph_that_makes_other_vectors_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(exported.LEAST_COSINE, None, 1.1)
    with pytest.raises(ModelMisconfigured, match="other vectors") as caught:
        model()
    assert "torch" in str(caught.value.hint)
    assert list((tmp_path / "pg_embed" / "onnx").iterdir()) == []


def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "pg_embed" / "onnx"
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    with pytest.raises(ModelMisconfigured, match="others may write"):
        model()


def test_a_cache_that_cannot_be_made_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelMisconfigured, match="no graph can be kept") as caught:
        model()
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check = exported._check

    def late(*given: Any) -> None:
        """Before this graph gets its name, another one has it."""
        check(*given)
        [making] = (tmp_path / "pg_embed" / "onnx").iterdir()
        shutil.copytree(making, making.with_name(names[0]))

    names: list[str] = []
    monkeypatch.setattr(exported, "space_id", lambda *_, **__: names.append("taken") or "taken")
    monkeypatch.setattr(exported, "_check", late)
    assert model().embed(["a"], "query").dense.shape == (1, 384)
    assert [path.name for path in (tmp_path / "pg_embed" / "onnx").iterdir()] == ["taken"]


def test_a_broken_graph_says_what_to_remove(
    graph: SentenceTransformerEmbedder, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache, tmp_path / "copy")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "copy"))
    for file in (tmp_path / "copy").rglob("model.onnx"):
        file.write_bytes(b"no graph")
    with pytest.raises(ModelMisconfigured, match="cannot be loaded") as caught:
        model()
    assert "remove the folder" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "torch", "quantize": "int8"}, "quantize is one of the backend onnx"),
        ({"device": "cuda"}, "on a CPU"),
        ({"dtype": "bfloat16"}, "in float32"),
        ({"backend": "tvm"}, "one of torch, onnx"),
        ({"quantize": "int4"}, "int8"),
    ],
)
def test_options_that_do_not_go_together_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        model(**options)


def test_a_checkpoint_that_pools_without_its_prompt_is_refused(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(find_checkpoint(MINILM), folder)
    file = folder / "1_Pooling" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "include_prompt": False}))
    with pytest.raises(InvalidArgument, match="leaves the prompt out"):
        model(folder, query_prompt="query: ")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra) as caught:
        model()
    assert "pg-embed[local,onnx]" in str(caught.value.hint)


def test_the_runtime_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    program = "from pg_embed.models.exported import _runtime; _runtime()"
    environment = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []  # with telemetry it keeps its letters there
