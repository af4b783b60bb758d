"""What the families of bare transformers share: what they are told, batches, and the way to vectors.

Each of these families says how the authors of its checkpoints feed and read them; a checkpoint's own code and
its settings for sentence-transformers are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pg_embed.errors import InputRejected
from pg_embed.models import local
from pg_embed.models.pooling import Pooling, pool
from pg_embed.models.tokens import estimate_tokens
from pg_embed.models.vocabulary import Vocabulary
from pg_embed.records import VECTORS, Card, Embeddings, Kind, Metric, Outputs

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"

Float32 = npt.NDArray[np.float32]
Headers = Mapping[Kind, str]  # what stands before every text of a kind


@dataclass(frozen=True)
class Family:
    """How checkpoints of one kind are fed and read."""

    name: str
    model_type: str  # of the configuration; another one is an error
    pooling: Pooling
    begin: tuple[str, ...]  # special tokens before the header
    end: tuple[str, ...]  # and behind the text
    max_tokens: int  # unless told; header and special tokens count
    longest: int  # the most that max_tokens may be told, if the checkpoint can do it
    bidirectional: bool = False  # tokens see later ones, though the configuration may not say so
    accelerated: local.NumberType = "bfloat16"  # unless told, on anything but a CPU
    first_position: int = 0  # learned positions that no token has


@dataclass(frozen=True)
class TransformerOptions:
    """What every such family can be told."""

    checkpoint: str
    revision: str | None = None
    device: str | None = None
    dtype: local.NumberType | None = None
    max_tokens: int | None = None
    metric: Metric = "cosine"
    batch_size: int | None = None


@dataclass(frozen=True)
class InstructedOptions(TransformerOptions):
    """The task that queries are told, in English; an empty one leaves queries as documents are."""

    instruction: str = WEB_SEARCH


class TransformerEmbedder:
    """A checkpoint in memory: two calls may compute at once, but only one at a time tokenises."""

    def __init__(
        self, model: Any, vocabulary: Vocabulary, family: Family, headers: Headers, card: Card
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._pooling = family.pooling
        self._headers = headers
        self._header_ids = {kind: vocabulary.header(header) for kind, header in headers.items()}
        self._padding = model.config.pad_token_id or 0
        self.card = card

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, a third of the UTF-8 bytes, but at most `max_tokens`."""
        limit = self.card.max_tokens
        return [min(count, limit) for count in estimate_tokens(texts, self._headers["document"])]

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Batches of texts of like length, the longest first."""
        read = self._vocabulary.read(self._headers[kind], texts, self.card.max_tokens)
        header = self._header_ids[kind]
        if self._pooling == "mean" and any(ids[: len(header)] != header for ids in read):
            raise InputRejected("the tokenizer joins the beginning of a text with the header before it")
        dense = np.empty((len(texts), self.card.dimensions), np.float32)
        for rows in batches(
            [len(ids) for ids in read], self.card.max_batch_items, self.card.max_batch_tokens
        ):
            dense[rows] = self._forward([read[row] for row in rows], len(header))
        if not np.isfinite(dense).all():
            raise InputRejected(
                "a vector of the model is not finite", hint="the option dtype 'float32' may help"
            )
        return Embeddings(dense=dense, tokens=sum(map(len, read)))

    def measure_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a document, as the tokenizer counts them and `embed` uses them."""
        read = self._vocabulary.read(self._headers["document"], texts, self.card.max_tokens)
        return [len(ids) for ids in read]

    def close(self) -> None:
        """Let the weights go."""
        self._model = None
        local.release_memory()

    def _forward(self, read: list[list[int]], header: int) -> Float32:
        import torch

        model = self._model
        try:
            with torch.inference_mode():
                lengths = torch.tensor([len(ids) for ids in read], device=model.device)
                ids = torch.tensor(_padded(read, self._padding), device=model.device)
                mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
                states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
                vectors = pool(self._pooling, states, lengths, header)[:, : self.card.dimensions]
                unit: Float32 = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
                return unit
        except (RuntimeError, IndexError, ValueError) as exc:
            raise local.translated(exc) from exc


def batches(lengths: Sequence[int], items: int, tokens: int) -> Iterator[list[int]]:
    """Rows that go together, the longest first: so many, and so many tokens when padded to the longest."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if rows and (len(rows) == items or lengths[rows[0]] * (len(rows) + 1) > tokens):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _padded(read: list[list[int]], padding: int) -> list[list[int]]:
    longest = max(map(len, read))
    return [ids + [padding] * (longest - len(ids)) for ids in read]
