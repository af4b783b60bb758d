"""Family "cross_encoder": sentence-transformers' checkpoints with one label, without remote code.

Such a checkpoint reads query and text together. A pair longer than `max_tokens` is cut as the library does
it: tokens go from the end of whichever of the two is longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, PgEmbedError
from pg_embed.models import local, traits
from pg_embed.models.budget import Budget
from pg_embed.models.checkpoint import find_checkpoint, weight_digests
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.models.tokens import estimate_tokens
from pg_embed.models.transformer import batches
from pg_embed.records import Card, Float32, ModelSpec, Scores

HUB_OWNER = "cross-encoder"  # whose a name without an owner is
HEAD = "ForSequenceClassification"
CHARACTERS_PER_TOKEN = 16  # so many at first of a long text, and twice as many until there are tokens enough


@dataclass(frozen=True)
class CrossEncoderOptions:
    """What the family can be told; scores are from 0 to 1, with `activation` "none" the model's logits."""

    checkpoint: str
    revision: str | None = None
    device: str | None = None
    dtype: local.NumberType | None = None
    max_tokens: int | None = None  # of query and text together
    batch_size: int | None = None
    activation: Literal["sigmoid", "none"] = "sigmoid"


class CrossEncoderReranker:
    """A checkpoint in memory: two calls may compute at once, but only one at a time tokenises."""

    def __init__(self, model: Any, folder: Path, options: CrossEncoderOptions) -> None:
        self._model = model
        self._tokenizing = Lock()  # Hugging Face's tokenizers are not thread safe
        self._prompt = model.prompts.get(model.default_prompt_name or "") or None
        self._sigmoid = options.activation == "sigmoid"
        self._max_tokens = _limit_tokens(model, options.max_tokens)
        self.card = self._card(folder, options)
        self._budget = Budget(self.card.max_batch_tokens)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, a third of the UTF-8 bytes, but at most `max_tokens`."""
        limit = self.card.max_tokens
        return [min(count, limit) for count in estimate_tokens(texts)]

    def rerank(self, query: str, texts: Sequence[str]) -> Scores:
        """Batches of texts of like length, the longest first; smaller ones once memory has run out."""
        asked, *counts = self.count_tokens([query, *texts])
        lengths = [min(asked + count, self._max_tokens) for count in counts]
        scores, tokens = np.empty(len(texts), np.float32), 0
        for rows, (found, used) in self._budget.batched(
            batches(lengths, self.card.max_batch_items, self.card.max_batch_tokens),
            lengths,
            lambda rows: self._forward(query, [texts[row] for row in rows]),
        ):
            scores[rows] = found
            tokens += used
        if not np.isfinite(scores).all():
            raise InputRejected(
                "a score of the model is not finite", hint="the option dtype 'float32' may help"
            )
        return Scores(scores, tokens)

    def close(self) -> None:
        """Let the weights go."""
        self._model = None
        local.release_memory()

    def _forward(self, query: str, texts: list[str]) -> tuple[Float32, int]:
        import torch

        model = self._model
        try:
            features = self._tokenize(model, query, texts)
            with torch.inference_mode():
                moved = {name: value.to(model.device) for name, value in _tensors(features)}
                logits = model({**features, **moved})["scores"].float().reshape(len(texts))
                scores = torch.sigmoid(logits) if self._sigmoid else logits
                return scores.cpu().numpy(), int(features["attention_mask"].sum())
        except local.COMPUTING as exc:
            raise local.translated(exc) from exc

    def _tokenize(self, model: Any, query: str, texts: Sequence[str]) -> dict[str, Any]:
        with self._tokenizing:
            asked, *found = [self._shortened(model.tokenizer, text) for text in (query, *texts)]
            return dict(model.preprocess([(asked, text) for text in found], prompt=self._prompt))

    def _shortened(self, tokenizer: Any, text: str) -> str:
        """A very long text without its end, which would be cut anyway.

        The tokenizer keeps all that it cuts from a pair, every part of one text with every part of the other:
        a long query with a long text would take seconds, and minutes where both are longer.
        """
        limit = self._max_tokens
        characters = limit * CHARACTERS_PER_TOKEN
        while characters < len(text):
            start = text[:characters]
            found = tokenizer(start, add_special_tokens=False, truncation=False, verbose=False)
            if len(found["input_ids"]) >= 2 * limit:  # not just as many: the cut may be inside of a word
                return start
            characters *= 2
        return text

    def _card(self, folder: Path, options: CrossEncoderOptions) -> Card:
        model = self._model
        on_cpu = bool(model.device.type == "cpu")
        most = local.cpu_tokens(options.batch_size) if on_cpu else local.ACCELERATOR_BATCH_TOKENS
        return Card(
            family="cross_encoder",
            checkpoint=options.checkpoint,
            outputs=("score",),
            dimensions=1,
            max_tokens=self._max_tokens,
            metric="ip",
            space_id=space_id(
                "cross_encoder",
                weights=weight_digests(folder),
                architecture=traits.architecture(folder),
                probe=self._tokenize(model, traits.PROBE, [traits.PROBE])["input_ids"].flatten().tolist(),
                prompt=self._prompt,
                max_tokens=self._max_tokens,
                activation=options.activation,
            ),
            concurrency=local.CONCURRENCY,
            max_batch_items=options.batch_size or (local.CPU_BATCH if on_cpu else local.ACCELERATOR_BATCH),
            max_batch_tokens=most,
            shares_cpu=on_cpu,
        )


def _tensors(features: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in features.items() if hasattr(value, "to"))


def _limit_tokens(model: Any, wanted: int | None) -> int:
    """As told, but no more than there are positions; RoBERTa's kin leave the first of them to the padding."""
    table = getattr(getattr(model.model.base_model, "embeddings", None), "position_embeddings", None)
    if table is not None:
        unused = 0 if table.padding_idx is None else table.padding_idx + 1
        wanted = min(wanted or table.num_embeddings, table.num_embeddings - unused)
    around: int = model.tokenizer.num_special_tokens_to_add(pair=True)
    if wanted is not None and wanted < around + 2:
        raise InvalidArgument(
            f"max_tokens is {wanted}, but must be more than the {around} special tokens around a pair, by two"
        )
    return traits.limit_tokens(model, wanted)


