"""A checkpoint of sentence-transformers as an ONNX graph: made here, without a network, and kept.

It is the whole way from token ids to a vector: transformer, pooling, layers, normalisation. It is traced once
for a checkpoint and kept in the user's cache, under a name that stands for all that it is made of.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from pg_embed.errors import InvalidArgument, ModelMisconfigured, PgEmbedError
from pg_embed.models import local, traits
from pg_embed.models.space import space_id

Float32 = npt.NDArray[np.float32]
Quantize = Literal["int8"]

EXTRA = "local,onnx"
OPSET = 17
RECIPE = 1  # of what is done to a graph; another one makes all graphs anew
FILE = "model.onnx"
VECTORS = "vectors"
MODULES = {"Transformer", "Pooling", "Dense", "Normalize"}
LEAST_COSINE = {None: 0.99999, "int8": 0.95}  # of what torch computes; float32 shares its space
SPEECH = ["a", traits.PROBE, "The quick brown fox jumps over the lazy dog. " * 9]
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")  # silences advice that is about convolutions
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


class Graph:
    """A graph in memory; several threads may call it."""

    def __init__(self, file: Path, threads: int) -> None:
        onnxruntime = _runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._inputs = [given.name for given in self._session.get_inputs()]

    def vectors(self, features: Mapping[str, Any]) -> Float32:
        """Of shape (texts, dimensions), for what the checkpoint's tokenizer made of texts."""
        try:
            [found] = self._session.run([VECTORS], {name: features[name].numpy() for name in self._inputs})
        except Exception as exc:  # the runtime has errors of its own, which have no common base
            raise local.translated(exc) from exc
        return np.asarray(found, np.float32)


def load_graph(model: Any, weights: Mapping[str, str], folder: Path, quantize: Quantize | None) -> Graph:
    """The graph of a checkpoint on a CPU, from the cache or made now; `weights` are its files' digests."""
    modules = traits.module_facts(model)
    if others := sorted({name for name, *_ in modules} - MODULES):
        raise InvalidArgument(
            f"a checkpoint with a module {others[0]} cannot be exported", hint="use the backend torch"
        )
    onnxruntime = _runtime()
    torch, transformers = local.libraries("torch", "transformers")
    key = space_id(
        "onnx",
        weights=dict(weights),
        architecture=traits.architecture(folder),
        modules=modules,
        opset=OPSET,
        recipe=RECIPE,
        quantize=quantize,
        versions=[torch.__version__, transformers.__version__, onnxruntime.__version__],
    )
    kept = _cache() / key
    if not kept.exists():
        _make(model, kept, quantize)
    try:
        return Graph(kept / FILE, torch.get_num_threads())
    except PgEmbedError:
        raise
    except Exception as exc:
        raise ModelMisconfigured(
            f"the graph in {kept} cannot be loaded: {exc}", hint="remove the folder, and it is made anew"
        ) from exc


def _runtime() -> Any:
    """The library, which tells nobody that it is used: left to itself it would, from its import on."""
    os.environ.setdefault(NO_TELEMETRY, "1")
    [onnxruntime] = local.libraries("onnxruntime", extra=EXTRA)
    if os.environ[NO_TELEMETRY] == "1":
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _cache() -> Path:
    """A folder that nobody else can write to: what stands in it is run."""
    folder = user_cache_path("pg_embed") / "onnx"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise _unkept(folder, exc) from exc
    told = folder.stat()
    if told.st_uid != os.geteuid() or told.st_mode & 0o022:
        raise ModelMisconfigured(
            f"others may write to {folder}, where graphs are kept",
            hint=f"make it your own: chmod 700 {folder}",
        )
    return folder


def _unkept(folder: Path, exc: OSError) -> ModelMisconfigured:
    return ModelMisconfigured(
        f"no graph can be kept in {folder}: {exc}", hint="set XDG_CACHE_HOME to a folder of your own"
    )


def _make(model: Any, kept: Path, quantize: Quantize | None) -> None:
    """Export into a folder of its own, and give it its name when it is whole and right."""
    try:
        making = Path(tempfile.mkdtemp(dir=kept.parent, prefix="making-"))  # only its owner may enter
    except OSError as exc:
        raise _unkept(kept.parent, exc) from exc
    try:
        _export(model, making / FILE)
        if quantize is not None:
            _quantize(making / FILE)
        _check(model, Graph(making / FILE, 1), quantize)
        making.rename(kept)
    except PgEmbedError:
        raise
    except OSError as exc:
        if not kept.exists():  # else another process was faster, and its graph is the same
            raise _unkept(kept.parent, exc) from exc
    except Exception as exc:
        raise ModelMisconfigured(
            f"the checkpoint cannot be exported to ONNX: {exc}", hint="use the backend torch"
        ) from exc
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _export(model: Any, file: Path) -> None:
    [torch, _] = local.libraries("torch", "onnx", extra=EXTRA)
    features = dict(model.preprocess(SPEECH))
    names = [name for name, value in features.items() if isinstance(value, torch.Tensor)]

    class Whole(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            return self.model({**features, **dict(zip(names, tensors, strict=True))})["sentence_embedding"]

    model[0].model.set_attn_implementation("eager")  # plain operations, which a trace sees
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # about branches on sizes, which `_check` looks at
        torch.onnx.export(
            Whole().eval(),  # else the export would leave the model as if in training
            tuple(features[name] for name in names),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=[VECTORS],
            dynamic_axes={**{name: {0: "texts", 1: "tokens"} for name in names}, VECTORS: {0: "texts"}},
        )


def _quantize(file: Path) -> None:
    """Weights of products as int8 with a scale for each channel, the other factor quantised at each call.

    Embeddings stay as they are: to look them up is no work, and their error would go through all layers. So
    do products that make fewer numbers of more, as at a layer's end: what an activation leaves has outliers,
    beside which eight bits are few. That halves the error, and takes a fifth to a third of the speed.
    """
    onnx, quantization = local.libraries("onnx", "onnxruntime.quantization", extra=EXTRA)
    graph = onnx.load(str(file))
    graph.metadata_props.add(key=PREPARED[0], value=PREPARED[1])
    quantization.quantize_dynamic(
        graph,
        str(file),
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=_narrowing(graph),
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def _narrowing(graph: Any) -> list[str]:
    """Products with weights of more rows than columns."""
    shapes = {weights.name: tuple(weights.dims) for weights in graph.graph.initializer}
    products = [node for node in graph.graph.node if node.op_type == "MatMul" and node.input[1] in shapes]
    return [node.name for node in products if shapes[node.input[1]][0] > shapes[node.input[1]][-1]]


def _check(model: Any, graph: Graph, quantize: Quantize | None) -> None:
    """Compare with torch, by texts of other lengths than the graph was traced with, one and several."""
    least = min(_cosine(model, graph, texts) for texts in (SPEECH[:1], SPEECH[1:], [*SPEECH, "b c " * 30]))
    if not least >= LEAST_COSINE[quantize]:
        raise ModelMisconfigured(
            f"the exported checkpoint makes other vectors: cosine {least:.6f} with those of torch,"
            f" less than {LEAST_COSINE[quantize]}",
            hint="use the backend torch" + (", or no option quantize" if quantize else ""),
        )


def _cosine(model: Any, graph: Graph, texts: Sequence[str]) -> float:
    """The least of several texts."""
    import torch

    features = dict(model.preprocess(list(texts)))
    with torch.inference_mode():
        expected = model(dict(features))["sentence_embedding"].numpy()
    found = graph.vectors(features)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float(((expected * found).sum(axis=1) / lengths).min())
