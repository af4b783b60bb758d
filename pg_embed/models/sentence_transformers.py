"""Family "sentence_transformers": any dense checkpoint of that library, without remote code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pg_embed.errors import InputRejected, InvalidArgument
from pg_embed.models import local, traits
from pg_embed.models.budget import Budget
from pg_embed.models.checkpoint import find_checkpoint, weight_digests
from pg_embed.models.exported import Graph, Quantize, load_graph
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.models.tokens import estimate_tokens
from pg_embed.records import VECTORS, Card, Embeddings, Kind, Metric, ModelSpec, Outputs

Float32 = npt.NDArray[np.float32]
FULL = 4  # bytes of a number; those with fewer are of length 1 only roughly when normalised in their own type


@dataclass(frozen=True)
class LocalOptions:
    """What the family can be told; where nothing is said, the checkpoint decides.

    With the backend onnx the vectors are the same but for rounding and may be mixed with those of torch. With
    `quantize`, weights and states have eight bits: the vectors are a space of their own, and change a little
    with the texts beside which they are computed, for all states of a pass share one scale.
    """

    checkpoint: str
    revision: str | None = None
    device: str | None = None
    dtype: local.NumberType | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    normalize: bool | None = None
    metric: Metric | None = None
    batch_size: int | None = None
    backend: Literal["torch", "onnx"] = "torch"
    quantize: Quantize | None = None


class SentenceTransformerEmbedder:
    """A checkpoint in memory: two calls may compute at once, but only one at a time tokenises.

    A graph takes the place of the weights, and the model is then left to tokenise.
    """

    def __init__(
        self, model: Any, folder: Path, options: LocalOptions, weights: dict[str, str], graph: Graph | None
    ) -> None:
        self._model = model
        self._graph = graph
        self._tokenizing = Lock()  # Hugging Face's tokenizers are not thread safe
        self._prompts = _prompts(model, options)
        self._normalize = _must_normalize(model, options)
        self._must_be_unit = self._normalize or (
            traits.normalizes(model) and not _is_cut(model, options) and model.dtype.itemsize < FULL
        )
        self._batch = options.batch_size or (local.CPU_BATCH if _on_cpu(model) else local.ACCELERATOR_BATCH)
        self.card = _card(
            model, folder, options, weights, self._prompts, normalize=self._normalize, batch=self._batch
        )
        self._budget = Budget(self._batch * self.card.max_tokens)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, a third of the UTF-8 bytes, but at most `max_tokens`."""
        limit = self.card.max_tokens
        return [min(count, limit) for count in estimate_tokens(texts)]

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Batches of texts of like length, the longest first; smaller ones once memory has run out."""
        lengths = self.count_tokens(texts)
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        dense = np.empty((len(texts), self.card.dimensions), np.float32)
        tokens = 0
        for start in range(0, len(order), self._batch):
            for rows, (vectors, used) in self._budget.passes(
                order[start : start + self._batch],
                lengths,
                lambda rows: self._forward([texts[row] for row in rows], kind),
            ):
                dense[rows] = vectors
                tokens += used
        if not np.isfinite(dense).all():
            raise InputRejected(
                "a vector of the model is not finite", hint="the option dtype 'float32' may help"
            )
        return Embeddings(dense=dense, tokens=tokens)

    def close(self) -> None:
        """Let the weights go."""
        self._model = self._graph = None
        local.release_memory()

    def _forward(self, texts: list[str], kind: Kind) -> tuple[Float32, int]:
        try:
            features, tokens = self._features(self._model, texts, kind)
            if self._graph is None:
                return self._computed(self._model, features, kind), tokens
        except local.COMPUTING as exc:
            raise local.translated(exc) from exc
        vectors = self._graph.vectors(features)[:, : self.card.dimensions]
        return _unit(vectors) if self._must_be_unit else vectors, tokens

    def _computed(self, model: Any, features: dict[str, Any], kind: Kind) -> Float32:
        import torch

        with torch.inference_mode():
            output = model({**features, **_moved(features, model.device)}, task=kind)
            vectors = output["sentence_embedding"][:, : self.card.dimensions].float()
            if self._must_be_unit:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            found: Float32 = vectors.cpu().numpy()
            return found

    def _features(self, model: Any, texts: list[str], kind: Kind) -> tuple[dict[str, Any], int]:
        """What the model reads, and its tokens; a very long text is cut first where that changes nothing."""
        limit = self.card.max_tokens
        characters = limit * local.CHARACTERS_PER_TOKEN
        features = self._tokenize(model, [text[:characters] for text in texts], kind)
        mask = features.get("attention_mask")
        lengths: list[int] = [0] * len(texts) if mask is None else mask.sum(dim=1).tolist()
        if any(len(text) > characters and used < limit for text, used in zip(texts, lengths, strict=True)):
            features = self._tokenize(model, texts, kind)
        return features, sum(lengths)

    def _tokenize(self, model: Any, texts: list[str], kind: Kind) -> dict[str, Any]:
        with self._tokenizing:
            return dict(model.preprocess(texts, prompt=self._prompts[kind] or None, task=kind))


def _moved(features: dict[str, Any], device: Any) -> dict[str, Any]:
    return {name: value.to(device) for name, value in features.items() if hasattr(value, "to")}


def _unit(vectors: Float32) -> Float32:
    """Of length 1, as torch does it: what is (almost) zero stays so."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found: Float32 = np.divide(vectors, lengths, dtype=np.float32)
    return found


