"""Real text that every machine has: the docstrings of Python's standard library, which is not imported."""

from __future__ import annotations

import ast
import os
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SKIPPED = {"site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3", "turtledemo", "pydoc_data"}
LENGTH = 240  # characters that a docstring is cut to, after its first paragraphs

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Docstring(NamedTuple):
    """A documented public function or class."""

    module: str
    name: str
    signature: str
    docstring: str


def edition(limit: int | None) -> str:
    """Names what `collect` would find here."""
    return f"Python {platform.python_version()}, {limit or 'all'} docstrings"


def collect(limit: int | None = None) -> list[Docstring]:
    """All of them, or so many from all over the library, each name once."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {(found.module, found.name): found for file in _files(root) for found in _documented(file, root)}
    texts = list(found.values())
    wanted = min(limit or len(texts), len(texts))
    return [texts[number * len(texts) // wanted] for number in range(wanted)]


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not (name in SKIPPED or _is_private(name)))
        yield from (
            Path(folder, name) for name in sorted(names) if name.endswith(".py") and not _is_private(name)
        )


def _is_private(name: str) -> bool:
    return (name.startswith("_") and name != "__init__.py") or name.startswith(("test", "config-"))


def _documented(file: Path, root: Path) -> Iterator[Docstring]:
    parts = file.relative_to(root).with_suffix("").parts
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # some files are there to be wrong
    yield from _inside(tree, ".".join(part for part in parts if part != "__init__"), ())


def _inside(node: ast.Module | ast.ClassDef, module: str, path: Sequence[str]) -> Iterator[Docstring]:
    for child in node.body:
        if (
            not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            or child.name[0] == "_"
        ):
            continue
        name = (*path, child.name)
        text = ast.get_docstring(child)
        if text:
            yield Docstring(module, ".".join(name), _signature(child), _cut(text))
        if isinstance(child, ast.ClassDef):
            yield from _inside(child, module, name)


def _signature(node: Function | ast.ClassDef) -> str:
    return "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"


def _cut(text: str) -> str:
    """Whole paragraphs from the start as far as they fit."""
    kept = text[:LENGTH] if len(text) > LENGTH else text
    whole, paragraph, _ = kept.rpartition("\n\n")
    return (whole if paragraph and len(text) > LENGTH else kept).replace("\0", "").strip()
