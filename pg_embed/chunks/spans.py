"""Late chunking: chunks as spans of the tokens of their whole document."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from pg_embed.chunks.chunking import Chunk


def token_spans(chunks: Sequence[Chunk], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """First and last + 1 token of each chunk: every token that has a character in it.

    `offsets` are the document's tokens as (start, end) in characters, as tokenizers give them; special
    tokens, (0, 0), belong to no chunk. A chunk behind the last token has an empty span.
    """
    real = [row for row, (start, end) in enumerate(offsets) if end > start]
    starts = [offsets[row][0] for row in real]
    ends = [offsets[row][1] for row in real]
    spans = []
    for chunk in chunks:
        first, last = bisect_right(ends, chunk.start), bisect_left(starts, chunk.end)
        spans.append((real[first], real[last - 1] + 1) if first < last else (0, 0))
    return spans
