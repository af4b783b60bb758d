"""What stands on a transformer's last layer and makes the outputs of its states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pg_embed.models.pooling import Pooling, pool
from pg_embed.models.results import Float32
from pg_embed.records import Embeddings, Output, Outputs


@dataclass(frozen=True)
class Batch:
    """A forward pass over texts that are padded on the right."""

    read: Sequence[Sequence[int]]  # token ids of each text
    header: int  # tokens that stand before every text
    lengths: Any  # tensor of shape (texts,): tokens of each
    mask: Any  # tensor of shape (texts, tokens): true where a token is no padding
    states: Any  # tensor of shape (texts, tokens, dimensions): the last layer's


class Head(Protocol):
    """Outputs of a batch, for one thread or several; sizes as the card has them."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What it can make."""

    @property
    def dimensions(self) -> int:
        """Of the first output."""

    @property
    def sparse_dimensions(self) -> int | None:
        """Of sparse vectors, if it makes several outputs."""

    @property
    def multi_dimensions(self) -> int | None:
        """Of token vectors, if it makes several outputs."""

    def __call__(self, batch: Batch, outputs: Outputs) -> Embeddings:
        """Those outputs that are asked for, or more."""


@dataclass(frozen=True)
class DenseHead:
    """One vector of length 1 a text."""

    pooling: Pooling
    dimensions: int  # the first of the states', which is all or fewer
    outputs: tuple[Output, ...] = ("dense",)
    sparse_dimensions: None = None
    multi_dimensions: None = None

    def __call__(self, batch: Batch, outputs: Outputs) -> Embeddings:
        """The same whatever is asked for."""
        return Embeddings(dense=self.vectors(batch))

    def vectors(self, batch: Batch) -> Float32:
        """Float32 of shape (texts, dimensions)."""
        import torch

        pooled = pool(self.pooling, batch.states, batch.lengths, batch.header)[:, : self.dimensions]
        unit: Float32 = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return unit
