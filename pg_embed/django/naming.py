"""Names beside a table's own, as Django writes tables: bare, or quoted and with a schema."""

from __future__ import annotations

import re

PART = re.compile(r'"((?:[^"]|"")*)"')


def beside(table: str, name: str) -> str:
    """A name in the schema of a table, which Django takes for a table's."""
    *schema, _ = _parts(table)
    if not schema and '"' not in name:
        return name
    return ".".join(f'"{part}"' for part in (*schema, name.replace('"', '""')))


def bare(table: str) -> str:
    """The name of a table without its schema."""
    return _parts(table)[-1].replace('""', '"')


def chunk_names(table: str, chunk_table: str | None, chunk_view: str | None) -> tuple[str, str]:
    """The names of the table of a table's chunks and of its view, without a schema."""
    return chunk_table or f"{bare(table)}_embedding", chunk_view or f"{bare(table)}_chunks"


def _parts(table: str) -> list[str]:
    """Schema and name, or the name alone, as they stand between quotes."""
    is_quoted = table.startswith('"') and table.endswith('"')
    return PART.findall(table if is_quoted else f'"{table}"') or [table]
