"""Our calls are those of the providers' own packages, field by field; these understand the local servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pg_embed.models.contextual import ContextualEmbedder
from pg_embed.models.registry import default_registry
from pg_embed.records import Kind, ModelSpec
from tests.fix_sdks import CallSdk
from tests.providers.server import ProviderServer

TEXTS = ["How do I get my money back?", "naïve Größe 東京 🦜", 'a "quoted"\nline']
ERRORS = {
    "openai": ["BadRequestError", "AuthenticationError", "RateLimitError"],
    "voyage": ["InvalidRequestError", "AuthenticationError", "RateLimitError"],
    "cohere": ["BadRequestError", "UnauthorizedError", "TooManyRequestsError"],
}


@dataclass(frozen=True)
class Case:
    """The same work, told to our family by options and to the package by arguments."""

    options: dict[str, Any]
    kind: Kind
    arguments: dict[str, Any]


CASES = {
    "openai": [
        Case(
            {"model": "text-embedding-3-small"},
            "document",
            {"model": "text-embedding-3-small", "input": TEXTS},
        ),
        Case(
            {"model": "text-embedding-3-large", "dimensions": 256},
            "query",
            {"model": "text-embedding-3-large", "dimensions": 256, "input": TEXTS},
        ),
    ],
    "voyage": [
        Case(
            {"model": "voyage-4-large"},
            "document",
            {
                "model": "voyage-4-large",
                "texts": TEXTS,
                "input_type": "document",
                "output_dtype": "float",
                "output_dimension": 1024,
            },
        ),
        Case(
            {"model": "voyage-4-lite", "dimensions": 256, "truncate": False},
            "query",
            {
                "model": "voyage-4-lite",
                "texts": TEXTS,
                "input_type": "query",
                "truncation": False,
                "output_dtype": "float",
                "output_dimension": 256,
            },
        ),
        Case(
            {"model": "voyage-law-2"},
            "document",
            {"model": "voyage-law-2", "texts": TEXTS, "input_type": "document", "output_dtype": "float"},
        ),
    ],
    "cohere": [
        Case(
            {"model": "embed-v5.0-pro"},
            "document",
            {
                "model": "embed-v5.0-pro",
                "texts": TEXTS,
                "input_type": "search_document",
                "embedding_types": ["float"],
                "output_dimension": 2048,
                "truncate": "END",
            },
        ),
        Case(
            {"model": "embed-multilingual-v3.0", "truncate": "NONE"},
            "query",
            {
                "model": "embed-multilingual-v3.0",
                "texts": TEXTS,
                "input_type": "search_query",
                "embedding_types": ["float"],
                "truncate": "NONE",
            },
        ),
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", CASES)
def test_the_packages_calls_are_ours_and_it_understands_the_answers(
    family: str, start_provider: Callable[[str], ProviderServer], call_sdk: CallSdk
) -> None:
    server = start_provider(family)
    base_url = (
        server.origin if family == "cohere" else server.base_url
    )  # that package adds the version itself
    theirs = call_sdk(family, base_url, [case.arguments for case in CASES[family]])
    their_requests = [_told(request) for request in server.requests]
    assert len(their_requests) == len(CASES[family])
    for case, their_answer, their_request in zip(CASES[family], theirs, their_requests, strict=True):
        options = {**case.options, "base_url": server.base_url}
        embedder = default_registry().load(ModelSpec("model", family, options))
        ours = embedder.embed(TEXTS, case.kind)
        embedder.close()
        assert server.requests[-1] == their_request
        assert np.array_equal(ours.dense, np.array(their_answer["vectors"], np.float32))
        assert ours.tokens == their_answer["tokens"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", CASES)
def test_the_package_understands_the_errors(
    family: str, start_provider: Callable[[str], ProviderServer], call_sdk: CallSdk
) -> None:
    server = start_provider(family)
    base_url = server.origin if family == "cohere" else server.base_url
    texts = "input" if family == "openai" else "texts"
    calls = [
        {**CASES[family][0].arguments, texts: [word]} for word in ("POISON", "UNAUTHORIZED", "RATE_LIMIT")
    ]
    assert [answer["error"] for answer in call_sdk(family, base_url, calls)] == ERRORS[family]


RANKINGS = {
    "voyage_reranker": [
        ({"model": "rerank-3"}, {"model": "rerank-3"}),
        ({"model": "rerank-2.5-lite", "truncate": False}, {"model": "rerank-2.5-lite", "truncation": False}),
    ],
    "cohere_reranker": [
        ({"model": "rerank-v5.0-pro"}, {"model": "rerank-v5.0-pro", "max_tokens_per_doc": 4096}),
        (
            {"model": "rerank-v3.5", "max_tokens_per_doc": 512},
            {"model": "rerank-v3.5", "max_tokens_per_doc": 512},
        ),
    ],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", RANKINGS)
def test_the_packages_rankings_are_ours(
    family: str, start_provider: Callable[[str], ProviderServer], call_sdk: CallSdk
) -> None:
    server = start_provider(family)
    base_url = server.origin if family.startswith("cohere") else server.base_url
    work = {"query": "How do I get my money back?", "documents": TEXTS}
    theirs = call_sdk(family, base_url, [{**work, **arguments} for _, arguments in RANKINGS[family]])
    their_requests = [_told(request) for request in server.requests]
    for (options, _), answer, request in zip(RANKINGS[family], theirs, their_requests, strict=True):
        spec = ModelSpec("model", family, {**options, "base_url": server.base_url})
        reranker = default_registry().load(spec)
        ours = reranker.rerank(work["query"], TEXTS)
        reranker.close()
        assert server.requests[-1] == request
        best_first = sorted(enumerate(ours.scores.tolist()), key=lambda rank: -rank[1])
        assert [list(rank) for rank in best_first] == answer["ranked"]
        assert ours.tokens == answer.get("tokens", ours.tokens)
        assert answer.get("searches", 1) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", RANKINGS)
def test_the_package_understands_the_errors_of_rankings(
    family: str, start_provider: Callable[[str], ProviderServer], call_sdk: CallSdk
) -> None:
    server = start_provider(family)
    base_url = server.origin if family.startswith("cohere") else server.base_url
    arguments = RANKINGS[family][0][1]
    calls = [
        {**arguments, "query": "q", "documents": [word]} for word in ("POISON", "UNAUTHORIZED", "RATE_LIMIT")
    ]
    answers = call_sdk(family, base_url, calls)
    assert [answer["error"] for answer in answers] == ERRORS[family.removesuffix("_reranker")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_packages_contextualised_chunks_are_ours(
    start_provider: Callable[[str], ProviderServer], call_sdk: CallSdk
) -> None:
    server = start_provider("voyage_context")
    documents = [TEXTS, ["alone"], ["two", "chunks"]]
    more = {"output_dtype": "float", "output_dimension": 1024}
    whole = {"inputs": documents, "model": "voyage-context-4", "input_type": "document", **more}
    query = {"inputs": [["q"]], "model": "voyage-context-4", "input_type": "query", **more}
    flat = {**query, "inputs": ["q"]}
    theirs = call_sdk("voyage_context", server.base_url, [whole, query, flat])
    their_requests = [_told(request) for request in server.requests]
    options = {"model": "voyage-context-4", "base_url": server.base_url}
    embedder = default_registry().load(ModelSpec("model", "voyage", options))
    assert isinstance(embedder, ContextualEmbedder)
    ours = embedder.embed_chunks(documents)
    asked = embedder.embed(["q"], "query")
    embedder.close()
    assert server.requests[-2:] == their_requests[:2]
    assert their_requests[1] == their_requests[2]
    for found, expected in zip(ours, theirs[0]["documents"], strict=True):
        assert np.array_equal(found.dense, np.array(expected, np.float32))
    assert sum(found.tokens for found in ours) == theirs[0]["tokens"]
    assert np.array_equal(asked.dense, np.array(theirs[1]["documents"][0], np.float32))
    assert asked.tokens == theirs[1]["tokens"]


def _told(request: dict[str, Any]) -> dict[str, Any]:
    """A request without nulls: voyageai sends one where nothing is said, and we leave the field out."""
    return {name: value for name, value in request.items() if value is not None}
