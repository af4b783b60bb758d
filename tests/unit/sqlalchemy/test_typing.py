"""What mypy knows of a user's program, with SQLAlchemy's types of rows."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from pg_embed.resources import PACKAGE
from pg_embed.search import Options, Search
from pg_embed.sqlalchemy import search, search_chunks
from pg_embed.sqlalchemy.search import ChunkOptions
from pg_embed.sqlalchemy.search import Options as SearchOptions

PROGRAM = Path(__file__).with_name("typed_program.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sqlalchemy.__version__ < "2.1", reason="the Select of 2.0 tells one type")
def test_a_users_program_is_typed(tmp_path: Path) -> None:
    assert (PACKAGE / "py.typed").is_file()
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("function", "told"), [(search, SearchOptions), (search_chunks, ChunkOptions)])
def test_the_options_that_are_typed_are_those_of_the_function(function: Any, told: Any) -> None:
    given = inspect.signature(function).parameters.values()
    assert {one.name for one in given if one.kind is one.KEYWORD_ONLY} == set(told.__annotations__)


def test_the_options_of_psycopgs_search_are_typed_too() -> None:
    assert {field.name for field in fields(Search)} - {"table", "query", "key"} == set(
        Options.__annotations__
    )
