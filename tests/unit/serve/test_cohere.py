"""Cohere's and Jina's reranking request and answer, as their clients spell them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import BadRequest
from pg_embed.records import Scores
from pg_embed.serve import cohere


def parse(**fields: Any) -> cohere.RerankRequest:
    return cohere.parse(json.dumps({"query": "q", "documents": ["a", "b", "c"], **fields}).encode())


def spell(*scores: float, **fields: Any) -> dict[str, Any]:
    found = Scores(np.array(scores, np.float32), tokens=7)
    told: dict[str, Any] = json.loads(cohere.spell(parse(**fields), "m", found))
    return told


def test_what_is_not_said_has_a_default() -> None:
    asked = parse()
    assert (asked.query, asked.texts) == ("q", ["a", "b", "c"])
    assert (asked.model, asked.most, asked.with_documents) == (None, None, False)


def test_documents_may_be_objects() -> None:
    assert parse(documents=["a", {"text": "b", "title": "c"}]).texts == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query": None}, '"query" must be a string'),
        ({"documents": []}, '"documents" must be a non-empty array'),
        ({"documents": "a"}, '"documents" must be a non-empty array'),
        ({"documents": ["a", {"title": "b"}]}, 'an object with a string "text"'),
        ({"documents": ["a", 1]}, 'an object with a string "text"'),
        ({"documents": ["a"] * 10_001}, '"documents" may have 10000 texts, not 10001'),
        ({"top_n": 0}, '"top_n" must be a positive integer'),
        ({"top_n": True}, '"top_n" must be a positive integer'),
        ({"return_documents": "yes"}, '"return_documents" must be true or false'),
        ({"model": 3}, '"model" must be a string'),
    ],
)
def test_a_bad_request_says_what_is_wrong(fields: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse(**fields)


def test_the_best_come_first_and_equal_ones_in_their_order() -> None:
    assert spell(0.5, 0.75, 0.5) == {
        "model": "m",
        "results": [
            {"index": 1, "relevance_score": 0.75},
            {"index": 0, "relevance_score": 0.5},
            {"index": 2, "relevance_score": 0.5},
        ],
        "usage": {"total_tokens": 7},
    }


def test_some_of_the_best_with_their_texts() -> None:
    told = spell(0.5, 0.75, 0.25, top_n=2, return_documents=True, documents=["a", {"text": "b"}, "c"])
    assert [(result["index"], result["document"]) for result in told["results"]] == [
        (1, {"text": "b"}),
        (0, {"text": "a"}),
    ]
    assert len(spell(1, 2, 3, top_n=9)["results"]) == 3
