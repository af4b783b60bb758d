"""What is the family "cohere"'s own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected, InvalidArgument
from pg_embed.models.cohere import load
from pg_embed.models.provider import HostedEmbedder
from pg_embed.records import ModelSpec
from tests.providers.server import Fault, ProviderServer

Connect = Callable[..., HostedEmbedder]


@pytest.fixture
def server(start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """Cohere's contract on this machine."""
    return start_provider("cohere")


@pytest.fixture
def connect(server: ProviderServer) -> Iterator[Connect]:
    """Models on the server; closed at the end."""
    made: list[HostedEmbedder] = []

    def connect(model: str = "embed-v4.0", **options: Any) -> HostedEmbedder:
        made.append(load(ModelSpec("c", "cohere", {"base_url": server.base_url, "model": model, **options})))
        return made[-1]

    yield connect
    for embedder in made:
        embedder.close()


def test_the_kind_is_told_and_the_default_size_is_asked_for(connect: Connect, server: ProviderServer) -> None:
    embedder = connect()
    embedder.embed(["a"], "query")
    embedder.embed(["b"], "document")
    assert server.requests == [
        {
            "model": "embed-v4.0",
            "texts": [text],
            "input_type": kind,
            "embedding_types": ["float"],
            "output_dimension": 1536,
            "truncate": "END",
        }
        for text, kind in (("a", "search_query"), ("b", "search_document"))
    ]


@pytest.mark.parametrize(
    ("model", "size"), [("embed-multilingual-v3.0", 1024), ("embed-english-light-v3.0", 384)]
)
def test_a_model_of_the_third_series_is_not_asked_for_a_size(
    connect: Connect, server: ProviderServer, model: str, size: int
) -> None:
    assert connect(model).embed(["a"], "document").dense.shape == (1, size)
    assert "output_dimension" not in server.requests[0]
    with pytest.raises(InvalidArgument, match="256 dimensions"):
        connect(model, dimensions=256)


def test_the_fifth_series_has_a_default_of_its_own_and_one_space(connect: Connect) -> None:
    cards = [connect(model).card for model in ("embed-v5.0-pro", "embed-v5.0-fast")]
    assert {card.dimensions for card in cards} == {2048}
    assert len({card.space_id for card in cards}) == 1
    assert connect("embed-v4.0", dimensions=1024).card.space_id not in {
        connect("embed-v5.0-pro", dimensions=1024).card.space_id
    }


def test_a_batch_of_the_largest_size_keeps_its_order(connect: Connect) -> None:
    embedder = connect(dimensions=256)
    texts = [f"text {number}" for number in range(embedder.card.max_batch_items)]
    together = embedder.embed(texts, "document").dense
    assert np.array_equal(together[-1:], embedder.embed(texts[-1:], "document").dense)
    with pytest.raises(InputRejected, match="1 to 96 texts"):
        embedder.embed([*texts, "one more"], "document")


def test_texts_cut_at_their_beginning_are_a_space_of_their_own(connect: Connect) -> None:
    spaces = [connect(truncate=side).card.space_id for side in ("END", "NONE", "START")]
    assert spaces[0] == spaces[1] != spaces[2]
    with pytest.raises(InvalidArgument, match="one of NONE, START, END"):
        connect(truncate="MIDDLE")


def test_a_word_on_the_deny_list_is_the_texts_fault(connect: Connect, server: ProviderServer) -> None:
    server.faults.append(Fault(498, "the request contains a deny-listed token"))
    with pytest.raises(InputRejected, match="answered 498"):
        connect().embed(["a"], "document")
