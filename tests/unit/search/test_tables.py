"""Names of tables, read as SQL reads them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from psycopg import sql

from pg_embed.errors import InvalidArgument
from pg_embed.search import Search, identifier


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("docs", '"docs"'),
        ("Docs", '"docs"'),
        (" shop.Docs ", '"shop"."docs"'),
        ('"My Docs"', '"My Docs"'),
        ('shop . "a.""b"', '"shop"."a.""b"'),
        ("ärger", '"ärger"'),
    ],
)
def test_a_name_is_read_as_sql_reads_it(text: str, quoted: str) -> None:
    assert identifier(text).as_string() == quoted


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a.b.c", '"', '""', "docs; DROP TABLE docs", 'a"b', "a.", ("shop", "docs"), None, 3],
)
def test_what_is_no_name_is_told(text: Any) -> None:
    with pytest.raises(InvalidArgument, match="no name of a table"):
        identifier(text)


def test_an_identifier_is_taken_as_it_is() -> None:
    assert identifier(sql.Identifier("A b")).as_string() == '"A b"'


def test_columns_are_quoted() -> None:
    statement = Search("docs", "q", columns=["id", 'ti"tle']).statement().as_string()
    assert '(s.hit)."id", (s.hit)."ti""tle", s.score' in statement
    for wrong in ([], "id"):
        with pytest.raises(InvalidArgument, match="no columns"):
            Search("docs", "q", columns=wrong).statement()


def test_importing_it_loads_nothing_heavy() -> None:
    program = (
        "import sys, pg_embed.search; print([n for n in ('numpy', 'torch', 'transformers', 'rich', 'httpx')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
