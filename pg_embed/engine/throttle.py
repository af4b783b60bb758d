"""One model's way through a throttle: calls are cut to size, reserved, and settled."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import replace

from pg_embed.errors import ModelUnavailable, PgEmbedError
from pg_embed.protocols import Throttle
from pg_embed.records import Allowance, CallLimit, Card, ModelSpec, Priority, Reservation


class Gate:
    """Open for good where there is no throttle, and while the model has no limits."""

    def __init__(self, card: Card, spec: ModelSpec, throttle: Throttle | None) -> None:
        self._whole = self._cut = card
        self._spec = spec
        self._throttle = throttle
        self._limit: CallLimit | None = None
        self._reserved: dict[Hashable, Reservation] = {}

    @property
    def is_open(self) -> bool:
        """Whether a call may go without asking."""
        return self._throttle is None or self._throttle.limit(self._spec) is None

    @property
    def card(self) -> Card:
        """The model's card, with calls no larger than the limits make sensible."""
        limit = None if self._throttle is None else self._throttle.limit(self._spec)
        if limit != self._limit:
            self._limit = limit
            self._cut = self._whole if limit is None else _cut(self._whole, limit)
        return self._cut

    async def admit(self, call: Hashable, items: int, tokens: int, priority: Priority) -> float:
        """Wait until the call may go; the seconds that it waited."""
        if self._throttle is None:
            return 0.0
        reservation = await self._throttle.reserve(self._spec, items, tokens, priority)
        self._reserved[call] = reservation
        await asyncio.sleep(reservation.seconds)
        return reservation.seconds

    def settle(
        self, call: Hashable, tokens: int, allowance: Allowance | None, error: PgEmbedError | None
    ) -> None:
        """The call ended."""
        reservation = self._reserved.pop(call, None)
        if self._throttle is not None and (reservation is not None or _tells(error)):
            used = tokens if error is None else None
            self._throttle.settle(self._spec, reservation, used, allowance, error)


def _tells(error: PgEmbedError | None) -> bool:
    return isinstance(error, ModelUnavailable) and error.limited


def _cut(card: Card, limit: CallLimit) -> Card:
    return replace(
        card,
        max_batch_items=min(card.max_batch_items, limit.items or card.max_batch_items),
        max_batch_tokens=min(card.max_batch_tokens, limit.tokens or card.max_batch_tokens),
    )
