"""The libraries that split: they are loaded when a text is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pg_embed.errors import MissingExtra

GRAMMARS = {  # by language: the package of its grammar, and the function that gives it
    "bash": ("tree_sitter_bash", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "python": ("tree_sitter_python", "language"),
    "ruby": ("tree_sitter_ruby", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
}


def library(module: str, extra: str = "chunks") -> Any:
    """The module; a missing one is an error that names the extra."""
    try:
        return import_module(module)
    except ImportError as exc:
        raise MissingExtra(
            f"a package that splits texts is missing: {exc}", hint=f"pip install 'pg-embed[{extra}]'"
        ) from exc


def grammar(language: str) -> Any:
    """The language's grammar, as the splitter takes it; raises MissingExtra."""
    module, function = GRAMMARS[language]
    return getattr(library(module, "code"), function)()
