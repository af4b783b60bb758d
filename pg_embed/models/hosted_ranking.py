"""What the hosted rerankers share: their options, and the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pg_embed.models.calls import ServerOptions, ask, packed
from pg_embed.models.hosted import Endpoint
from pg_embed.models.space import space_id
from pg_embed.models.tokens import estimate_tokens
from pg_embed.records import Allowance, Card, Scores


@dataclass(frozen=True, kw_only=True)
class RankingOptions(ServerOptions):
    """What a provider's family of rerankers can be told."""

    model: str


@dataclass(frozen=True)
class RankingLimits:
    """What a provider says of a reranker: tokens a query with a text, texts and tokens a call.

    The tokens of a call are those of the query as often as there are texts, and those of the texts.
    `listwise`: the scores of a call depend on all its texts.
    """

    max_tokens: int
    max_batch_items: int
    max_batch_tokens: int
    listwise: bool = False


class RankingContract(Protocol):
    """One provider's API: how scores are asked for, and where they stand in the answer."""

    @property
    def card(self) -> Card:
        """The model's card."""

    def request(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """The body of a call; an empty text is sent as a space, for no provider takes empty ones."""

    def answer(self, told: Any, count: int) -> Scores:
        """What the answer to so many texts says; KeyError and its like if it is not the contract's."""


class HostedReranker:
    """A reranker behind an endpoint, asked and understood by its provider's contract."""

    def __init__(self, contract: RankingContract, endpoint: Endpoint) -> None:
        self._contract = contract
        self._endpoint = endpoint
        self.card = contract.card

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate: a third of the UTF-8 bytes."""
        return estimate_tokens(texts)

    def rerank(self, query: str, texts: Sequence[str]) -> Scores:
        """One call, or several where the tokens are too many for one and the scores do not depend on it."""
        costs = [(cost,) for cost in self._costs(query, texts)]
        runs = (
            [slice(None)] * bool(texts)
            if self.card.listwise
            else packed(costs, (self.card.max_batch_tokens,))
        )
        parts = [self._call(query, texts[run]) for run in runs]
        return Scores(
            np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)]),
            sum(part.tokens for part in parts),
        )

    def allowance(self) -> Allowance | None:
        """What the last answer to this thread said of limits; told once."""
        return self._endpoint.allowance()

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def _costs(self, query: str, texts: Sequence[str]) -> list[int]:
        """The query is read with every text."""
        (asked,) = self.count_tokens([query])
        return [asked + tokens for tokens in self.count_tokens(texts)]

    def _call(self, query: str, texts: Sequence[str]) -> Scores:
        request = self._contract.request(query or " ", texts)
        found = ask(self._endpoint, request, lambda told: self._contract.answer(told, len(texts)))
        return found if found.tokens else Scores(found.scores, sum(self._costs(query, texts)))


def ranking_card(
    family: str, model: str, server: str | None, options: ServerOptions, limits: RankingLimits, **facts: Any
) -> Card:
    """The card of a reranker; the model, its server and `facts` tell what changes the scores."""
    return Card(
        family=family,
        checkpoint=model,
        outputs=("score",),
        dimensions=1,
        max_tokens=options.max_tokens or limits.max_tokens,
        metric="ip",
        space_id=space_id(family, model=model, server=server, **facts),
        concurrency=options.concurrency,
        max_batch_items=options.max_batch_items or limits.max_batch_items,
        max_batch_tokens=options.max_batch_tokens or limits.max_batch_tokens,
        padded=False,
        listwise=limits.listwise,
    )
