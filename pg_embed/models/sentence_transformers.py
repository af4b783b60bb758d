"""Family "sentence_transformers": any dense checkpoint of that library, without remote code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from pg_embed.errors import InputRejected, InvalidArgument
from pg_embed.models import local, traits
from pg_embed.models.checkpoint import find_checkpoint, weight_digests
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.models.tokens import estimate_tokens
from pg_embed.records import VECTORS, Card, Embeddings, Kind, Metric, ModelSpec, Outputs

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LocalOptions:
    """What the family can be told; where nothing is said, the checkpoint decides."""

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


class SentenceTransformerEmbedder:
    """A checkpoint in memory: two calls may compute at once, but only one at a time tokenises."""

    def __init__(self, model: Any, folder: Path, options: LocalOptions) -> None:
        self._model = model
        self._tokenizing = Lock()  # Hugging Face's tokenizers are not thread safe
        self._prompts = _prompts(model, options)
        self._normalize = _must_normalize(model, options)
        self._batch = options.batch_size or (local.CPU_BATCH if _on_cpu(model) else local.ACCELERATOR_BATCH)
        self.card = _card(
            model, folder, options, prompts=self._prompts, normalize=self._normalize, batch=self._batch
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, a third of the UTF-8 bytes, but at most `max_tokens`."""
        limit = self.card.max_tokens
        return [min(count, limit) for count in estimate_tokens(texts)]

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Batches of texts of like length, the longest first."""
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        dense = np.empty((len(texts), self.card.dimensions), np.float32)
        tokens = 0
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            dense[rows], used = self._forward([texts[row] for row in rows], kind)
            tokens += used
        if not np.isfinite(dense).all():
            raise InputRejected(
                "a vector of the model is not finite", hint="the option dtype 'float32' may help"
            )
        return Embeddings(dense=dense, tokens=tokens)

    def measure_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a document, as the tokenizer counts them and `embed` uses them."""
        counts = [0] * len(texts)
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            _, lengths = self._features(self._model, [texts[row] for row in rows], "document")
            for row, length in zip(rows, lengths, strict=True):
                counts[row] = length
        return counts

    def close(self) -> None:
        """Let the weights go."""
        self._model = None
        local.release_memory()

    def _forward(self, texts: list[str], kind: Kind) -> tuple[Float32, int]:
        import torch

        model = self._model
        try:
            features, lengths = self._features(model, texts, kind)
            with torch.inference_mode():
                output = model({**features, **_moved(features, model.device)}, task=kind)
                vectors = output["sentence_embedding"][:, : self.card.dimensions].float()
                if self._normalize:
                    vectors = torch.nn.functional.normalize(vectors, dim=1)
                return vectors.cpu().numpy(), sum(lengths)
        except (RuntimeError, IndexError, ValueError) as exc:
            raise local.translated(exc) from exc

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
        with self._tokenizing:
            return dict(model.preprocess(texts, prompt=self._prompts[kind] or None, task=kind))


def _lengths(features: dict[str, Any], texts: int) -> list[int]:
    mask = features.get("attention_mask")
    found: list[int] = [0] * texts if mask is None else mask.sum(dim=1).tolist()
    return found


def _moved(features: dict[str, Any], device: Any) -> dict[str, Any]:
    return {name: value.to(device) for name, value in features.items() if hasattr(value, "to")}


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
    model: Any, folder: Path, options: LocalOptions, *, prompts: dict[Kind, str], normalize: bool, batch: int
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
        max_batch_items=batch,
        max_batch_tokens=local.CPU_BATCH_TOKENS if on_cpu else local.ACCELERATOR_BATCH_TOKENS,
        shares_cpu=on_cpu,
    )


def load(spec: ModelSpec) -> SentenceTransformerEmbedder:
    """Find the checkpoint, verify it where its digest is known, and load it; this may download it."""
    options = read_options(spec, LocalOptions)
    torch, sentence_transformers = local.libraries("torch", "sentence_transformers")
    dtype = local.number_type(torch, options.dtype, options.device, "auto")
    folder = find_checkpoint(options.checkpoint, options.revision)
    try:
        model = sentence_transformers.SentenceTransformer(
            str(folder),
            device=options.device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype},
        )
    except Exception as exc:  # whatever the libraries raise, the checkpoint cannot be used as it is
        raise local.unloadable(options.checkpoint, exc) from exc
    model.eval()
    embedder = SentenceTransformerEmbedder(model, folder, options)
    embedder.embed([traits.PROBE], "query")  # fails now rather than at the first row, and warms up
    return embedder


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("sentence_transformers", "pg_embed.models.sentence_transformers:load")