def _check(folder: Path) -> None:
    """Whether the checkpoint scores pairs: a bare language model would, too, but its scores mean nothing."""
    [transformers] = local.libraries("transformers")
    config = transformers.AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    [architecture, *_] = config.architectures or ["unknown"]
    if not architecture.endswith(HEAD):
        raise ModelMisconfigured(
            f"family 'cross_encoder' reads checkpoints for sequence classification, not {architecture}",
            hint="a reranker that is a language model has a family of its own",
        )
    if config.num_labels != 1:
        raise ModelMisconfigured(
            f"the checkpoint has {config.num_labels} labels, and a reranker must have one",
            hint="a model that sorts texts into classes does not rank them",
        )


def _check_head(model: Any, folder: Path) -> None:
    """Whether the head's weights are the checkpoint's: those that it lacks would be random numbers."""
    stored = {name for file in weight_digests(folder) for name in _names(folder / file)}
    body = f"{model.base_model_prefix}."
    head = [name for name in model.state_dict() if not name.startswith(body) or ".pooler." in name]
    missing = sorted(set(head) - stored)
    if missing:
        raise ModelMisconfigured(f"the checkpoint lacks {len(missing)} weights, the first is {missing[0]}")


def _names(file: Path) -> list[str]:
    torch, safetensors = local.libraries("torch", "safetensors")
    if file.suffix == ".safetensors":
        with safetensors.safe_open(file, "pt") as weights:
            return list(weights.keys())
    return list(torch.load(file, map_location="meta", weights_only=True))


def _model(folder: Path, options: CrossEncoderOptions) -> Any:
    torch, sentence_transformers = local.libraries("torch", "sentence_transformers")
    with local.quiet():
        model = sentence_transformers.CrossEncoder(
            str(folder),
            device=options.device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={
                "dtype": local.number_type(torch, options.dtype, options.device, "auto"),
                "weights_only": True,
            },
        )
    _check_head(model.model, folder)
    return model.eval()


def load(spec: ModelSpec) -> CrossEncoderReranker:
    """Find the checkpoint, see whether it is a reranker, and load it; this may download it."""
    options = read_options(spec, CrossEncoderOptions)
    local.libraries("torch", "sentence_transformers")  # said to be missing before anything is fetched
    name = options.checkpoint
    named = name if "/" in name or name.startswith("~") else f"{HUB_OWNER}/{name}"
    folder = find_checkpoint(named, options.revision)
    try:
        _check(folder)
        reranker = CrossEncoderReranker(_model(folder, options), folder, options)
        reranker.rerank(traits.PROBE, [traits.PROBE])  # fails now rather than at the first text, and warms up
    except InputRejected as exc:
        raise ModelMisconfigured(f"the checkpoint cannot be used: {exc}", hint=exc.hint) from exc
    except PgEmbedError:
        raise
    except Exception as exc:  # whatever the libraries raise, the checkpoint cannot be used as it is
        raise local.unloadable(options.checkpoint, exc) from exc
    return reranker


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("cross_encoder", "pg_embed.models.cross_encoder:load")
