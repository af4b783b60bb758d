"""The statements that Python sends, read from `sql/queries`: a `-- name:` line, a sentence, the SQL."""

from __future__ import annotations

import re
from functools import cache
from typing import LiteralString, cast

from pg_embed.resources import sql_dir

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_SENTENCE = re.compile(r"\A(--.*\n)+")


@cache
def load(room: str) -> dict[str, LiteralString]:
    """All statements of one file by name; they are the package's own text, hence trusted as literals."""
    parts = _NAME.split((sql_dir() / "queries" / f"{room}.sql").read_text(encoding="utf-8"))
    return {
        name: cast(LiteralString, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


@cache
def fragments(room: str) -> dict[str, LiteralString]:
    """The same without their sentences, for what stands inside other statements."""
    return {name: _SENTENCE.sub("", text) for name, text in load(room).items()}
