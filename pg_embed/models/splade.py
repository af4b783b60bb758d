"""Family "splade": checkpoints that weigh the words of a vocabulary for a text, by sentence-transformers.

Documents are read by a transformer that was trained to guess masked words. So are queries, or else each word
in them has a fixed weight ("inference-free").
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from pg_embed.errors import InputRejected, ModelMisconfigured
from pg_embed.models import local, traits
from pg_embed.models.checkpoint import weight_digests, weight_names
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
from pg_embed.models.results import no_dense, not_zero
from pg_embed.models.space import space_id
from pg_embed.records import Card, Embeddings, Kind, ModelSpec

KINDS: tuple[Kind, ...] = ("query", "document")
ROUTES = (  # modules that read a kind of text
    ["Transformer", "SpladePooling"],
    ["MLMTransformer", "SpladePooling"],  # its name in older checkpoints
    ["SparseStaticEmbedding"],
)
CPU_LOGITS, ACCELERATOR_LOGITS = 2**27, 2**30  # a forward pass makes one for each token and word


class SpladeEmbedder(LibraryEmbedder):
    """Weights of words, which are positive and not normalised."""

    def __init__(self, model: Any, folder: Path, options: LibraryOptions) -> None:
        prompts = chosen_prompts(model, options)
        self._most = model.max_active_dims  # of the checkpoint: weights that a text keeps, or None
        super().__init__(model, prompts, _card(model, folder, options, prompts))

    def _read(self, vectors: Any) -> Embeddings:
        from sentence_transformers.util import select_max_active_dims

        kept = select_max_active_dims(vectors, self._most)
        return Embeddings(dense=no_dense(len(vectors)), sparse=not_zero(kept))

    def _tokenize(self, model: Any, texts: list[str], kind: Kind) -> dict[str, Any]:
        """Texts without any token, too, which the library gives ids of another type."""
        features = super()._tokenize(model, texts, kind)
        return {**features, **{name: features[name].long() for name in ("input_ids", "attention_mask")}}


def _card(model: Any, folder: Path, options: LibraryOptions, prompts: Prompts) -> Card:
    max_tokens = _limit_tokens(model, options.max_tokens)
    dimensions = _dimensions(model)
    cpu = on_cpu(model)
    return Card(
        family="splade",
        checkpoint=options.checkpoint,
        outputs=("sparse",),
        dimensions=dimensions,
        max_tokens=max_tokens,
        metric=options.metric or traits.metric(model),
        space_id=space_id(
            "splade",
            weights=weight_digests(folder),
            modules={kind: [_facts(module) for module in _route(model, kind)] for kind in KINDS},
            probe={kind: _ids(model, kind) for kind in KINDS},
            prompts=prompts,
            dimensions=dimensions,
            max_tokens=max_tokens,
            most=model.max_active_dims,
        ),
        concurrency=local.CONCURRENCY,
        max_batch_items=batch_items(options, model),
        max_batch_tokens=(CPU_LOGITS if cpu else ACCELERATOR_LOGITS) // dimensions,
        shares_cpu=cpu,
    )


def _route(model: Any, kind: Kind) -> list[Any]:
    """The modules that read texts of a kind."""
    first, *others = model
    if type(first).__name__ != "Router":
        return [first, *others]
    if first.route_mappings or kind not in first.sub_modules:
        raise ModelMisconfigured(f"the checkpoint's router has no plain route for a {kind}")
    return [*first.sub_modules[kind], *others]


def _facts(module: Any) -> list[Any]:
    """What a module computes, as far as files of weights do not tell."""
    match type(module).__name__:
        case "SpladePooling":
            return ["SpladePooling", module.pooling_strategy, module.activation_function]
        case "SparseStaticEmbedding":
            weights = module.weight.detach().float().cpu().numpy()
            return ["SparseStaticEmbedding", sha256(weights.tobytes()).hexdigest()]
        case _:
            told = ((name, getattr(module.config, name, None)) for name in traits.ARCHITECTURE)
            return ["Transformer", {name: value for name, value in told if value is not None}]


def _ids(model: Any, kind: Kind) -> list[int]:
    found: list[int] = model.preprocess([traits.PROBE], task=kind)["input_ids"].flatten().tolist()
    return found


def _limit_tokens(model: Any, wanted: int | None) -> int:
    """Let texts be cut at `wanted` tokens, where the limit of their kind is not lower; the higher limit."""
    limits: list[int] = []
    for kind in KINDS:
        tokenizer = _route(model, kind)[0].tokenizer
        own = min(tokenizer.model_max_length, traits.UNLIMITED)
        limits.append(min(own, wanted or own))
        tokenizer.model_max_length = limits[-1]
    return max(limits)


def _dimensions(model: Any) -> int:
    """Words of the vocabulary; a forward pass tells, and the modules do not always."""
    import torch

    with torch.inference_mode():
        sizes = {_size(model, kind) for kind in KINDS}
    if len(sizes) > 1:
        raise ModelMisconfigured(f"queries and documents have different dimensions: {sorted(sizes)}")
    return sizes.pop()


def _size(model: Any, kind: Kind) -> int:
    features = model.preprocess([traits.PROBE], task=kind)
    moved = {name: value.to(model.device) for name, value in features.items() if hasattr(value, "to")}
    size: int = model({**features, **moved}, task=kind)["sentence_embedding"].shape[1]
    return size


def _check(model: Any, folder: Path) -> None:
    """Refuse what the library would read with a head of random numbers."""
    for kind in KINDS:
        route = _route(model, kind)
        names = [type(module).__name__ for module in route]
        if names not in ROUTES or getattr(route[0], "transformer_task", "fill-mask") != "fill-mask":
            raise ModelMisconfigured(
                f"the checkpoint is no SPLADE: it would read a {kind} by {', '.join(names)}",
                hint="sparse vectors of BGE-M3's kin are made by family 'bge_m3'",
            )
        if len(route) > 1:
            _check_head(route[0].model, weight_names(folder))


def _check_head(transformer: Any, saved: set[str]) -> None:
    """Whether the checkpoint has the weights that guess words, which stand beside the base model's."""
    base = f"{transformer.base_model_prefix}."
    names = [name for name, _ in transformer.named_parameters() if not name.startswith(base)]
    heads = {name.split(".")[0] for name in names}
    missing = sorted(heads - {name.split(".")[0] for name in saved})
    if missing:
        raise ModelMisconfigured(f"the checkpoint lacks the weights of its head {missing[0]}")


def load(spec: ModelSpec) -> SpladeEmbedder:
    """Find the checkpoint, load it and see that it is a SPLADE; this may download it."""
    options = read_options(spec, LibraryOptions)
    with local.quiet():
        model, folder = load_model(options, "SparseEncoder")
    _check(model, folder)
    embedder = SpladeEmbedder(model, folder, options)
    try:
        for kind in KINDS:
            embedder.embed([traits.PROBE], kind)  # fails now rather than at the first row, and warms up
    except InputRejected as exc:
        raise ModelMisconfigured(f"the checkpoint cannot be used: {exc}", hint=exc.hint) from exc
    return embedder


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("splade", "pg_embed.models.splade:load")
