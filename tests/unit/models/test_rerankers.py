"""What is each hosted reranker's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.models.hosted_ranking import HostedReranker
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from tests.providers.server import ProviderServer

Start = Callable[[str], ProviderServer]
REQUESTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("voyage_reranker", {"model": "rerank-3"}, {"truncation": True}),
    ("voyage_reranker", {"model": "rerank-2.5", "truncate": False}, {"truncation": False}),
    ("cohere_reranker", {"model": "rerank-v5.0-pro"}, {"max_tokens_per_doc": 4096}),
    ("cohere_reranker", {"model": "rerank-v3.5", "max_tokens_per_doc": 99}, {"max_tokens_per_doc": 99}),
    (
        "jina_reranker",
        {"model": "jina-reranker-v3"},
        {"return_documents": False, "truncation": True, "max_doc_length": 2048},
    ),
    (
        "jina_reranker",
        {"model": "jina-reranker-v3", "max_doc_length": 8192},
        {"return_documents": False, "truncation": True, "max_doc_length": 8192},
    ),
    (
        "jina_reranker",
        {"model": "jina-reranker-v2-base-multilingual", "truncate": False},
        {"return_documents": False, "truncation": False},
    ),
    ("openai_reranker", {"model": "bge"}, {"top_n": 2, "truncate_prompt_tokens": -1}),
    ("openai_reranker", {"model": "bge", "truncate": False}, {"top_n": 2}),
]
LIMITS = {
    ("voyage_reranker", "rerank-3"): (32_000, 1_000, 600_000, False),
    ("cohere_reranker", "rerank-v4.0-fast"): (32_768, 1_000, 4_096_000, False),
    ("cohere_reranker", "rerank-v3.5"): (4_096, 1_000, 4_096_000, False),
    ("jina_reranker", "jina-reranker-v3.5"): (131_072, 512, 1_000_000, True),
    ("jina_reranker", "jina-reranker-v3"): (131_072, 512, 1_000_000, True),
    ("jina_reranker", "jina-reranker-v2-base-multilingual"): (1_024, 512, 1_000_000, False),
}


def load(family: str, **options: Any) -> HostedReranker:
    reranker = default_registry().load(ModelSpec("r", family, options))
    assert isinstance(reranker, HostedReranker)
    return reranker


@pytest.mark.parametrize(("family", "options", "more"), REQUESTS)
def test_each_provider_is_asked_in_its_own_fields(
    start_provider: Start, family: str, options: dict[str, Any], more: dict[str, Any]
) -> None:
    server = start_provider(family)
    reranker = load(family, base_url=server.base_url, **options)
    reranker.rerank("q", ["a", "b"])
    reranker.close()
    assert server.requests == [{"model": options["model"], "query": "q", "documents": ["a", "b"], **more}]


@pytest.mark.parametrize(("family", "model"), LIMITS)
def test_the_card_has_the_providers_limits(start_provider: Start, family: str, model: str) -> None:
    reranker = load(family, base_url=start_provider(family).base_url, model=model)
    card = reranker.card
    reranker.close()
    told = (card.max_tokens, card.max_batch_items, card.max_batch_tokens, card.listwise)
    assert told == LIMITS[family, model]


@pytest.mark.parametrize(
    ("family", "variable", "key", "url"),
    [
        ("voyage_reranker", "VOYAGE_API_KEY", "pa-0123456789", "https://api.voyageai.com/v1/rerank"),
        ("voyage_reranker", "VOYAGE_API_KEY", "al-0123456789", "https://ai.mongodb.com/v1/rerank"),
        ("cohere_reranker", "CO_API_KEY", "key", "https://api.cohere.com/v2/rerank"),
        ("jina_reranker", "JINA_API_KEY", "jina_0", "https://api.jina.ai/v1/rerank"),
    ],
)
def test_the_hosts_and_keys_are_those_of_the_providers_embeddings(
    monkeypatch: pytest.MonkeyPatch, family: str, variable: str, key: str, url: str
) -> None:
    monkeypatch.setenv(variable, key)
    reranker = load(family, model="any")
    assert reranker._endpoint.url == url
    reranker.close()


def test_how_much_of_a_text_is_read_changes_the_space(start_provider: Start) -> None:
    for family, option in (("cohere_reranker", "max_tokens_per_doc"), ("jina_reranker", "max_doc_length")):
        url = start_provider(family).base_url
        spaces = set()
        for length in (100, 200):
            reranker = load(family, base_url=url, model="jina-reranker-v3", **{option: length})
            spaces.add(reranker.card.space_id)
            reranker.close()
        assert len(spaces) == 2


def test_a_server_of_ones_own_needs_its_address() -> None:
    with pytest.raises(InvalidArgument, match="needs the option 'base_url'"):
        load("openai_reranker", model="bge")
