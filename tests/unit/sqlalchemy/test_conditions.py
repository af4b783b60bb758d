"""Which conditions a search takes in, and that no value of theirs becomes text of a statement."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import asyncpg, psycopg

from pg_embed.sqlalchemy import search
from pg_embed.sqlalchemy.conditions import _dollars, is_about

KEY = Column("id", Integer, primary_key=True)
docs = Table("docs", MetaData(), KEY, Column("lang", Text), Column("$c$", Text))
other = Table("other", MetaData(), Column("id", Integer, primary_key=True))
LANG = docs.c.lang


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        (LANG == "en", True),
        (func.lower(LANG).in_(["en"]), True),
        ((LANG == "en") | (docs.c.id > 5), True),
        (bindparam("lang") == LANG, True),
        (docs.c.id == other.c.id, False),
        (docs.alias().c.lang == "en", False),
        (docs.c.id.in_(select(other.c.id)), False),
        (text("lang = 'en'"), False),
        (literal_column("lang") == "en", False),
        (LANG.in_(bindparam("langs", expanding=True)), False),
        (func.random() < 0.5, False),
    ],
)
def test_only_what_is_about_the_table_alone_is_taken_in(condition: Any, taken: bool) -> None:
    assert is_about(condition, docs) is taken


@pytest.mark.parametrize("dialect", [psycopg.dialect(), asyncpg.dialect(), None])
def test_values_are_parameters_and_names_are_quoted_by_dollars(dialect: Any) -> None:
    statement = search(docs, "a query").where(LANG == "secret", docs.c["$c$"] == "$c$")
    compiled = statement.compile(dialect=dialect)
    assert "secret" not in str(compiled)
    assert "a query" not in str(compiled)
    assert list(compiled.params.values()).count("secret") == 2
    assert re.search(r'\$c1\$\("\$c\$" = \$c1\$', str(compiled))


@pytest.mark.parametrize("inner", ["", "a", "$c$", "$c$ $c1$", "'", "%%", "$"])
def test_a_text_is_quoted_by_a_tag_that_is_not_in_it(inner: str) -> None:
    quoted = re.fullmatch(r"(\$c\d*\$)(.*)\1", _dollars(inner), re.DOTALL)
    assert quoted is not None
    assert quoted[2] == inner
    assert quoted[1] not in inner


def test_a_search_without_conditions_has_none() -> None:
    assert "condition => CAST(NULL AS TEXT)" in str(search(docs, "a query"))


def test_nothing_heavy_is_loaded() -> None:
    look = "print([name for name in ('torch', 'httpx', 'transformers') if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, pg_embed.sqlalchemy; {look}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "[]"
