"""What the families of bare transformers share: what they are told, batches, and the way to vectors.

Each of these families says how the authors of its checkpoints feed and read them; a checkpoint's own code and
its settings for sentence-transformers are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pg_embed.errors import InputRejected
from pg_embed.models import local
from pg_embed.models.budget import Budget
from pg_embed.models.heads import Batch, Head
from pg_embed.models.pooling import Pooling
from pg_embed.models.results import check_finite, in_order, no_rows
from pg_embed.models.tokens import estimate_tokens
from pg_embed.models.vocabulary import Vocabulary
from pg_embed.records import VECTORS, Card, Embeddings, Kind, Metric, Outputs

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"

Headers = Mapping[Kind, str]  # what stands before every text of a kind


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Which checkpoints a family loads, and how."""

    name: str
    model_type: str  # of the configuration; another one is an error
    begin: tuple[str, ...]  # special tokens before everything
    end: tuple[str, ...]  # and behind it
    max_tokens: int  # unless told; whatever stands around a text counts
    longest: int  # the most that max_tokens may be told, if the checkpoint can do it
    bidirectional: bool = False  # tokens see later ones, though the configuration may not say so
    accelerated: local.NumberType = "bfloat16"  # unless told, on anything but a CPU
    first_position: int = 0  # learned positions that no token has
    model_class: str | None = None  # the whole model with its head; else all but the head


@dataclass(frozen=True, kw_only=True)
class Family(Architecture):
    """How checkpoints of one kind are fed and read."""

    pooling: Pooling


@dataclass(frozen=True)
class CheckpointOptions:
    """What every family of bare transformers can be told."""

    checkpoint: str
    revision: str | None = None
    device: str | None = None
    dtype: local.NumberType | None = None
    max_tokens: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class TransformerOptions(CheckpointOptions):
    """Those that make vectors are told, too, how these are compared."""

    metric: Metric = "cosine"


@dataclass(frozen=True)
class InstructedOptions(TransformerOptions):
    """The task that queries are told, in English; an empty one leaves queries as documents are."""

    instruction: str = WEB_SEARCH


class TransformerEmbedder:
    """A checkpoint in memory: two calls may compute at once, but only one at a time tokenises."""

    def __init__(
        self,
        model: Any,
        head: Head,
        vocabulary: Vocabulary,
        family: Family,
        headers: Headers,
        card: Card,
    ) -> None:
        self._model = model
        self._head: Any = head
        self._vocabulary = vocabulary
        self._pooling = family.pooling
        self._headers = headers
        self._header_ids = {kind: vocabulary.header(header) for kind, header in headers.items()}
        self._padding = model.config.pad_token_id or 0
        self._budget = Budget(card.max_batch_tokens)
        self.card = card

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, a third of the UTF-8 bytes, but at most `max_tokens`."""
        limit = self.card.max_tokens
        return [min(count, limit) for count in estimate_tokens(texts, self._headers["document"])]

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """Batches of texts of like length, the longest first; smaller ones once memory has run out."""
        read = self._vocabulary.read(self._headers[kind], texts, self.card.max_tokens)
        header = self._header_ids[kind]
        if self._pooling == "mean" and any(ids[: len(header)] != header for ids in read):
            raise InputRejected("the tokenizer joins the beginning of a text with the header before it")
        if not texts:
            return no_rows(self.card, outputs)
        lengths = [len(ids) for ids in read]
        found = list(
            self._budget.batched(
                batches(lengths, self.card.max_batch_items, self.card.max_batch_tokens),
                lengths,
                lambda rows: self._forward([read[row] for row in rows], len(header), outputs),
            )
        )
        embeddings = in_order([part for _, part in found], [rows for rows, _ in found])
        check_finite(embeddings)
        return embeddings

    def measure_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a document, as the tokenizer counts them and `embed` uses them."""
        read = self._vocabulary.read(self._headers["document"], texts, self.card.max_tokens)
        return [len(ids) for ids in read]

    def close(self) -> None:
        """Let the weights go."""
        self._model = self._head = None
        local.release_memory()

    def _forward(self, read: list[list[int]], header: int, outputs: Outputs) -> Embeddings:
        import torch

        model = self._model
        try:
            with torch.inference_mode():
                lengths = torch.tensor([len(ids) for ids in read], device=model.device)
                ids = torch.tensor(padded(read, self._padding), device=model.device)
                mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
                states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
                batch = Batch(read, header, lengths, mask, states)
                made: Embeddings = self._head(batch, outputs)
                return replace(made, tokens=sum(map(len, read)))
        except local.COMPUTING as exc:
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


def padded(rows: list[list[int]], padding: int, *, left: bool = False) -> list[list[int]]:
    """Rows of one length, with `padding` behind or before the shorter ones."""
    longest = max(map(len, rows))
    gaps = [[padding] * (longest - len(row)) for row in rows]
    return [gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)]
