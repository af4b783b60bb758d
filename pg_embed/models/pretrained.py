"""Loading a checkpoint for a family of bare transformers, with the library's own code only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pg_embed.errors import InvalidArgument, ModelMisconfigured
from pg_embed.models import local, traits
from pg_embed.models.checkpoint import find_checkpoint, weight_digests
from pg_embed.models.heads import DenseHead, Head
from pg_embed.models.room import pass_tokens
from pg_embed.models.space import space_id
from pg_embed.models.transformer import (
    Architecture,
    CheckpointOptions,
    Family,
    Headers,
    TransformerEmbedder,
    TransformerOptions,
)
from pg_embed.models.vocabulary import Vocabulary, load_vocabulary
from pg_embed.records import Card

ACCELERATOR_BATCH_TOKENS = 32_768  # a forward pass; most of these models have billions of weights
ROTARY = ("rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps", "num_key_value_heads", "head_dim")
WRONG_FAMILY = "name the family of the checkpoint, or a checkpoint of the family"
UNUSED_WEIGHTS = "pooler."  # a head of BERT's kin that no family here reads
MakeHead = Callable[[Path, Any, Vocabulary, DenseHead], Head]  # of a folder and the model loaded from it


def dense_alone(folder: Path, model: Any, vocabulary: Vocabulary, dense: DenseHead) -> Head:
    """Nothing but dense vectors."""
    return dense


def load_transformer(
    family: Family,
    options: TransformerOptions,
    headers: Headers,
    dimensions: int | None = None,
    make_head: MakeHead = dense_alone,
) -> TransformerEmbedder:
    """Find the checkpoint and load it, with vectors cut to `dimensions`; this may download it."""
    folder = checkpoint_folder(options)
    with local.loading(options.checkpoint):
        config = configuration(folder, family)
        vocabulary = load_vocabulary(folder, family.begin, family.end)
        facts: dict[str, Any] = {
            "dimensions": _dimensions(config, dimensions),
            "max_tokens": limit_tokens(config, family, options, _around(vocabulary, headers)),
        }
        model = weights(folder, config, family, options)
        head = make_head(folder, model, vocabulary, DenseHead(family.pooling, facts["dimensions"]))
    space = space_id(
        family.name,
        weights=weight_digests(folder),
        architecture=architecture(folder, family),
        pooling=family.pooling,
        probe=_probe(vocabulary, headers, facts["max_tokens"]),
        headers=dict(headers),
        **facts,
    )
    card = Card(
        family=family.name,
        checkpoint=options.checkpoint,
        outputs=head.outputs,
        dimensions=head.dimensions,
        sparse_dimensions=head.sparse_dimensions,
        multi_dimensions=head.multi_dimensions,
        max_tokens=facts["max_tokens"],
        metric=options.metric,
        space_id=space,
        **feeding(model, options, facts["max_tokens"]),
    )
    embedder = TransformerEmbedder(model, head, vocabulary, family, headers, card)
    with local.trying():
        for kind in headers:
            embedder.embed([traits.PROBE], kind)
    return embedder


def checkpoint_folder(options: CheckpointOptions) -> Path:
    """Where the checkpoint lies; a missing library is told before anything is fetched."""
    local.libraries("torch", "transformers", "tokenizers")
    return find_checkpoint(options.checkpoint, options.revision)


def configuration(folder: Path, family: Architecture) -> Any:
    """The checkpoint's configuration, with the family's attention in it.

    It must stand there: as an argument of loading it is ignored, and as an argument of a call it is not safe
    while another thread calls.
    """
    [transformers] = local.libraries("transformers")
    config = transformers.AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    if config.model_type != family.model_type:
        raise ModelMisconfigured(
            f"family {family.name!r} reads checkpoints of type {family.model_type}, not {config.model_type}",
            hint=WRONG_FAMILY,
        )
    if family.model_class and family.model_class not in (config.architectures or [family.model_class]):
        raise ModelMisconfigured(
            f"family {family.name!r} reads a {family.model_class}, not a {', '.join(config.architectures)}",
            hint=WRONG_FAMILY,
        )
    config.use_cache = False
    if family.bidirectional:
        config.is_causal = False
        config.sliding_window = None
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"] * config.num_hidden_layers
    return config


def weights(folder: Path, config: Any, family: Architecture, options: CheckpointOptions) -> Any:
    """The model; weights that the checkpoint lacks would be random numbers, and are an error."""
    torch, transformers = local.libraries("torch", "transformers")
    with local.quiet():
        model, found = getattr(transformers, family.model_class or "AutoModel").from_pretrained(
            str(folder),
            config=config,
            dtype=local.number_type(torch, options.dtype, options.device, family.accelerated),
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(UNUSED_WEIGHTS))
    if missing:
        raise ModelMisconfigured(f"the checkpoint lacks {len(missing)} weights, the first is {missing[0]}")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.to(options.device or accelerator).eval()


def limit_tokens(config: Any, family: Architecture, options: CheckpointOptions, around: int) -> int:
    """As told, else the family's; never more than the checkpoint can do, nor too few for any text.

    `around` is how many tokens there may be besides a text's own.
    """
    own: int = min(family.longest, config.max_position_embeddings - family.first_position)
    limit = options.max_tokens or min(family.max_tokens, own)
    if not around < limit <= own:
        raise InvalidArgument(
            f"max_tokens is {limit}, but must be at most {own} for this checkpoint, and more than {around}"
            " for what stands around a text"
        )
    return limit


def architecture(folder: Path, family: Architecture) -> dict[str, Any]:
    """What the configuration says of the computation, except where the family overrules it."""
    told = traits.architecture(folder, *ROTARY)
    if family.bidirectional:
        told.pop("sliding_window", None)
        told["is_causal"] = False
    return told


def feeding(model: Any, options: CheckpointOptions, max_tokens: int) -> dict[str, Any]:
    """What a card says of the calls that the model wants."""
    on_cpu = model.device.type == "cpu"
    most = local.cpu_tokens(options.batch_size) if on_cpu else ACCELERATOR_BATCH_TOKENS
    return {
        "concurrency": local.CONCURRENCY,
        "max_batch_items": options.batch_size or (local.CPU_BATCH if on_cpu else local.ACCELERATOR_BATCH),
        "max_batch_tokens": pass_tokens(model, max_tokens, most),
        "shares_cpu": on_cpu,
    }


def _dimensions(config: Any, wanted: int | None) -> int:
    full: int = config.hidden_size
    if (wanted or full) > full:
        raise InvalidArgument(f"the checkpoint has {full} dimensions, not {wanted}")
    return wanted or full


def _around(vocabulary: Vocabulary, headers: Headers) -> int:
    return max(len(vocabulary.header(header)) for header in headers.values()) + len(vocabulary.end)


def _probe(vocabulary: Vocabulary, headers: Headers, max_tokens: int) -> dict[str, list[int]]:
    return {kind: vocabulary.read(header, [traits.PROBE], max_tokens)[0] for kind, header in headers.items()}
