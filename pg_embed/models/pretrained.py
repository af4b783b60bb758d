"""Loading a checkpoint for a family of bare transformers, with the library's own code only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, PgEmbedError
from pg_embed.models import local, traits
from pg_embed.models.checkpoint import find_checkpoint, weight_digests
from pg_embed.models.heads import DenseHead, Head
from pg_embed.models.space import space_id
from pg_embed.models.transformer import Family, Headers, TransformerEmbedder, TransformerOptions
from pg_embed.models.vocabulary import Vocabulary, load_vocabulary
from pg_embed.records import Card

ACCELERATOR_BATCH_TOKENS = 32_768  # a forward pass; most of these models have billions of weights
ROTARY = ("rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps", "num_key_value_heads", "head_dim")
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
    local.libraries("torch", "transformers", "tokenizers")  # said to be missing before anything is fetched
    folder = find_checkpoint(options.checkpoint, options.revision)
    try:
        config = _configuration(folder, family)
        vocabulary = load_vocabulary(folder, family.begin, family.end)
        facts = {
            "dimensions": _dimensions(config, dimensions),
            "max_tokens": _max_tokens(config, family, options, vocabulary, headers),
        }
        model = _model(folder, config, family, options)
        head = make_head(folder, model, vocabulary, DenseHead(family.pooling, facts["dimensions"]))
    except PgEmbedError:
        raise
    except Exception as exc:  # whatever the libraries raise, the checkpoint cannot be used as it is
        raise local.unloadable(options.checkpoint, exc) from exc
    space = space_id(
        family.name,
        weights=weight_digests(folder),
        architecture=_architecture(folder, family),
        pooling=family.pooling,
        probe=_probe(vocabulary, headers, facts["max_tokens"]),
        headers=dict(headers),
        **facts,
    )
    on_cpu = model.device.type == "cpu"
    card = _card(family, options, head, space, on_cpu=on_cpu, max_tokens=facts["max_tokens"])
    embedder = TransformerEmbedder(model, head, vocabulary, family, headers, card)
    _try(embedder, headers)
    return embedder


def _configuration(folder: Path, family: Family) -> Any:
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
            f"family {family.name!r} reads checkpoints of type {family.model_type}, not {config.model_type}"
        )
    config.use_cache = False
    if family.bidirectional:
        config.is_causal = False
        config.sliding_window = None
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"] * config.num_hidden_layers
    return config


def _model(folder: Path, config: Any, family: Family, options: TransformerOptions) -> Any:
    """The weights; those that the checkpoint lacks would be random numbers, and are an error."""
    torch, transformers = local.libraries("torch", "transformers")
    with local.quiet():
        model, found = transformers.AutoModel.from_pretrained(
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


def _dimensions(config: Any, wanted: int | None) -> int:
    full: int = config.hidden_size
    if (wanted or full) > full:
        raise InvalidArgument(f"the checkpoint has {full} dimensions, not {wanted}")
    return wanted or full


def _max_tokens(
    config: Any, family: Family, options: TransformerOptions, vocabulary: Vocabulary, headers: Headers
) -> int:
    """As told, else the family's; never more than the checkpoint can do, nor too few for any text."""
    own: int = min(family.longest, config.max_position_embeddings - family.first_position)
    limit = options.max_tokens or min(family.max_tokens, own)
    around = max(len(vocabulary.header(header)) for header in headers.values()) + len(vocabulary.end)
    if not around < limit <= own:
        raise InvalidArgument(
            f"max_tokens is {limit}, but must be at most {own} for this checkpoint, and more than the"
            f" {around} tokens of the instruction and the special tokens"
        )
    return limit


def _architecture(folder: Path, family: Family) -> dict[str, Any]:
    """What the configuration says of the computation, except where the family overrules it."""
    told = traits.architecture(folder, *ROTARY)
    if family.bidirectional:
        told.pop("sliding_window", None)
        told["is_causal"] = False
    return told


def _probe(vocabulary: Vocabulary, headers: Headers, max_tokens: int) -> dict[str, list[int]]:
    return {kind: vocabulary.read(header, [traits.PROBE], max_tokens)[0] for kind, header in headers.items()}


def _card(
    family: Family,
    options: TransformerOptions,
    head: Head,
    space: str,
    *,
    on_cpu: bool,
    max_tokens: int,
) -> Card:
    return Card(
        family=family.name,
        checkpoint=options.checkpoint,
        outputs=head.outputs,
        dimensions=head.dimensions,
        sparse_dimensions=head.sparse_dimensions,
        multi_dimensions=head.multi_dimensions,
        max_tokens=max_tokens,
        metric=options.metric,
        space_id=space,
        concurrency=local.CONCURRENCY,
        max_batch_items=options.batch_size or (local.CPU_BATCH if on_cpu else local.ACCELERATOR_BATCH),
        max_batch_tokens=local.CPU_BATCH_TOKENS if on_cpu else ACCELERATOR_BATCH_TOKENS,
        shares_cpu=on_cpu,
    )


def _try(embedder: TransformerEmbedder, headers: Headers) -> None:
    """Fail now rather than at the first row, and warm up."""
    try:
        for kind in headers:
            embedder.embed([traits.PROBE], kind)
    except InputRejected as exc:
        raise ModelMisconfigured(f"the checkpoint cannot be used: {exc}", hint=exc.hint) from exc
