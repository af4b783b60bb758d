"""Pieces: the smallest parts of a document that are not cut unless they must be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from unicodedata import combining
from zlib import crc32

from pg_embed.chunks.counting import many
from pg_embed.chunks.grammars import grammar, library

Span = tuple[int, int]

NEWLINE = r"(?>\r\n|\n|\r)"
BLANK_LINES = re.compile(NEWLINE + r"(?:[^\S\r\n]*" + NEWLINE + r")+")
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。．！？]+[」』）”’]*\s*")
ENDED = re.compile(r"[.!?…。．！？][\"'”’」』）)\]]*\Z")
WRAPPED_LINE = 40  # characters that every line but the last has in a paragraph with hard line breaks
STRETCH = 256  # characters without a sentence's end that the library is given: it takes time with the square
REGION = 16_384  # characters of code that are parsed at once, for the same reason
NEAR = 64  # characters around a cut that tell what kind it is
HASHED = 32  # characters behind a cut that tell whether it is an anchor
CODE_TOKEN = 3  # characters
WORDS_A_PIECE = 8  # on average, where a sentence is too long


class Cut(IntEnum):
    """How good it is to cut in front of a piece, the best last."""

    HEADED = 0  # below a heading
    WORD = 1
    LINE = 2
    SENTENCE = 3
    PARAGRAPH = 4
    SECTION = 5


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a document; `tokens` without white space around it."""

    start: int
    end: int
    tokens: int
    cut: Cut  # in front of it
    rank: int  # among cuts of a kind: a hash of what follows


