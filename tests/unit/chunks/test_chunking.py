"""What can be asked of a split."""

from __future__ import annotations

from typing import Any

import pytest

from pg_embed.chunks import Chunk, Chunking
from pg_embed.errors import InvalidArgument


def test_json_gives_the_same_again() -> None:
    asked = Chunking(size=200, overlap=20, split="code", language="python")
    assert Chunking.from_json(asked.as_json()) == asked
    assert Chunking.from_json({}) == Chunking()


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"sise": 3}, "no option 'sise'"),
        ({"size": 7}, "size must be a whole number"),
        ({"size": 1_000_001}, "size must be"),
        ({"size": True}, "size must be"),
        ({"size": 100.0}, "size must be"),
        ({"size": 100, "overlap": 100}, "overlap must be .* from 0 to 99"),
        ({"overlap": -1}, "overlap must be"),
        ({"split": "pages"}, "split must be one of text, markdown, code"),
        ({"split": "code"}, "needs its language"),
        ({"split": "code", "language": "klingon"}, "'klingon' cannot be split"),
        ({"language": "python"}, "only code has a language"),
        ({"headings": True}, "only Markdown has headings"),
        ({"split": "markdown", "headings": 1}, "true or false"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidArgument, match=expected):
        Chunking.from_json(wrong)


def test_the_context_stands_above_what_is_embedded() -> None:
    assert Chunk("Say make.", 10, 19, "Guide > Install").input == "Guide > Install\n\nSay make."
    assert Chunk("Say make.", 10, 19).input == "Say make."
