"""What `search` finds, and how it tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import typer

from pg_embed import db, statements
from pg_embed.cli.output import print_json
from pg_embed.errors import InvalidArgument
from pg_embed.search import ChunkHit, Hit, Search, identifier

LENGTH = 200  # characters of a value that a table shows
EXAMPLES = {
    "filter": """as in --filter '{"lang": "en", "year": {">=": 2020}}'""",
    "chunking": """as in --chunking '{"size": 256, "overlap": 32}'""",
    "boost": """as in --boost '{"published_at": {"half_life": "30 days", "weight": 0.5}}'""",
}
EXPLAINED = ("dense_rank", "dense_score", "sparse_rank", "sparse_score", "rerank_score")
OF_CHUNKS = ("chunk_score", "chunk_no", "context", "chunk")


def find(
    dsn: str,
    table: str,
    query: str | None,
    columns: Sequence[str] | None,
    options: Mapping[str, Any],
    *,
    explain: bool,
    chunks: int | None,
) -> list[dict[str, Any]]:
    """The answers: score, what explains it or so many chunks if wanted, and the row."""
    if explain and chunks is not None:
        raise InvalidArgument("ranks are of rows, not of chunks", hint="leave --explain or --chunks out")
    if query is None and options["key"] is None:
        raise InvalidArgument(
            "there is nothing to look for",
            hint='give a query, as in pg-embed search "money back" --table docs, or a row by --like KEY',
        )
    hits: Sequence[Hit | ChunkHit]
    with db.connect(dsn) as connection:
        shown = columns or _columns(connection, identifier(table).as_string(connection))
        search = Search(table, query, columns=shown, **options)
        hits = search.run(connection) if chunks is None else search.run_chunks(connection, per_row=chunks)
    told = ("score", *(EXPLAINED if explain else () if chunks is None else OF_CHUNKS))
    return [{**{name: asdict(hit)[name] for name in told}, "row": hit.row} for hit in hits]


def for_people(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line each, long texts cut."""
    lines = []
    for number, answer in enumerate(found, 1):
        told = {"rank": number, **{name: _short(value) for name, value in answer.items() if name != "row"}}
        row = {
            (f"row.{name}" if name in told else name): _short(value) for name, value in answer["row"].items()
        }
        lines.append({**told, **row})
    return lines


def print_plan(dsn: str, table: str, query: str | None, options: Mapping[str, Any], *, as_json: bool) -> None:
    """How the search would be run: all of it, or for people whether exactly, why, and Postgres' plan."""
    with db.connect(dsn) as connection:
        told = Search(table, query, **options).explain(connection)
    if as_json:
        print_json(told)
    else:
        way = "exactly, in one pass over the rows" if told["exact"] else "by index"
        typer.echo(f"{told['mode']}, {way}: {told['why']}\n\n{told['plan']}")


def read_json(option: str, text: str | None) -> Any:
    """What an option says in JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise InvalidArgument(f"the {option} is not JSON: {exc}", hint=EXAMPLES[option]) from exc


def _columns(connection: Any, table: str) -> list[str]:
    with db.translated():
        rows = connection.execute(statements.load("search")["columns"], {"table": table}).fetchall()
    return [row[0] for row in rows]


def _short(value: Any) -> Any:
    text = " ".join(value.split()) if isinstance(value, str) else value
    return f"{text[:LENGTH]}…" if isinstance(text, str) and len(text) > LENGTH else text
