"""Splitting by structure: Markdown's headings, fences and tables; the syntax of code."""

from __future__ import annotations

import pytest

from pg_embed.chunks import Chunking, Counter, split
from pg_embed.chunks.grammars import GRAMMARS, grammar
from pg_embed.chunks.markdown import blocks

FENCE = "```python\nfirst = 1\n\n\n# not a heading\nsecond = 2\n```"
TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
WORDS = "Some words that say what is to be done. And a few more of them. "
GUIDE = f"""# Guide

{WORDS * 2}

## Install

### Linux

{WORDS}

{FENCE}

{WORDS}

{TABLE}

### macOS

Say make.

Use
===

{WORDS * 3}
"""


def test_headings_are_the_context(minilm_counter: Counter) -> None:
    chunks = split(GUIDE, Chunking(100, split="markdown", headings=True), minilm_counter)
    assert [chunk.context for chunk in chunks] == [
        "Guide",
        *["Guide > Install > Linux"] * (len(chunks) - 3),
        "Guide > Install > macOS",
        "Use",
    ]
    assert chunks[-2].text == "### macOS\n\nSay make."
    assert chunks[1].text.startswith("## Install\n\n### Linux\n\nSome")
    assert all(minilm_counter(chunk.input) <= 100 for chunk in chunks)


@pytest.mark.parametrize("whole", [FENCE, TABLE])
@pytest.mark.parametrize("size", [40, 60, 80])
def test_what_fits_is_not_torn(whole: str, size: int, minilm_counter: Counter) -> None:
    assert any(
        whole in chunk.text for chunk in split(GUIDE, Chunking(size, split="markdown"), minilm_counter)
    )


def test_a_heading_stays_with_what_follows(minilm_counter: Counter) -> None:
    for size in range(30, 120, 10):
        for chunk in split(GUIDE, Chunking(size, split="markdown"), minilm_counter):
            assert not chunk.text.splitlines()[-1].startswith("#" * 2)


def test_a_fence_that_does_not_fit_is_cut_between_lines(minilm_counter: Counter) -> None:
    text = "```\n" + "".join(f"line_{row} = {row} + 1\n" for row in range(200)) + "```\n"
    chunks = split(text, Chunking(60, split="markdown"), minilm_counter)
    assert len(chunks) > 10
    assert all(set(chunk.text.split("\n")) <= set(text.split("\n")) for chunk in chunks)


def test_front_matter_and_windows_line_ends_are_no_headings() -> None:
    text = "---\r\ntitle: x\r\n---\r\n\r\n# One\r\n\r\nText.\r\n\r\n## Two *more*\r\n"
    found = blocks(text)
    assert [(block.level, block.title) for block in found] == [(0, ""), (1, "One"), (2, "Two *more*")]
    assert text[found[1].start : found[1].end] == "# One\r\n\r\n"


def test_a_path_that_is_too_long_loses_its_outermost_headings(minilm_counter: Counter) -> None:
    text = f"# {'very long ' * 40}\n\n## Short\n\n{WORDS}"
    assert split(text, Chunking(60, split="markdown", headings=True), minilm_counter)[-1].context == "Short"


def test_functions_that_fit_are_not_torn(minilm_counter: Counter) -> None:
    functions = [
        f"def add_{row}(one, two):\n    if one:\n        return two\n    return one" for row in range(40)
    ]
    text = "import os\n\n\n" + "\n\n\n".join(functions) + "\n"
    chunks = split(text, Chunking(100, split="code", language="python"), minilm_counter)
    assert len(chunks) > 5
    for function in functions:
        assert any(function in chunk.text for chunk in chunks)


def test_a_class_is_cut_at_its_methods(minilm_counter: Counter) -> None:
    methods = [f"    def add_{row}(self):\n        one = {row}\n        return one" for row in range(30)]
    text = "class A:\n" + "\n\n".join(methods) + "\n"
    chunks = split(text, Chunking(100, split="code", language="python"), minilm_counter)
    assert all(chunk.text.startswith(("class A", "    def")) for chunk in chunks)


@pytest.mark.parametrize("language", sorted(GRAMMARS))
def test_every_grammar_loads(language: str, minilm_counter: Counter) -> None:
    assert grammar(language) is not None
    [chunk] = split("x = 1;\n", Chunking(split="code", language=language), minilm_counter)
    assert chunk.text == "x = 1;"
