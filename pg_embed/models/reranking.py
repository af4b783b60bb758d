"""Loading a checkpoint for a family of rerankers of bare transformers, with the library's own code only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pg_embed.errors import ModelMisconfigured
from pg_embed.models import local, pretrained, traits
from pg_embed.models.checkpoint import weight_digests
from pg_embed.models.pairs import Activation, Pairs, RerankerFamily, TransformerReranker
from pg_embed.models.space import space_id
from pg_embed.models.transformer import CheckpointOptions
from pg_embed.models.vocabulary import Vocabulary, load_vocabulary
from pg_embed.records import Card


def load_reranker(
    family: RerankerFamily,
    options: CheckpointOptions,
    pair: Callable[[Vocabulary], Pairs],
    activation: Activation = "sigmoid",
) -> TransformerReranker:
    """Find the checkpoint and load it; `pair` is told the vocabulary; this may download the checkpoint."""
    folder = pretrained.checkpoint_folder(options)
    with local.loading(options.checkpoint):
        config = pretrained.configuration(folder, family)
        _check_head(folder, config, family)
        pairs = pair(load_vocabulary(folder, family.begin, family.end))
        max_tokens = pretrained.limit_tokens(config, family, options, pairs.around)
        model = pretrained.weights(folder, config, family, options)
    space = space_id(
        family.name,
        weights=weight_digests(folder),
        architecture=pretrained.architecture(folder, family),
        truncation=family.truncation,
        probe=pairs.read("", [traits.PROBE], max_tokens),
        activation=activation,
        max_tokens=max_tokens,
    )
    card = Card(
        family=family.name,
        checkpoint=options.checkpoint,
        outputs=("score",),
        dimensions=1,
        max_tokens=max_tokens,
        metric="ip",
        space_id=space,
        padded=family.padded,
        **pretrained.feeding(model, options, max_tokens),
    )
    reranker = TransformerReranker(model, pairs, activation, card)
    with local.trying():
        reranker.rerank("", [traits.PROBE])
    return reranker


def _check_head(folder: Path, config: Any, family: RerankerFamily) -> None:
    """A head for something else gives numbers, too, which mean nothing here."""
    if (folder / "1_Pooling").is_dir():
        raise ModelMisconfigured(
            "the checkpoint makes vectors and is no reranker", hint="name a reranker, or an embedder's family"
        )
    if family.labels is not None and config.num_labels != family.labels:
        raise ModelMisconfigured(
            f"the checkpoint has {config.num_labels} labels and is no reranker, which has {family.labels}",
            hint="name a checkpoint of the family",
        )
