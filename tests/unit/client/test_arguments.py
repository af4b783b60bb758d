"""What clients refuse before they ask anybody; vectors read from texts; nothing heavy at import."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import pytest

from pg_embed import AsyncClient, Client
from pg_embed.client.requests import question, read
from pg_embed.client.sidecar import Sidecar
from pg_embed.errors import InvalidArgument, ModelUnavailable, Overloaded
from pg_embed.records import ModelSpec, SparseVectors, TokenVectors

FAKES = [ModelSpec("a", "fake", {}), ModelSpec("b", "fake", {})]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "needs a database, a sidecar, or models"),
        ({"in_process": True}, "needs a database, a sidecar, or models"),
        ({"database": 3}, "takes no int"),
        ({"database": "postgresql+psycopg://x"}, "cannot be read"),
        ({"sidecar": "http://x", "in_process": True}, "both a sidecar and in_process"),
        ({"database": "", "token": "t"}, "a token was given"),
        ({"sidecar": "ftp://x"}, "no address"),
        ({"sidecar": "localhost:1"}, "no address"),
        ({"database": "", "timeout": 0}, "timeout is 0"),
    ],
)
def test_what_does_not_fit_together(kind: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told) as caught:
        kind(**given)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("texts", "kind", "output", "told"),
    [
        ("one", "query", "dense", "one string"),
        (["x", 3], "query", "dense", "of type int"),
        (["x"], "passage", "dense", "no kind"),
        (["x"], "query", "score", "no output"),
    ],
)
def test_questions_that_are_none(texts: Any, kind: Any, output: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        question(texts, None, kind, output)


def test_a_client_without_a_database_says_so() -> None:
    with Client(in_process=True, models=FAKES) as client:
        for call in (client.status, lambda: client.search("docs", "x"), lambda: client.wait("docs")):
            with pytest.raises(InvalidArgument, match="no database"):
                call()
        with pytest.raises(InvalidArgument, match="no model is named") as caught:
            client.embed(["x"])
        assert "a, b" in (caught.value.hint or "")
        assert client.embed(["x"], "b").shape == (1, 8)


def test_texts_of_pgvectors_types() -> None:
    np.testing.assert_array_equal(
        read(["[1,-2.5]", "[0,3e-05]"], "dense"), np.float32([[1, -2.5], [0, 3e-5]])
    )
    sparse = read(["{1:0.5,10:2}/10", "{}/10"], "sparse")
    assert isinstance(sparse, SparseVectors)
    assert [part.tolist() for part in sparse.row(0)] == [[0, 9], [0.5, 2.0]]
    assert [part.tolist() for part in sparse.row(1)] == [[], []]
    tokens = read(['{"[1,2]","[3,4]"}', '{"[5,6]"}'], "multi")
    assert isinstance(tokens, TokenVectors)
    assert tokens.row(0).tolist() == [[1, 2], [3, 4]]
    assert tokens.row(1).tolist() == [[5, 6]]


def test_answers_that_are_none() -> None:
    door = Sidecar("http://x", None, 1.0)
    for body in (b"<html>", b"{}", b'{"data": []}', b'{"data": [{"index": 0, "embedding": [1]}]}'):
        with pytest.raises(ModelUnavailable, match="status 200"):
            door.vectors(httpx.Response(200, content=body), 2)
    told = b'{"error": {"code": "PE012", "message": "full"}}'
    with pytest.raises(Overloaded, match="full"):
        door.vectors(httpx.Response(429, content=told), 1)
    with pytest.raises(ModelUnavailable, match="status 502"):
        door.vectors(httpx.Response(502, content=b"Bad Gateway"), 1)


def test_importing_the_package_loads_nothing() -> None:
    program = (
        "import sys, pg_embed; light = set(sys.modules);"
        "print([n for n in ('numpy', 'psycopg', 'httpx', 'pg_embed.client') if n in light]);"
        "from pg_embed import Client;"
        "print([n for n in ('torch', 'transformers', 'sentence_transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
    import pg_embed

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pg_embed.nothing
