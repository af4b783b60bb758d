"""OpenAI's request and errors, as its clients spell them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pg_embed.errors import BadRequest, ModelMisconfigured, Overloaded, UnknownModel
from pg_embed.serve import openai


@pytest.mark.parametrize("given", ["a", ["a"]])
def test_one_text_may_stand_alone(given: Any) -> None:
    assert openai.parse(json.dumps({"input": given}).encode()).texts == ["a"]


def test_what_is_not_said_has_a_default() -> None:
    asked = openai.parse(b'{"input": "a"}')
    assert (asked.model, asked.kind, asked.encoding, asked.dimensions) == (None, "document", "float", None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, '"input" must be a string'),
        ({"input": []}, '"input" must be a string'),
        ({"input": [1, 2]}, "arrays of tokens are not taken"),
        ({"input": [[1, 2]]}, "arrays of tokens are not taken"),
        ({"input": "a", "encoding_format": "hex"}, '"encoding_format" must be one of: float, base64'),
        ({"input": "a", "input_type": ["query"]}, '"input_type" must be one of: document, query'),
        ({"input": "a", "dimensions": "3"}, '"dimensions" must be an integer'),
        ({"input": "a", "model": 3}, '"model" must be a string'),
    ],
)
def test_a_bad_request_says_what_is_wrong(fields: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        openai.parse(json.dumps(fields).encode())


def test_errors_have_the_shape_that_clients_read() -> None:
    told = json.loads(openai.spell_error(UnknownModel("there is no model 'x'", hint="there is: y")))
    assert told["error"] == {
        "message": "there is no model 'x' (there is: y)",
        "type": "invalid_request_error",
        "param": None,
        "code": "PE001",
    }


def test_the_status_tells_whether_to_try_again() -> None:
    assert [openai.status(error()) for error in (Overloaded, UnknownModel, ModelMisconfigured)] == [
        429,
        404,
        500,
    ]
