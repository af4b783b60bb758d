"""Packing pieces into chunks so that an edit changes three of them at most, but for very rare ones.

Chunks that are filled one after another all change behind an edit. Here a document is first cut at anchors:
a cut between two pieces is an anchor if none within `REACH` chunks, before or behind it, is better: of a
better kind (a heading before a paragraph, a paragraph before a sentence) or, of the same kind, of a higher
hash of the characters that follow it. The document's ends are better than any. An anchor depends on its
neighbourhood alone, as in content-defined chunking by local maxima (Bjørner, Blass, Gurevich 2010), and two
are at least that far apart. Between two anchors the worst cut is taken out where both sides fit together,
then the next, as Kruskal's algorithm joins trees. What an edit changes so reaches no farther than cuts that
are each better than the one before, and these are soon at an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from pg_embed.chunks.pieces import Cut, Piece

REACH = 0.4  # of a chunk: 0.75 fills them 7 % better, and an edit changes four in one of a thousand cases


def packed(pieces: Sequence[Piece], size: int) -> list[slice]:
    """Rows of pieces that are a chunk each, of up to `size` tokens or one piece."""
    at = [0, *anchors(pieces, size * REACH), len(pieces)]
    return [
        slice(first + part.start, first + part.stop)
        for first, last in pairwise(at)
        for part in _joined(pieces[first:last], size)
    ]


def anchors(pieces: Sequence[Piece], reach: float) -> list[int]:
    """Rows of the pieces that always begin a chunk."""
    places = list(accumulate((piece.tokens for piece in pieces), initial=0))
    ranks = [(piece.cut, piece.rank) for piece in pieces]
    inner = [row for row in range(1, len(pieces)) if reach <= places[row] <= places[-1] - reach]
    return [row for row in inner if _is_best(row, ranks, places, reach)]


def _is_best(row: int, ranks: Sequence[tuple[Cut, int]], places: Sequence[int], reach: float) -> bool:
    """Whether no cut in reach is better; of equal ones the first is taken."""
    before, behind = row - 1, row + 1
    while before > 0 and places[row] - places[before] < reach:
        if ranks[before] >= ranks[row]:
            return False
        before -= 1
    while behind < len(ranks) and places[behind] - places[row] < reach:
        if ranks[behind] > ranks[row]:
            return False
        behind += 1
    return True


def _joined(pieces: Sequence[Piece], size: int) -> list[slice]:
    """Pieces joined where they fit, over the worst cuts first; of equal ones the first is taken."""
    tokens = [piece.tokens for piece in pieces]  # of a chunk, at its first piece
    first, stop = list(range(len(pieces))), list(range(1, len(pieces) + 1))  # at a chunk's ends
    for row in sorted(range(1, len(pieces)), key=lambda row: (pieces[row].cut, pieces[row].rank)):
        start, end = first[row - 1], stop[row]
        if tokens[start] + tokens[row] <= size:
            tokens[start] += tokens[row]
            stop[start], first[end - 1] = end, start
    found, row = [], 0
    while row < len(pieces):
        found.append(slice(row, stop[row]))
        row = stop[row]
    return found
