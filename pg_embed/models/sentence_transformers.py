"""Family "sentence_transformers": any dense checkpoint of that library, without remote code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pg_embed.errors import InvalidArgument
from pg_embed.models import local, traits
from pg_embed.models.checkpoint import weight_digests
from pg_embed.models.exported import RECIPE, Graph, Quantize, load_graph
from pg_embed.models.library import (
    LibraryEmbedder,
    LibraryOptions,
    Prompts,
    batch_items,
    batch_tokens,
    chosen_prompts,
    load_model,
    on_cpu,
)
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.records import Card, Embeddings, Float32, Kind, ModelSpec

FULL = 4  # bytes of a number; those with fewer are of length 1 only roughly when normalised in their own type


@dataclass(frozen=True)
class LocalOptions(LibraryOptions):
    """What the family can be told; where nothing is said, the checkpoint decides.

    With the backend onnx the vectors are the same but for rounding and may be mixed with those of torch. With
    `quantize`, weights and states of most products have eight bits: the vectors are a space of their own.
    Each token's state has its own scale, so the texts beside which a vector is computed do not change it.
    """

    dimensions: int | None = None
    normalize: bool | None = None
    backend: Literal["torch", "onnx"] = "torch"
    quantize: Quantize | None = None


class SentenceTransformerEmbedder(LibraryEmbedder):
    """One vector a text. A graph takes the place of the weights, and the model is then left to tokenise."""

    def __init__(
        self, model: Any, folder: Path, options: LocalOptions, weights: dict[str, str], graph: Graph | None
    ) -> None:
        prompts = chosen_prompts(model, options)
        normalize = _must_normalize(model, options)
        self._graph = graph
        self._must_be_unit = normalize or (
            traits.normalizes(model) and not _is_cut(model, options) and model.dtype.itemsize < FULL
        )
        super().__init__(model, prompts, _card(model, folder, options, weights, prompts, normalize=normalize))

    def close(self) -> None:
        """Let the weights go."""
        self._graph = None
        super().close()

    def _compute(self, features: dict[str, Any], kind: Kind) -> Embeddings:
        if self._graph is None:
            return super()._compute(features, kind)
        vectors = self._graph.vectors(features)[:, : self.card.dimensions]
        return Embeddings(dense=_unit(vectors) if self._must_be_unit else vectors)

    def _read(self, vectors: Any) -> Embeddings:
        import torch

        vectors = vectors[:, : self.card.dimensions].float()
        if self._must_be_unit:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return Embeddings(dense=vectors.cpu().numpy())


def _unit(vectors: Float32) -> Float32:
    """Of length 1, as torch does it: what is (almost) zero stays so."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found: Float32 = np.divide(vectors, lengths, dtype=np.float32)
    return found


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
    prompts: Prompts,
    *,
    normalize: bool,
) -> Card:
    dimensions = options.dimensions or model.get_embedding_dimension()
    max_tokens = traits.limit_tokens(model, options.max_tokens)
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
            quantize=options.quantize and [options.quantize, RECIPE],
        ),
        concurrency=local.CONCURRENCY,
        max_batch_items=batch_items(options, model),
        max_batch_tokens=batch_tokens(options, model, max_tokens),
        shares_cpu=on_cpu(model),
    )


def load(spec: ModelSpec) -> SentenceTransformerEmbedder:
    """Find the checkpoint, verify it where its digest is known, and load it; this may download it."""
    options = read_options(spec, LocalOptions)
    _check_backend(options)
    on_onnx = options.backend == "onnx"
    model, folder = load_model(replace(options, device="cpu") if on_onnx else options, "SentenceTransformer")
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
    if skips and any(chosen_prompts(model, options).values()):
        raise InvalidArgument(
            "the checkpoint leaves the prompt out of its pooling, which a graph cannot do",
            hint="use the backend torch",
        )
    return load_graph(model, weights, folder, options.quantize)


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("sentence_transformers", "pg_embed.models.sentence_transformers:load")
