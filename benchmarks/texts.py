"""Real text that every machine has: the docstrings of Python's standard library, cut into rows."""

from __future__ import annotations

import ast
import platform
import sysconfig
from functools import cache
from pathlib import Path

from benchmarks.common import cache_dir

CHARACTERS = 450  # of a row
STRIDE = 7919  # prime: neighbouring rows begin far apart, and no start is used twice
SKIPPED = {"test", "tests", "site-packages", "idlelib", "lib2to3", "__pycache__"}


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


@cache
def corpus() -> str:
    """All docstrings in one string with single spaces, made once and kept in the cache."""
    kept = cache_dir() / f"docstrings-{platform.python_version()}.txt"
    if not kept.exists():
        library = Path(sysconfig.get_path("stdlib"))
        files = sorted(
            path for path in library.rglob("*.py") if not SKIPPED & set(path.relative_to(library).parts)
        )
        joined = " ".join(text for path in files for text in _docstrings(path))
        temporary = kept.with_suffix(".tmp")
        temporary.write_text(" ".join(joined.replace("\x00", "").split()), encoding="utf-8")
        temporary.rename(kept)
    return kept.read_text(encoding="utf-8")


def rows(count: int, first: int = 0) -> list[str]:
    """`count` texts of 450 characters, (almost) all different; the same number always gives the same text."""
    text = corpus()
    span = len(text) - CHARACTERS
    if first + count > span:
        raise ValueError(f"there are only {span} places to cut a text from")
    if span % STRIDE == 0:
        span -= 1
    starts = ((first + i) * STRIDE % span for i in range(count))
    return [text[start : start + CHARACTERS] for start in starts]
