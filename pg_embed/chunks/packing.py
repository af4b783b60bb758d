"""Packing pieces into chunks so that an edit changes few of them.

Chunks that are filled one after another all change behind an edit. Here a document is first cut at anchors:
a cut between two pieces is an anchor if none within `REACH` chunks, before or behind it, is better: of a
better kind (a heading before a paragraph, a paragraph before a sentence) or, of the same kind, of a higher
hash of the characters that follow it. The document's ends are better than any. An anchor depends on its
neighbourhood alone, as in content-defined chunking by local maxima (Bjørner, Blass, Gurevich 2010), and two
are at least that far apart. Between two anchors stand one to three chunks, seldom more, which are chosen
together: few of them, cut where it is best.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from pg_embed.chunks.pieces import Cut, Piece

REACH = 0.75  # of a chunk: 1.0 fills them 1 to 3 % better, and an edit changes 1.7 instead of 1.2
CHUNK_COST = 4.0
CUT_COSTS = {  # a chunk more is made rather than a sentence torn
    Cut.SECTION: 0.0,
    Cut.PARAGRAPH: 0.5,
    Cut.SENTENCE: 1.5,
    Cut.LINE: 2.5,
    Cut.WORD: 6.0,
    Cut.HEADED: 8.0,
}
HASHES = 1 << 32


def packed(pieces: Sequence[Piece], size: int) -> list[slice]:
    """Rows of pieces that are a chunk each, of up to `size` tokens or one piece."""
    at = [0, *anchors(pieces, size * REACH), len(pieces)]
    return [
        slice(first + part.start, first + part.stop)
        for first, last in pairwise(at)
        for part in _fewest(pieces[first:last], size)
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


def _fewest(pieces: Sequence[Piece], size: int) -> list[slice]:
    """The cheapest way from the first piece to the last, a chunk costing more than most cuts."""
    costs, previous = [0.0], [0]
    for stop in range(1, len(pieces) + 1):
        first, tokens = stop - 1, pieces[stop - 1].tokens
        best = first
        while first > 0 and tokens + pieces[first - 1].tokens <= size:
            first -= 1
            tokens += pieces[first].tokens
            if costs[first] < costs[best]:
                best = first
        costs.append(costs[best] + CHUNK_COST + (_cost(pieces[stop]) if stop < len(pieces) else 0.0))
        previous.append(best)
    found, stop = [], len(pieces)
    while stop > 0:
        found.append(slice(previous[stop], stop))
        stop = previous[stop]
    return found[::-1]


def _cost(piece: Piece) -> float:
    return CUT_COSTS[piece.cut] + 0.5 * (1 - piece.rank / HASHES)
