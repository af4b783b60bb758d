"""What the families share whose checkpoints sentence-transformers reads: options, loading, batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from pg_embed.errors import InputRejected
from pg_embed.models import local, traits
from pg_embed.models.budget import Budget
from pg_embed.models.checkpoint import find_checkpoint
from pg_embed.models.results import check_finite, in_order, no_rows
from pg_embed.models.room import pass_tokens
from pg_embed.models.tokens import estimate_tokens
from pg_embed.models.transformer import batches
from pg_embed.records import VECTORS, Card, Embeddings, Kind, Metric, Outputs

Prompts = dict[Kind, str]


@dataclass(frozen=True)
class LibraryOptions:
    """What every such family can be told; where nothing is said, the checkpoint decides."""

    checkpoint: str
    revision: str | None = None
    device: str | None = None
    dtype: local.NumberType | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_tokens: int | None = None
    metric: Metric | None = None
    batch_size: int | None = None


class LibraryEmbedder:
    """A checkpoint in memory: two calls may compute at once, but only one at a time tokenises."""

    def __init__(self, model: Any, prompts: Prompts, card: Card) -> None:
        self._model = model
        self._tokenizing = Lock()  # Hugging Face's tokenizers are not thread safe
        self._prompts = prompts
        self._budget = Budget(card.max_batch_tokens)
        self.card = card

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, a third of the UTF-8 bytes, but at most `max_tokens`."""
        limit = self.card.max_tokens
        return [min(count, limit) for count in estimate_tokens(texts)]

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Batches of texts of like length, the longest first; smaller ones once memory has run out."""
        if not texts:
            return no_rows(self.card, outputs)
        lengths = self.count_tokens(texts)
        found = list(
            self._budget.batched(
                batches(lengths, self.card.max_batch_items, self.card.max_batch_tokens),
                lengths,
                lambda rows: self._forward([texts[row] for row in rows], kind),
            )
        )
        embeddings = in_order([part for _, part in found], [rows for rows, _ in found])
        check_finite(embeddings)
        return embeddings

    def measure_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a document, as the tokenizer counts them and `embed` uses them."""
        counts = [0] * len(texts)
        for rows in batches(self.count_tokens(texts), self.card.max_batch_items, self.card.max_batch_tokens):
            _, lengths = self._features(self._model, [texts[row] for row in rows], "document")
            for row, length in zip(rows, lengths, strict=True):
                counts[row] = length
        return counts

    def close(self) -> None:
        """Let the weights go."""
        self._model = None
        local.release_memory()

    def _forward(self, texts: list[str], kind: Kind) -> Embeddings:
        try:
            features, lengths = self._features(self._model, texts, kind)
            return replace(self._compute(features, kind), tokens=sum(lengths))
        except local.COMPUTING as exc:
            raise local.translated(exc) from exc

    def _compute(self, features: dict[str, Any], kind: Kind) -> Embeddings:
        import torch

        model = self._model
        with torch.inference_mode():
            output = model({**features, **_moved(features, model.device)}, task=kind)
            return self._read(output["sentence_embedding"])

    def _read(self, vectors: Any) -> Embeddings:
        """Embeddings of a tensor of shape (texts, dimensions)."""
        raise NotImplementedError

    def _features(self, model: Any, texts: list[str], kind: Kind) -> tuple[dict[str, Any], list[int]]:
        """What the model reads, and the texts' tokens; a very long text is cut where that changes nothing."""
        limit = self.card.max_tokens
        characters = limit * local.CHARACTERS_PER_TOKEN
        features = self._tokenize(model, [text[:characters] for text in texts], kind)
        lengths = _lengths(features, len(texts))
        if any(len(text) > characters and used < limit for text, used in zip(texts, lengths, strict=True)):
            features = self._tokenize(model, texts, kind)
            lengths = _lengths(features, len(texts))
        return features, lengths

    def _tokenize(self, model: Any, texts: list[str], kind: Kind) -> dict[str, Any]:
        try:
            with self._tokenizing:
                return dict(model.preprocess(texts, prompt=self._prompts[kind] or None, task=kind))
        except TypeError as exc:
            raise InputRejected("a text is not valid Unicode and cannot be tokenised") from exc


def load_model(options: LibraryOptions, class_name: str) -> tuple[Any, Path]:
    """A model of one of the library's classes, and its folder; this may download it."""
    torch, sentence_transformers = local.libraries("torch", "sentence_transformers")
    dtype = local.number_type(torch, options.dtype, options.device, "auto")
    folder = find_checkpoint(options.checkpoint, options.revision)
    try:
        model = getattr(sentence_transformers, class_name)(
            str(folder),
            device=options.device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype},
        )
    except Exception as exc:  # whatever the libraries raise, the checkpoint cannot be used as it is
        raise local.unloadable(options.checkpoint, exc) from exc
    return model.eval(), folder


def chosen_prompts(model: Any, options: LibraryOptions) -> Prompts:
    """The checkpoint's, except where told."""
    prompts = traits.prompts(model)
    if options.query_prompt is not None:
        prompts["query"] = options.query_prompt
    if options.document_prompt is not None:
        prompts["document"] = options.document_prompt
    return prompts


def on_cpu(model: Any) -> bool:
    """Whether it computes on this machine's processors."""
    return bool(model.device.type == "cpu")


def batch_items(options: LibraryOptions, model: Any) -> int:
    """Texts a forward pass."""
    return options.batch_size or (local.CPU_BATCH if on_cpu(model) else local.ACCELERATOR_BATCH)


def batch_tokens(options: LibraryOptions, model: Any, max_tokens: int) -> int:
    """Tokens a forward pass; on an accelerator what its free memory can hold."""
    most = local.cpu_tokens(options.batch_size) if on_cpu(model) else local.ACCELERATOR_BATCH_TOKENS
    return pass_tokens(model, max_tokens, most, getattr(getattr(model[0], "model", None), "config", None))


def _moved(features: dict[str, Any], device: Any) -> dict[str, Any]:
    return {name: value.to(device) for name, value in features.items() if hasattr(value, "to")}


def _lengths(features: dict[str, Any], texts: int) -> list[int]:
    mask = features.get("attention_mask")
    found: list[int] = [0] * texts if mask is None else mask.sum(dim=1).tolist()
    return found
