"""What is the family "voyage"'s own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pg_embed.errors import InputRejected, InvalidArgument
from pg_embed.models.provider import HostedEmbedder
from pg_embed.models.voyage import load
from pg_embed.records import ModelSpec
from tests.providers.server import ProviderServer

Connect = Callable[..., HostedEmbedder]


@pytest.fixture
def server(start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """Voyage's contract on this machine."""
    return start_provider("voyage")


@pytest.fixture
def connect(server: ProviderServer) -> Iterator[Connect]:
    """Models on the server; closed at the end."""
    made: list[HostedEmbedder] = []

    def connect(model: str = "voyage-4", **options: Any) -> HostedEmbedder:
        made.append(load(ModelSpec("v", "voyage", {"base_url": server.base_url, "model": model, **options})))
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
            "model": "voyage-4",
            "input": [text],
            "input_type": kind,
            "truncation": True,
            "output_dtype": "float",
            "output_dimension": 1024,
            "encoding_format": "base64",
        }
        for text, kind in (("a", "query"), ("b", "document"))
    ]


def test_a_model_with_one_size_is_not_asked_for_it(connect: Connect, server: ProviderServer) -> None:
    assert connect("voyage-law-2").embed(["a"], "document").dense.shape == (1, 1024)
    assert "output_dimension" not in server.requests[0]


def test_a_size_that_the_model_does_not_have_is_refused_before_any_call(
    connect: Connect, server: ProviderServer
) -> None:
    with pytest.raises(InvalidArgument, match="300 dimensions") as caught:
        connect(dimensions=300)
    assert caught.value.hint == "dimensions: 256, 512, 1024, 2048"
    assert server.requests == []


def test_the_fourth_series_shares_a_space_for_each_size(connect: Connect) -> None:
    series = ("voyage-4-large", "voyage-4", "voyage-4-lite")
    small = {connect(model, dimensions=256).card.space_id for model in series}
    large = {connect(model).card.space_id for model in series}
    assert (len(small), len(large), len(small | large)) == (1, 1, 2)
    assert connect("voyage-code-4").card.space_id not in large


def test_a_call_may_have_as_many_tokens_as_the_model_takes(connect: Connect) -> None:
    models = ("voyage-4-large", "voyage-4", "voyage-4-lite")
    cards = [connect(model).card for model in models]
    assert [card.max_batch_tokens for card in cards] == [120_000, 320_000, 1_000_000]
    assert {card.max_batch_items for card in cards} == {1_000}


def test_the_providers_prompt_is_counted(connect: Connect) -> None:
    assert (
        connect().count_tokens([""])[0] > len("Represent the query for retrieving supporting documents") // 4
    )


def test_a_long_text_is_cut_unless_told_otherwise(connect: Connect) -> None:
    long = "word " * 30_000
    assert len(connect().embed([long], "document").dense) == 1
    with pytest.raises(InputRejected, match="maximum context length"):
        connect(truncate=False).embed([long], "document")


@pytest.mark.parametrize(
    ("key", "base_url", "url"),
    [
        ("pa-0123456789", None, "https://api.voyageai.com/v1/embeddings"),
        ("al-0123456789", None, "https://ai.mongodb.com/v1/embeddings"),
        ("al-0123456789", "https://api.voyageai.com/v1/", "https://api.voyageai.com/v1/embeddings"),
        ("pa-0123456789", "https://proxy.example", "https://proxy.example/embeddings"),
    ],
)
def test_the_key_chooses_the_host_unless_one_is_given(
    monkeypatch: pytest.MonkeyPatch, key: str, base_url: str | None, url: str
) -> None:
    monkeypatch.setenv("VOYAGE_API_KEY", key)
    given = {} if base_url is None else {"base_url": base_url}
    embedder = load(ModelSpec("v", "voyage", {"model": "voyage-4", **given}))
    assert embedder._endpoint.url == url
    embedder.close()


def test_the_host_of_the_key_is_not_part_of_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = set()
    for key, base_url in (("pa-1", {}), ("al-1", {}), ("al-1", {"base_url": "https://ai.mongodb.com/v1"})):
        monkeypatch.setenv("VOYAGE_API_KEY", key)
        embedder = load(ModelSpec("v", "voyage", {"model": "voyage-4", **base_url}))
        spaces.add(embedder.card.space_id)
        embedder.close()
    assert len(spaces) == 1