def _on_cpu(model: Any) -> bool:
    return bool(model.device.type == "cpu")


def _prompts(model: Any, options: LocalOptions) -> dict[Kind, str]:
    prompts = traits.prompts(model)
    if options.query_prompt is not None:
        prompts["query"] = options.query_prompt
    if options.document_prompt is not None:
        prompts["document"] = options.document_prompt
    return prompts


def _must_normalize(model: Any, options: LocalOptions) -> bool:
    """As told; else if vectors are cut, for then they are no longer of length 1."""
    if options.normalize is not None:
        return options.normalize
    wants_unit = traits.normalizes(model) or (options.metric or traits.metric(model)) == "cosine"
    return wants_unit and _is_cut(model, options)


def _is_cut(model: Any, options: LocalOptions) -> bool:
    full = model.get_embedding_dimension()
    if (options.dimensions or full) > full:
        raise InvalidArgument(f"the checkpoint has {full} dimensions, not {options.dimensions}")
    return bool(options.dimensions and options.dimensions < full)


def _card(
    model: Any,
    folder: Path,
    options: LocalOptions,
    weights: dict[str, str],
    prompts: dict[Kind, str],
    *,
    normalize: bool,
    batch: int,
) -> Card:
    dimensions = options.dimensions or model.get_embedding_dimension()
    max_tokens = traits.limit_tokens(model, options.max_tokens)
    on_cpu = _on_cpu(model)
    return Card(
        family="sentence_transformers",
        checkpoint=options.checkpoint,
        outputs=("dense",),
        dimensions=dimensions,
        max_tokens=max_tokens,
        metric=options.metric or traits.metric(model),
        space_id=space_id(
            "sentence_transformers",
            weights=weights,
            architecture=traits.architecture(folder),
            modules=traits.module_facts(model),
            probe=traits.probe(model, folder),
            prompts=prompts,
            dimensions=dimensions,
            max_tokens=max_tokens,
            normalized=normalize or (traits.normalizes(model) and not _is_cut(model, options)),
            quantize=options.quantize,
        ),
        concurrency=local.CONCURRENCY,
        max_batch_items=batch,
        max_batch_tokens=local.CPU_BATCH_TOKENS if on_cpu else local.ACCELERATOR_BATCH_TOKENS,
        shares_cpu=on_cpu,
    )


def load(spec: ModelSpec) -> SentenceTransformerEmbedder:
    """Find the checkpoint, verify it where its digest is known, and load it; this may download it."""
    options = read_options(spec, LocalOptions)
    _check_backend(options)
    torch, sentence_transformers = local.libraries("torch", "sentence_transformers")
    device = "cpu" if options.backend == "onnx" else options.device
    dtype = local.number_type(torch, options.dtype, device, "auto")
    folder = find_checkpoint(options.checkpoint, options.revision)
    try:
        model = sentence_transformers.SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype},
        )
    except Exception as exc:  # whatever the libraries raise, the checkpoint cannot be used as it is
        raise local.unloadable(options.checkpoint, exc) from exc
    model.eval()
    weights = weight_digests(folder)
    graph = _graph(model, folder, options, weights)
    embedder = SentenceTransformerEmbedder(model, folder, options, weights, graph)
    if graph is not None:
        model.to("meta")  # its weights are not used any more
    embedder.embed([traits.PROBE], "query")  # fails now rather than at the first row, and warms up
    return embedder


def _check_backend(options: LocalOptions) -> None:
    if options.quantize is not None and options.backend != "onnx":
        raise InvalidArgument("the option quantize is one of the backend onnx", hint='set backend "onnx"')
    if options.backend == "onnx" and (options.device or "cpu") != "cpu":
        raise InvalidArgument("the backend onnx computes on a CPU", hint="leave the option device out")
    if options.backend == "onnx" and (options.dtype or "float32") != "float32":
        raise InvalidArgument("the backend onnx computes in float32", hint="leave the option dtype out")


def _graph(model: Any, folder: Path, options: LocalOptions, weights: dict[str, str]) -> Graph | None:
    if options.backend == "torch":
        return None
    skips = any(facts[0] == "Pooling" and not facts[-1] for facts in traits.module_facts(model))
    if skips and any(_prompts(model, options).values()):
        raise InvalidArgument(
            "the checkpoint leaves the prompt out of its pooling, which a graph cannot do",
            hint="use the backend torch",
        )
    return load_graph(model, weights, folder, options.quantize)


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("sentence_transformers", "pg_embed.models.sentence_transformers:load")
