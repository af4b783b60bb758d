"""Tables as people name them, and as SQL quotes them."""

from __future__ import annotations

import re
from typing import Any

from psycopg import sql

from pg_embed.errors import InvalidArgument

Table = str | sql.Identifier
PART = r'"(?:[^"]|"")+"|[^\s".]+'
NAME = re.compile(rf"\s*({PART})(?:\s*\.\s*({PART}))?\s*")


def identifier(table: Table) -> sql.Identifier:
    """`docs`, `shop.docs` or `"My Docs"`, read as SQL reads it; an Identifier is taken as it is."""
    if isinstance(table, sql.Identifier):
        return table
    given: Any = table
    match = NAME.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        hint = 'write table or schema.table, with double quotes where SQL needs them: shop."My Docs"'
        raise InvalidArgument(f"{table!r} is no name of a table", hint=hint)
    return sql.Identifier(*(_plain(part) for part in match.groups() if part is not None))


def _plain(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()
