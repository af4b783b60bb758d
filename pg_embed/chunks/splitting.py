"""Splitting a document into chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pg_embed.chunks.chunking import Chunk, Chunking, above
from pg_embed.chunks.counting import Counter, many
from pg_embed.chunks.markdown import Section, blocks, pieces_of_markdown, sections
from pg_embed.chunks.packing import packed
from pg_embed.chunks.pieces import Piece, Span, finer, finer_spans, pieces_of_code, pieces_of_text

TAIL = 8  # characters a token of overlap that are looked at
HEADINGS = 4  # the part of a chunk, a fourth, that headings may take
SEPARATOR = " > "


def split(text: str, chunking: Chunking, count: Callable[[str], int]) -> list[Chunk]:
    """The document's chunks in order; every character that is no white space is in at least one.

    No chunk's `input` has more than `size` tokens, as `count` has them, unless a single character has.
    Cuts are chosen by what stands around them (see packing.py): an edit changes a chunk or two nearby,
    and with `overlap` the next. A heading's edit changes every chunk that has it in its context.
    Raises MissingExtra without the libraries.
    """
    if not text.strip():
        return []
    own = count("")  # tokens that begin and end every input
    counter = Counter(lambda texts: [max(0, tokens - own) for tokens in many(count, texts)])
    parts = _parts(text, chunking, max(1, chunking.size - own), counter)
    return [chunk for part in parts for chunk in part.chunks()]


@dataclass(frozen=True)
class Part:
    """Pieces of a document that share a context, and the tokens that a chunk has with and without overlap."""

    text: str
    pieces: Sequence[Piece]
    context: str
    size: int
    overlap: int
    count: Counter

    def chunks(self) -> Iterator[Chunk]:
        """Its chunks."""
        spans = self._spans()
        for row, (start, end) in enumerate(spans):
            if row and self.overlap:
                start = self._earlier(start, end, spans[row - 1][0])
            yield Chunk(self.text[start:end], start, end, self.context)

    def _spans(self) -> list[Span]:
        room = self.size - self.overlap - (self.count(above(self.context)) if self.context else 0)
        return self._fitting([self.pieces[rows] for rows in packed(self.pieces, room)], room)

    def _fitting(self, groups: Sequence[Sequence[Piece]], room: int) -> list[Span]:
        """Spans of the groups that have words; what has too many tokens after all is packed anew."""
        full = [group for group in groups if self.text[group[0].start : group[-1].end].strip()]
        spans = [self._trimmed(group) for group in full]
        inputs = [above(self.context) + self.text[start:end] for start, end in spans]
        fitting: list[Span] = []
        for group, (start, end), tokens in zip(full, spans, self.count.many(inputs), strict=True):
            bare = end - len(self.text[start:end].lstrip())
            if tokens <= self.size - self.overlap:
                fitting.append((start, end))
            elif end - bare == 1 or self._fits(bare, bare, end):  # its indentation is what is too long
                fitting.append((bare, end))
            else:
                fitting += self._smaller(group, room, tokens)
        return fitting

    def _smaller(self, group: Sequence[Piece], room: int, tokens: int) -> list[Span]:
        less = max(1, min(room - 1, room * (self.size - self.overlap) // tokens))
        if len(group) == 1:
            group = finer(self.text, group[0], self.count)
        elif room == 1:
            return self._fitting([[piece] for piece in group], room)
        return self._fitting([group[rows] for rows in packed(group, less)], less)

    def _trimmed(self, group: Sequence[Piece]) -> Span:
        """Without white space around it, but for the first line's indentation."""
        start, end = group[0].start, group[-1].end
        body = self.text[start:end]
        words = len(body) - len(body.lstrip())
        line = max(body.rfind("\n", 0, words), body.rfind("\r", 0, words)) + 1
        return start + line, start + len(body.rstrip())

    def _earlier(self, start: int, end: int, least: int) -> int:
        """The start with the last words of the chunk before: whole sentences, where they are short."""
        tail = (max(least, start - self.overlap * TAIL), start)
        begins = [at for at, _ in finer_spans(self.text, tail, 2 * self.overlap)]
        low, high = 0, len(begins)
        while low < high:
            middle = (low + high) // 2
            if self._fits(begins[middle], start, end):
                high = middle
            else:
                low = middle + 1
        return begins[low] if low < len(begins) else start

    def _fits(self, begin: int, start: int, end: int) -> bool:
        if self.count(self.text[begin:start]) > self.overlap:
            return False
        room = self.size if begin < start else self.size - self.overlap
        return self.count(above(self.context) + self.text[begin:end]) <= room


def _parts(text: str, chunking: Chunking, size: int, count: Counter) -> Iterator[Part]:
    """The document, or with `headings` its sections."""
    overlap = min(chunking.overlap, size - 1)
    room = size - overlap
    if chunking.split == "markdown":
        found = blocks(text)
        whole = [Section(0, len(text), ())]
        for section in sections(text, found) if chunking.headings else whole:
            context = _context(section.path, room // HEADINGS, count)
            fit = room - (count(above(context)) if context else 0)
            pieces = pieces_of_markdown(text, (section.start, section.end), found, fit, count)
            yield Part(text, pieces, context, size, overlap, count)
    elif chunking.split == "code":
        pieces = pieces_of_code(text, str(chunking.language), room, count)
        yield Part(text, pieces, "", size, overlap, count)
    else:
        yield Part(text, pieces_of_text(text, (0, len(text)), room, count), "", size, overlap, count)


def _context(path: Sequence[str], most: int, count: Counter) -> str:
    """The path of headings, without the outermost ones where it has too many tokens."""
    for first in range(len(path)):
        context = SEPARATOR.join(path[first:])
        if count(above(context)) <= most:
            return context
    return ""
