"""What `search` finds, and how it tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pg_embed import db, statements
from pg_embed.errors import InvalidArgument
from pg_embed.search import Search, identifier

LENGTH = 200  # characters of a value that a table shows
EXPLAINED = ("dense_rank", "dense_score", "sparse_rank", "sparse_score", "rerank_score")


def find(
    dsn: str,
    table: str,
    query: str,
    columns: Sequence[str] | None,
    options: Mapping[str, Any],
    filters: str | None,
    *,
    explain: bool,
) -> list[dict[str, Any]]:
    """The answers: score, what explains it if wanted, and the row."""
    chosen = {**options, "filter": None if filters is None else _filter(filters)}
    with db.connect(dsn) as connection:
        shown = columns or _columns(connection, identifier(table).as_string(connection))
        hits = Search(table, query, columns=shown, **chosen).run(connection)
    told = ("score", *EXPLAINED) if explain else ("score",)
    return [{**{name: asdict(hit)[name] for name in told}, "row": hit.row} for hit in hits]


def for_people(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line each, long texts cut."""
    lines = []
    for number, answer in enumerate(found, 1):
        told = {"rank": number, **{name: value for name, value in answer.items() if name != "row"}}
        row = {
            (f"row.{name}" if name in told else name): _short(value) for name, value in answer["row"].items()
        }
        lines.append({**told, **row})
    return lines


def _columns(connection: Any, table: str) -> list[str]:
    with db.translated():
        rows = connection.execute(statements.load("search")["columns"], {"table": table}).fetchall()
    return [row[0] for row in rows]


def _filter(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        hint = """as in --filter '{"lang": "en", "year": {">=": 2020}}'"""
        raise InvalidArgument(f"the filter is not JSON: {exc}", hint=hint) from exc


def _short(value: Any) -> Any:
    text = " ".join(value.split()) if isinstance(value, str) else value
    return f"{text[:LENGTH]}…" if isinstance(text, str) and len(text) > LENGTH else text
