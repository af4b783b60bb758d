"""The values that go from room to room: frozen, small, and without behaviour of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["query", "document"]
Metric = Literal["cosine", "ip", "l2"]
Output = Literal["dense"]


class Priority(IntEnum):
    """Who goes first in a model's queue; a smaller number is served earlier."""

    QUERY = 0
    LIVE = 1
    BACKFILL = 2


@dataclass(frozen=True)
class ModelSpec:
    """A model as the catalog names it: enough to load it, nothing secret in it."""

    name: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for two names of one configuration, so that it is loaded once."""
        return json.dumps([self.family, dict(self.options)], sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Card:
    """What a model is and how it wants to be fed.

    `space_id` fingerprints all that changes the vectors (weights, pooling, prompts, dimensions, special
    tokens); device, dtype and batch size are left out: vectors that differ by rounding alone may be mixed.
    """

    family: str
    checkpoint: str
    outputs: tuple[Output, ...]
    dimensions: int
    max_tokens: int
    metric: Metric
    space_id: str
    concurrency: int = 1  # calls that the model takes at the same time
    max_batch_items: int = 32  # texts a call
    max_batch_tokens: int = 16_384  # tokens a call, counted as `padded` says
    padded: bool = True  # a call costs its longest text times their count; else the sum of its texts
    shares_cpu: bool = (
        False  # computes on this machine's processors: bulk calls then run at a lower OS priority
    )

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON types, for the wire and the catalog."""
        return {**self.__dict__, "outputs": list(self.outputs)}


@dataclass(frozen=True)
class Embeddings:
    """One call's result: `dense` is float32 of shape (texts, dimensions), in the order of the texts."""

    dense: npt.NDArray[np.float32]
    tokens: int = 0  # tokens that the call used, as the model or the provider counts them
