"""What the rerankers of bare transformers share: pairs of a query and a text, batches, and the way to scores.

As with the embedders, each family says how the authors of its checkpoints feed and read them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pg_embed.errors import InputRejected
from pg_embed.models import local
from pg_embed.models.budget import Budget
from pg_embed.models.tokens import estimate_tokens
from pg_embed.models.transformer import Architecture, batches, padded
from pg_embed.models.vocabulary import Vocabulary
from pg_embed.records import Card, Scores

Float32 = npt.NDArray[np.float32]
Activation = Literal["sigmoid", "none"]


@dataclass(frozen=True, kw_only=True)
class RerankerFamily(Architecture):
    """How checkpoints of one kind are fed and read."""

    truncation: str  # how long pairs are cut, in words; part of the space
    labels: int | None = 1  # of a classifier; another number is an error
    padded: bool = True  # as on the card


class Pairs(ABC):
    """How a family puts pairs together and reads the answer; as it stands, that of a classifier."""

    around = 0  # tokens that max_tokens must have besides those of a text
    left = False  # pads before the tokens, not behind them

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @abstractmethod
    def read(self, query: str, texts: Sequence[str], max_tokens: int) -> list[list[list[int]]]:
        """Of each text the rows of token ids that the model is to read, one at least, each of `max_tokens`.

        The text's score is the best of its rows.
        """

    def count_tokens(self, texts: Sequence[str], max_tokens: int) -> list[int]:
        """An estimate, a third of the UTF-8 bytes, but at most `max_tokens`; the query is not counted."""
        return [min(count, max_tokens) for count in estimate_tokens(texts)]

    def logits(self, model: Any, ids: Any, mask: Any) -> Any:
        """One number a row, of rows of token ids of shape (rows, tokens)."""
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].float()


class TransformerReranker:
    """A checkpoint in memory: two calls may compute at once, but only one at a time tokenises."""

    def __init__(self, model: Any, pairs: Pairs, activation: Activation, card: Card) -> None:
        self._model = model
        self._pairs = pairs
        self._activation = activation
        self._padding = model.config.pad_token_id or 0
        self._budget = Budget(card.max_batch_tokens)
        self.card = card

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, as the family's pairs have it."""
        return self._pairs.count_tokens(texts, self.card.max_tokens)

    def rerank(self, query: str, texts: Sequence[str]) -> Scores:
        """Batches of pairs of like length, the longest first; smaller ones once memory has run out."""
        read = self._pairs.read(query, texts, self.card.max_tokens)
        rows = [row for rows in read for row in rows]
        found = np.empty(len(rows), np.float32)
        lengths = [len(row) for row in rows]
        for chosen, part in self._budget.batched(
            batches(lengths, self.card.max_batch_items, self.card.max_batch_tokens),
            lengths,
            lambda chosen: self._forward([rows[number] for number in chosen]),
        ):
            found[chosen] = part
        if not np.isfinite(found).all():
            raise InputRejected("a score is not finite", hint="the option dtype 'float32' may help")
        firsts = np.cumsum([0, *map(len, read)])[:-1]
        scores = np.maximum.reduceat(found, firsts) if rows else found
        return Scores(scores=scores, tokens=sum(map(len, rows)))

    def close(self) -> None:
        """Let the weights go."""
        self._model = None
        local.release_memory()

    def _forward(self, rows: list[list[int]]) -> Float32:
        import torch

        model, left = self._model, self._pairs.left
        try:
            with torch.inference_mode():
                ids = torch.tensor(padded(rows, self._padding, left=left), device=model.device)
                mask = padded([[1] * len(row) for row in rows], 0, left=left)
                logits = self._pairs.logits(model, ids, torch.tensor(mask, device=model.device))
                if self._activation == "sigmoid":
                    logits = torch.sigmoid(logits)
                scores: Float32 = logits.cpu().numpy()
                return scores
        except local.COMPUTING as exc:
            raise local.translated(exc) from exc
