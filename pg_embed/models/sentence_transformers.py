"""Family "sentence_transformers": any dense checkpoint of that library, without remote code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pg_embed.errors import InvalidArgument
from pg_embed.models import local, traits
from pg_embed.models.checkpoint import weight_digests
from pg_embed.models.library import (
    LibraryEmbedder,
    LibraryOptions,
    Prompts,
    batch_items,
    chosen_prompts,
    load_model,
    on_cpu,
)
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.records import Card, Embeddings, ModelSpec


@dataclass(frozen=True)
class LocalOptions(LibraryOptions):
    """What the family can be told; where nothing is said, the checkpoint decides."""

    dimensions: int | None = None
    normalize: bool | None = None


class SentenceTransformerEmbedder(LibraryEmbedder):
    """One vector a text."""

    def __init__(self, model: Any, folder: Path, options: LocalOptions) -> None:
        prompts = chosen_prompts(model, options)
        self._normalize = _must_normalize(model, options)
        super().__init__(
            model, prompts, _card(model, folder, options, prompts=prompts, normalize=self._normalize)
        )

    def _read(self, vectors: Any) -> Embeddings:
        import torch

        vectors = vectors[:, : self.card.dimensions].float()
        if self._normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return Embeddings(dense=vectors.cpu().numpy())


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


def _card(model: Any, folder: Path, options: LocalOptions, *, prompts: Prompts, normalize: bool) -> Card:
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
            weights=weight_digests(folder),
            architecture=traits.architecture(folder),
            modules=traits.module_facts(model),
            probe=traits.probe(model, folder),
            prompts=prompts,
            dimensions=dimensions,
            max_tokens=max_tokens,
            normalized=normalize or (traits.normalizes(model) and not _is_cut(model, options)),
        ),
        concurrency=local.CONCURRENCY,
        max_batch_items=batch_items(options, model),
        max_batch_tokens=local.CPU_BATCH_TOKENS if on_cpu(model) else local.ACCELERATOR_BATCH_TOKENS,
        shares_cpu=on_cpu(model),
    )


def load(spec: ModelSpec) -> SentenceTransformerEmbedder:
    """Find the checkpoint, verify it where its digest is known, and load it; this may download it."""
    options = read_options(spec, LocalOptions)
    model, folder = load_model(options, "SentenceTransformer")
    embedder = SentenceTransformerEmbedder(model, folder, options)
    embedder.embed([traits.PROBE], "query")  # fails now rather than at the first row, and warms up
    return embedder


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("sentence_transformers", "pg_embed.models.sentence_transformers:load")
