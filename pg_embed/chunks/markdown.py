"""Markdown: its sections under headings, and the pieces of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pg_embed.chunks.grammars import library
from pg_embed.chunks.pieces import NEWLINE, Cut, Piece, Span, lines, measured, pieces_of_text

WHOLE = ("fence", "code_block", "table_open", "html_block")  # not torn when they fit
LIMITLESS = 1 << 62  # tokens
FRONT_MATTER = re.compile(r"\A---[^\S\r\n]*\r?\n.*?\r?\n---[^\S\r\n]*(?:\r?\n|\Z)", re.DOTALL)

EMPTY = re.compile(r"(?:[^\S\r\n]*" + NEWLINE + r")*")  # lines


@dataclass(frozen=True)
class Block:
    """A heading (its level from 1 to 6, and its title), or something that should stay whole (level 0)."""

    start: int
    end: int
    level: int = 0
    title: str = ""


@dataclass(frozen=True)
class Section:
    """What stands under one heading, with it, and the titles from the outermost heading to it."""

    start: int
    end: int
    path: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """Headings, code, tables and HTML in order, none within another, with the empty lines behind each."""
    front = FRONT_MATTER.match(text)
    offset = front.end() if front else 0
    parser = library("markdown_it").MarkdownIt("commonmark").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    starts = [offset, *(match.end() for match in re.compile(NEWLINE).finditer(text, offset)), len(text)]
    tokens = parser.parse(text[offset:])
    found = [Block(0, offset)] if front else []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.map is None or (found and starts[token.map[0]] < found[-1].end):
            continue
        start, end = starts[token.map[0]], starts[min(token.map[1], len(starts) - 1)]
        if blank := EMPTY.match(text, end):
            end = blank.end()
        if token.type == "heading_open" and token.level == 0 and following is not None:
            found.append(Block(start, end, int(token.tag[1]), " ".join(following.content.split())))
        elif token.type in WHOLE:
            found.append(Block(start, end))
    return found


def sections(text: str, found: list[Block]) -> Iterator[Section]:
    """The document in sections; a heading with nothing but another heading below it begins that one's."""
    path: list[Block] = []
    start = body = 0
    for block in (block for block in found if block.level):
        if text[body : block.start].strip():
            yield Section(start, block.start, _titles(path))
            start = block.start
        elif not path:
            start = block.start if not text[: block.start].strip() else start
        path = [outer for outer in path if outer.level < block.level] + [block]
        body = block.end
    if start < len(text):
        yield Section(start, len(text), _titles(path))


def pieces_of_markdown(
    text: str, span: Span, found: list[Block], size: int, count: Callable[[str], int]
) -> list[Piece]:
    """Pieces of the span: what stays whole if it fits, else its lines; text between as text is."""
    pieces: list[Piece] = []
    at, is_headed = span[0], False
    for block in [*(b for b in found if span[0] <= b.start < span[1]), Block(span[1], span[1])]:
        for start, end, is_text in ((at, block.start, True), (block.start, block.end, False)):
            if start == end:
                continue
            fresh = (
                pieces_of_text(text, (start, end), size, count)
                if is_text
                else _whole(text, (start, end), size, count)
            )
            if not is_text and block.level:
                fresh[0] = replace(fresh[0], cut=Cut.HEADED if is_headed else Cut.SECTION)
                is_headed = True
            elif is_headed and text[start:end].strip():
                fresh[0] = replace(fresh[0], cut=Cut.HEADED)
                is_headed = False
            pieces += fresh
        at = block.end
    return pieces


def _whole(text: str, span: Span, size: int, count: Callable[[str], int]) -> list[Piece]:
    [piece] = measured(text, [span], 0, LIMITLESS, count)
    return [piece] if piece.tokens <= size else measured(text, lines(text, span), size, size, count)


def _titles(path: list[Block]) -> tuple[str, ...]:
    return tuple(block.title for block in path if block.title)
