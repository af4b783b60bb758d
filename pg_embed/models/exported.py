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
RECIPE = 2  # of what is done to a graph; another one makes all graphs anew
FILE = "model.onnx"
VECTORS = "vectors"
MODULES = {"Transformer", "Pooling", "Dense", "Normalize"}
LEAST_COSINE = {None: 0.99999, "int8": 0.99}  # of what torch computes; float32 shares its space
SPEECH = ["a", traits.PROBE, "The quick brown fox jumps over the lazy dog. " * 9]
OURS = "pg_embed"
NUMBERS, SCALES = "/numbers", "/scales"
TINY = np.float32(1e-12)  # instead of 0, which nothing can be divided by
# A row of states has a scale of its own: outliers of one token cost no other any digits, nor other texts. The
# runtime has fast products for bytes without a sign, so 128 stands for 0.
INT8 = """
<domain: "pg_embed", opset_import: ["": 17, "com.microsoft": 1]>
Product (states, numbers, scales) => (product)
{
    tiny = Constant <value = float {1e-12}> ()
    steps = Constant <value = float {127.0}> ()
    one = Constant <value = float {1.0}> ()
    zero = Constant <value = uint8 {128}> ()
    highest = ReduceMax <axes = [-1], keepdims = 1> (states)
    lowest = ReduceMin <axes = [-1], keepdims = 1> (states)
    below = Neg (lowest)
    largest = Max (highest, below, tiny)
    scale = Div (largest, steps)
    scaled = Div (states, scale)
    rounded = QuantizeLinear (scaled, one, zero)
    unscaled = com.microsoft.MatMulIntegerToFloat (rounded, numbers, one, scales, zero)
    product = Mul (unscaled, scale)
}
"""
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
    """Products with weights become `INT8`, but for those whose error counts most.

    Without exceptions MiniLM would be a third faster, but one token alone at cosine 0.984 instead of 0.995.
    Embeddings stay as they are: to look them up is no work, and their error would go through all layers.
    """
    [onnx] = local.libraries("onnx", extra=EXTRA)
    model = onnx.load(str(file))
    graph = model.graph
    weights = {given.name: onnx.numpy_helper.to_array(given) for given in graph.initializer}
    left = _narrowing(graph, weights) | _averaged(graph)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and node.name not in left:
            node.op_type, node.domain = "Product", OURS
            graph.initializer.extend(_eight_bits(node.input[1], weights[node.input[1]]))
            node.input[1:] = [node.input[1] + suffix for suffix in (NUMBERS, SCALES)]
    used = {name for node in graph.node for name in node.input}
    kept = [given for given in graph.initializer if given.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    model.functions.append(onnx.parser.parse_function(INT8))
    model.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in (OURS, "com.microsoft"))
    onnx.save(model, str(file))


def _eight_bits(name: str, weights: Float32) -> list[Any]:
    """Whole numbers from -127 to 127, and what to multiply each column by."""
    from onnx.numpy_helper import from_array

    scales = np.maximum(np.abs(weights).max(axis=0), TINY) / np.float32(127)
    numbers = np.rint(weights / scales).astype(np.int8)
    return [from_array(numbers, name + NUMBERS), from_array(scales, name + SCALES)]


def _narrowing(graph: Any, weights: Mapping[str, Float32]) -> set[str]:
    """Products that make fewer numbers of more, as at a layer's end: activations leave outliers in a row."""
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    shapes = {node.name: weights[node.input[1]].shape for node in products}
    return {name for name, shape in shapes.items() if shape[0] > shape[-1]}


def _averaged(graph: Any) -> set[str]:
    """Products that make attention's values: errors there are alike in all tokens, and no mean helps."""
    makers = {output: node for node in graph.node for output in node.output}
    found = set()
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "MatMul" else None
        if maker is not None and maker.op_type == "Softmax":
            value = makers.get(node.input[1])
            while value is not None and value.op_type != "MatMul":  # it moves numbers, or adds a bias
                value = next((makers[name] for name in value.input if name in makers), None)
            found |= {value.name} if value is not None else set()
    return found


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