def pieces_of_text(text: str, span: Span, size: int, count: Callable[[str], int]) -> list[Piece]:
    """Paragraphs of up to a quarter of a chunk, else sentences, else some words."""
    width = max(size, 16)  # characters: about a quarter of the chunk in European languages
    spans = [part for paragraph in paragraphs(text, span) for part in finer_spans(text, paragraph, width)]
    return measured(text, spans, width, max(1, size // 4), count)


def pieces_of_code(text: str, language: str, size: int, count: Callable[[str], int]) -> list[Piece]:
    """The largest parts of the syntax that are about a chunk: functions, else statements, else lines."""
    splitter = library("semantic_text_splitter").CodeSplitter(
        grammar(language), (1, size * CODE_TOKEN), trim=False
    )
    spans: list[Span] = []
    for start, end in _regions(text):
        at = [start + offset for offset, _ in splitter.chunk_indices(text[start:end])]
        kept = [place for place in at if place == start or _begins_line(text, place)]
        spans += zip(kept, [*kept[1:], end], strict=True)
    spans = _with_lines_whole(text, spans)
    return measured(text, spans, size * CODE_TOKEN // 2, size, count, cut_in_code)


def measured(
    text: str,
    spans: Sequence[Span],
    width: int,
    limit: int,
    count: Callable[[str], int],
    kind: Callable[[str, int], Cut] | None = None,
) -> list[Piece]:
    """The spans with their tokens; one of more than `limit` is cut into parts of half the width."""
    found: list[Piece] = []
    for (start, end), tokens in zip(spans, many(count, [text[a:b].strip() for a, b in spans]), strict=True):
        if tokens > limit and end - start > 1:
            narrow = max(1, min(width, end - start) // 2)
            found += measured(text, finer_spans(text, (start, end), narrow), narrow, limit, count, kind)
        else:
            rank = crc32(text[start : start + HASHED].encode("utf-8", "surrogatepass"))
            found.append(Piece(start, end, tokens, (kind or cut_in_text)(text, start), rank))
    return found


def finer(text: str, piece: Piece, count: Callable[[str], int]) -> list[Piece]:
    """A piece in smaller ones."""
    width = max(1, (piece.end - piece.start) // 2)
    return measured(text, finer_spans(text, (piece.start, piece.end), width), width, piece.tokens, count)


def cut_in_text(text: str, at: int) -> Cut:
    """The kind of a cut, by what stands around it."""
    before = text[max(0, at - NEAR) : at]
    words = before.rstrip()
    after = text[at : at + NEAR]
    gap = before[len(words) :] + after[: len(after) - len(after.lstrip())]
    if BLANK_LINES.search(gap):
        return Cut.PARAGRAPH
    if ENDED.search(words):
        return Cut.SENTENCE
    return Cut.LINE if "\n" in gap or "\r" in gap else Cut.WORD


def cut_in_code(text: str, at: int) -> Cut:
    """The kind of a cut: functions without indentation begin behind an empty line; closing brackets stay."""
    kind = cut_in_text(text, at)
    line = text[at : at + NEAR].lstrip("\r\n")
    if kind == Cut.PARAGRAPH:
        return Cut.PARAGRAPH if line[:1].strip() else Cut.SENTENCE
    return Cut.WORD if line.lstrip()[:1] in (")", "]", "}") else min(kind, Cut.LINE)


def paragraphs(text: str, span: Span) -> Iterator[Span]:
    """Paragraphs with the empty lines behind them."""
    start, end = span
    for blank in BLANK_LINES.finditer(text, start, end):
        yield start, blank.end()
        start = blank.end()
    if start < end:
        yield start, end


def lines(text: str, span: Span) -> list[Span]:
    """Lines with their ends."""
    start, end = span
    ends = [match.end() for match in re.compile(NEWLINE).finditer(text, start, end)]
    if not ends or ends[-1] < end:
        ends.append(end)
    return list(zip([start, *ends[:-1]], ends, strict=True))


def finer_spans(text: str, span: Span, width: int) -> list[Span]:
    """Parts of up to `width` characters: sentences; of a longer one some words, ended by a hash of a word."""
    splitter = library("semantic_text_splitter").TextSplitter((1, width), trim=False)
    at: list[int] = []
    for start, end in _stretches(text, span):
        at += [start + offset for offset, _ in splitter.chunk_indices(_unwrapped(text[start:end]))]
    found: list[Span] = []
    begin, ends = span[0], [*at[1:], span[1]]
    for start, end in zip(at, ends, strict=True):
        is_over = crc32(text[start:end].encode("utf-8", "surrogatepass")) % WORDS_A_PIECE == 0
        if end == span[1] or is_over or end - begin >= width // 4 or cut_in_text(text, end) != Cut.WORD:
            found.append((begin, end))
            begin = end
    return found


def _unwrapped(paragraph: str) -> str:
    """With spaces for hard line breaks, so that sentences are seen across them."""
    wrapped = paragraph.strip().splitlines()
    if len(wrapped) > 1 and min(map(len, wrapped[:-1])) >= WRAPPED_LINE:
        return paragraph.replace("\r", " ").replace("\n", " ")
    return paragraph


def _stretches(text: str, span: Span) -> Iterator[Span]:
    """The whole, unless there are very long stretches without a sentence's end: these in windows."""
    start, end = span
    ends = [match.end() for match in SENTENCE_END.finditer(text, start, end)]
    ends = [*(at for at in ends if at < end), end]
    if max(b - a for a, b in zip([start, *ends], ends, strict=False)) <= STRETCH:
        yield span
        return
    for stop in ends:
        while stop - start > STRETCH:
            yield start, (start := _window(text, start))
        yield start, stop
        start = stop


def _window(text: str, start: int) -> int:
    """The end of a window: behind its last white space, else where no character is joined to the next."""
    stop = start + STRETCH
    space = next((at for at in range(stop, start, -1) if text[at - 1].isspace()), stop)
    if space < stop or text[stop - 1].isspace():
        return space
    cut = stop
    while cut > start + 1 and _joined(text, cut):
        cut -= 1
    return cut if cut > start + 1 else stop


def _joined(text: str, at: int) -> bool:
    marks = "\u200d\ufe0e\ufe0f"
    return bool(combining(text[at])) or text[at] in marks or text[at - 1] == "\u200d"


def _regions(text: str) -> Iterator[Span]:
    """Code in parts that begin behind an empty line without indentation."""
    start = 0
    for blank in BLANK_LINES.finditer(text):
        at = blank.end()
        if at - start >= REGION and text[at : at + 1].strip():
            yield start, at
            start = at
    if start < len(text):
        yield start, len(text)


def _begins_line(text: str, at: int) -> bool:
    before = text[max(0, at - NEAR) : at]
    blank = before[len(before.rstrip(" \t")) :]
    head = before[: len(before) - len(blank)]
    return head.endswith(("\n", "\r")) or text[at : at + 1] in ("\n", "\r")


def _with_lines_whole(text: str, spans: Sequence[Span]) -> list[Span]:
    """The same spans with the white space between two of them moved: a span begins with its line."""
    starts = []
    for start, _ in spans:
        gap = start
        while gap < len(text) and text[gap].isspace():
            gap += 1
        starts.append(max(text.rfind("\n", 0, gap), text.rfind("\r", 0, gap)) + 1)
    starts = sorted({0, *starts} - {len(text)})
    return list(zip(starts, [*starts[1:], len(text)], strict=True))
