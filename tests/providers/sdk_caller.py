"""Makes calls with a provider's own package: a program of its own, which reads JSON and prints JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

KEY = "key-for-tests"
Call = Callable[[dict[str, Any]], dict[str, Any]]


def openai(base_url: str) -> Call:
    """The package openai."""
    from openai import OpenAI

    client = OpenAI(api_key=KEY, base_url=base_url, max_retries=0)

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = client.embeddings.create(**arguments)
        return {"vectors": [item.embedding for item in answer.data], "tokens": answer.usage.total_tokens}

    return call


def voyage(base_url: str) -> Call:
    """The package voyageai."""
    import voyageai

    client = voyageai.Client(api_key=KEY, base_url=base_url)

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = client.embed(**arguments)
        return {"vectors": answer.embeddings, "tokens": answer.total_tokens}

    return call


def voyage_context(base_url: str) -> Call:
    """The package voyageai."""
    import voyageai

    client = voyageai.Client(api_key=KEY, base_url=base_url)

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = client.contextualized_embed(**arguments)
        return {"documents": [result.embeddings for result in answer.results], "tokens": answer.total_tokens}

    return call


def voyage_reranker(base_url: str) -> Call:
    """The package voyageai."""
    import voyageai

    client = voyageai.Client(api_key=KEY, base_url=base_url)

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = client.rerank(**arguments)
        ranked = [(result.index, result.relevance_score) for result in answer.results]
        return {"ranked": ranked, "tokens": answer.total_tokens}

    return call


def cohere_reranker(base_url: str) -> Call:
    """The package cohere."""
    from cohere import ClientV2

    client = ClientV2(KEY, base_url=base_url, max_retries=0)

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = client.rerank(**arguments)
        ranked = [(result.index, result.relevance_score) for result in answer.results]
        return {"ranked": ranked, "searches": answer.meta.billed_units.search_units}

    return call


def cohere(base_url: str) -> Call:
    """The package cohere."""
    from cohere import ClientV2

    client = ClientV2(KEY, base_url=base_url, max_retries=0)

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = client.embed(**arguments)
        return {"vectors": answer.embeddings.float_, "tokens": answer.meta.billed_units.input_tokens}

    return call


SDKS = {
    "openai": openai,
    "voyage": voyage,
    "voyage_context": voyage_context,
    "voyage_reranker": voyage_reranker,
    "cohere": cohere,
    "cohere_reranker": cohere_reranker,
}


def main() -> None:
    """Call as told; an error of the package is told by its name."""
    asked = json.load(sys.stdin)
    call = SDKS[asked["sdk"]](asked["base_url"])
    answers = []
    for arguments in asked["calls"]:
        try:
            answers.append(call(arguments))
        except Exception as exc:
            answers.append({"error": type(exc).__name__})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
