"""What is the family "openai"'s own; what it shares with other hosted families is in test_hosted.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import stamina

from pg_embed.errors import InputRejected, ModelError, ModelMisconfigured
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.hosted import ATTEMPTS
from pg_embed.models.openai import load
from pg_embed.models.provider import HostedEmbedder
from pg_embed.records import ModelSpec
from tests.providers.server import Fault, ProviderServer

Connect = Callable[..., HostedEmbedder]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


@pytest.fixture
def connect(openai_server: ProviderServer) -> Iterator[Connect]:
    """Models on the server; closed at the end."""
    made: list[HostedEmbedder] = []

    def connect(**options: Any) -> HostedEmbedder:
        options = {"base_url": openai_server.base_url, "model": "small", "dimensions": 8, **options}
        made.append(load(ModelSpec("openai", "openai", {k: v for k, v in options.items() if v is not None})))
        return made[-1]

    yield connect
    for embedder in made:
        embedder.close()


def expected(*texts: str) -> np.ndarray[Any, Any]:
    return FakeEmbedder(FakeOptions(dimensions=8)).embed(texts, "document").dense


def test_a_list_of_numbers_will_do_instead_of_base64(connect: Connect, openai_server: ProviderServer) -> None:
    openai_server.base64 = False
    assert np.array_equal(connect().embed(["one"], "document").dense, expected("one"))


def test_prompts_are_put_in_front(connect: Connect, openai_server: ProviderServer) -> None:
    embedder = connect(query_prompt="query: ", document_prompt="passage: ")
    embedder.embed(["a"], "query")
    embedder.embed(["a"], "document")
    assert [request["input"] for request in openai_server.requests] == [["query: a"], ["passage: a"]]


def test_prompts_are_part_of_the_space(connect: Connect) -> None:
    plain, prompted = connect(), connect(query_prompt="query: ")
    assert plain.card.space_id != prompted.card.space_id


def test_an_empty_text_is_sent_as_a_space_unless_a_prompt_fills_it(
    connect: Connect, openai_server: ProviderServer
) -> None:
    connect(query_prompt="query: ").embed(["", "a"], "document")
    connect(query_prompt="query: ").embed(["", "a"], "query")
    assert [request["input"] for request in openai_server.requests] == [[" ", "a"], ["query: ", "query: a"]]


@pytest.mark.parametrize("word", ["POISON", "UNPROCESSABLE", "TOO_LARGE"])
def test_a_refused_input_is_said_so(connect: Connect, word: str) -> None:
    with pytest.raises(InputRejected):
        connect().embed(["good", f"a {word} pill"], "document")


def test_a_text_over_the_servers_limit_is_refused(connect: Connect) -> None:
    with pytest.raises(InputRejected, match="maximum context length"):
        connect().embed(["word " * 20_000], "document")


@pytest.mark.parametrize("word", ["UNAUTHORIZED", "FORBIDDEN", "NO_MODEL", "QUOTA"])
def test_what_only_the_operator_can_mend_is_a_misconfiguration(connect: Connect, word: str) -> None:
    with pytest.raises(ModelMisconfigured):
        connect().embed([word], "document")


def test_a_refused_dimension_is_not_a_refused_text(connect: Connect) -> None:
    with pytest.raises(ModelMisconfigured, match="dimensions"):
        connect(model="text-embedding-ada-002").embed(["good"], "document")


def test_the_servers_own_words_are_kept_short(connect: Connect, openai_server: ProviderServer) -> None:
    openai_server.faults.append(Fault(400, "no " * 10_000))
    with pytest.raises(ModelError) as caught:
        connect().embed(["a"], "document")
    assert len(str(caught.value)) < 500
