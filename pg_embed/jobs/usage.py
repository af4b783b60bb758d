"""What is used of models, added up in memory and told to the database every few seconds.

Of a vectorizer with a budget it is told at once: the next claim must know of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pg_embed import statements
from pg_embed.errors import ModelMisconfigured, storable
from pg_embed.log import event, logger
from pg_embed.records import Embeddings, Scores

SQL = statements.load("usage")
Pool = AsyncConnectionPool[Any]

log = logger("usage")


@dataclass
class Use:
    """What was used of a model: calls, texts, their bytes, and tokens as the model counts them."""

    requests: int = 0
    inputs: int = 0
    bytes: int = 0
    tokens: int = 0
    reused: int = 0  # texts whose vectors were known, or made for an equal one

    def add(self, other: Use) -> None:
        """One more use."""
        self.requests += other.requests
        self.inputs += other.inputs
        self.bytes += other.bytes
        self.tokens += other.tokens
        self.reused += other.reused


class Ledger:
    """Sums by model and vectorizer, None for whatever is no vectorizer's, since they were last told."""

    def __init__(self, refused_wait: float = 60.0) -> None:
        self._refused_wait = refused_wait  # seconds before a refused account is tried again
        self.pool: Pool | None = None  # while there is a connection
        self.is_stale = False  # budgets may have been set since they were read
        self._uses: dict[tuple[str, int | None], Use] = {}
        self._budgeted: frozenset[int] = frozenset()
        self._telling = asyncio.Lock()
        self._is_well = True

    def add(
        self, model: str, vectorizer: int | None, texts: Sequence[str], found: Embeddings | Scores
    ) -> None:
        """A call's result; what came from memory alone has used nothing."""
        if found.requests or found.tokens:
            use = Use(found.requests, len(texts), sum(map(_bytes, texts)), found.tokens)
            self._uses.setdefault((model, vectorizer), Use()).add(use)

    def reuse(self, model: str, vectorizer: int, texts: int) -> None:
        """So many texts had their vectors without a call."""
        if texts:
            self._uses.setdefault((model, vectorizer), Use()).add(Use(reused=texts))

    def is_budgeted(self, vectorizer: int) -> bool:
        """Whether its use should be told at once."""
        return vectorizer in self._budgeted

    async def tell(self) -> None:
        """Write the sums down, and learn of budgets; while the database is away the sums are kept."""
        async with self._telling:
            uses, self._uses = self._uses, {}
            if not uses:
                await self._learn()
                return
            self.is_stale = False
            told = [
                {"model": model, "vectorizer": vectorizer, **asdict(use)}
                for (model, vectorizer), use in uses.items()
            ]
            budgeted = await self._ask("use", {"uses": Jsonb(told)})
            if budgeted is None:
                for key, use in uses.items():
                    self._uses.setdefault(key, Use()).add(use)
            else:
                self._budgeted = frozenset(budgeted)

    async def _learn(self) -> None:
        if not self.is_stale:
            return
        self.is_stale = False
        budgeted = await self._ask("budgets", {})
        if budgeted is not None:
            self._budgeted = frozenset(budgeted)

    async def refuse(self, model: str, error: ModelMisconfigured) -> None:
        """A provider refuses the account: nobody calls the model for now."""
        parameters = {"model": model, "refusal": storable(str(error)), "wait": self._refused_wait}
        if await self._ask("refuse", parameters):
            text = f"{model} is paused: {error}"
            event(log, logging.WARNING, "model_paused", text, model=model, error=str(error))

    async def _ask(self, statement: str, parameters: dict[str, Any]) -> Any:
        """The one value; None, and one line in the log, while the database does not answer."""
        if self.pool is None:
            return None
        try:
            async with self.pool.connection() as connection:
                row = await (await connection.execute(SQL[statement], parameters)).fetchone()
        except (psycopg.Error, PoolTimeout) as exc:
            if self._is_well:
                event(log, logging.WARNING, "usage_lost", f"usage is not told: {exc}", error=str(exc))
            self._is_well = False
            return None
        self._is_well = True
        return row[0] if row else None


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
