"""The vectors of a query from whoever searches: what is asked for, and how it is given to the database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from pg_embed import db, statements

if TYPE_CHECKING:
    from pg_embed.records import ModelSpec, Output


@dataclass(frozen=True)
class Asked:
    """What a search asks of one model for its query: vectors of `size` dimensions in a space."""

    output: Output
    spec: ModelSpec
    space_id: str
    size: int

    def given(self, query: str, vector: str) -> dict[str, str]:
        """The answer, with the vector in the text form of its type in pgvector."""
        return {
            "query": query,
            "model": self.spec.name,
            "space_id": self.space_id,
            "output": self.output,
            "vector": vector,
        }


def read_asked(rows: Sequence[tuple[Any, ...]]) -> list[Asked]:
    """What embed._search_asks_v1 tells."""
    from pg_embed.records import ModelSpec  # NumPy, which a search needs not

    return [
        Asked(output, ModelSpec(name, family, options), space_id, size)
        for output, name, family, options, space_id, size in rows
    ]


def give(connection: psycopg.Connection[Any], given: Sequence[dict[str, str]]) -> None:
    """Let the searches of this transaction take these vectors; it replaces those given before."""
    with db.translated(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statements.load("search")["give"], {"given": json.dumps(given)})


async def give_async(connection: psycopg.AsyncConnection[Any], given: Sequence[dict[str, str]]) -> None:
    """The same over an asynchronous connection."""
    with db.translated():
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(statements.load("search")["give"], {"given": json.dumps(given)})
