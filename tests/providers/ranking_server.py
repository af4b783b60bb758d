"""The providers' published contracts for rerankers, on this machine; scores are made of hashes."""

from __future__ import annotations

from functools import partial
from hashlib import shake_128
from typing import Any, ClassVar

from tests.providers import cohere_server, jina_server, voyage_server
from tests.providers.server import Fault, ProviderServer, too_much

Ranks = list[tuple[int, float | None]]  # places of texts and their scores, the best first


def score(query: str, text: str) -> float:
    """Between 0 and 1, and exact in 32 bits."""
    return int.from_bytes(shake_128(f"{query}\0{text}".encode()).digest(3)) / 2**24


class RankingContract:
    """What the contracts share: a query, documents, and results that are sorted by score."""

    path = "/v1/rerank"
    headers: ClassVar[dict[str, str]] = {}
    fields: ClassVar[set[str]]
    strict = 422  # the status that an unknown field has
    max_items = 1_000
    max_tokens = 1_000_000
    results = "results"

    def texts(self, request: dict[str, Any]) -> list[str]:
        """The documents behind the query: any of them may tell of a fault."""
        return [request["query"], *request["documents"]]

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Fields and limits."""
        if unknown := set(request) - self.fields:
            return Fault(self.strict, f"unknown field: {unknown.pop()}")
        query, documents = request["query"], request["documents"]
        broken = too_much(documents, items=self.max_items, tokens=self.max_tokens)
        if (
            not query
            or (len(query) // 4) * len(documents) + sum(len(d) // 4 for d in documents) > self.max_tokens
        ):
            broken = broken or f"a query, and at most {self.max_tokens} tokens with it"
        return Fault(400, broken) if broken else None

    def result(self, request: dict[str, Any], index: int, found: float | None) -> dict[str, Any]:
        """One of the results."""
        return {"index": index, "relevance_score": found}

    def answer(self, request: dict[str, Any], ranks: Ranks, tokens: int) -> Any:
        """The results, and what they cost."""
        return {
            "object": "list",
            self.results: [self.result(request, index, found) for index, found in ranks],
            "model": request["model"],
            "usage": {"total_tokens": tokens},
        }

    def error(self, fault: Fault) -> dict[str, Any]:
        """One sentence."""
        return {"detail": fault.message, "code": fault.code}


class RankingServer(ProviderServer):
    """A server that scores."""

    def respond(self, request: dict[str, Any], shape: str | None) -> Any:
        """Sorted by score."""
        query, *documents = self.contract.texts(request)
        ranks: Ranks = [(index, score(query, text)) for index, text in enumerate(documents)]
        ranks.sort(key=lambda rank: -(rank[1] or 0))
        if shape == "SHORT":
            ranks.pop()
        if shape == "DOUBLED":
            ranks = [(0, found) for _, found in ranks]
        if shape == "NAN":
            ranks[-1] = (ranks[-1][0], None)  # as JSON spells it
        tokens = sum(len(text.split()) for text in documents) + len(query.split()) * len(documents)
        return self.contract.answer(request, ranks[: request.get("top_n")], tokens)  # type: ignore[call-arg, arg-type]


class VoyageRankingContract(RankingContract):
    """POST /v1/rerank."""

    fields: ClassVar = {"query", "documents", "model", "top_k", "return_documents", "truncation"}
    strict = 400
    max_tokens = 600_000
    results = "data"
    error = voyage_server.VoyageContract.error  # type: ignore[assignment]


class CohereRankingContract(RankingContract):
    """POST /v2/rerank."""

    path = "/v2/rerank"
    fields: ClassVar = {
        "model",
        "query",
        "documents",
        "top_n",
        "max_tokens_per_doc",
        "relevant_spans",
        "priority",
    }
    strict = 400
    max_items = 10_000
    error = cohere_server.CohereContract.error  # type: ignore[assignment]

    def answer(self, request: dict[str, Any], ranks: Ranks, tokens: int) -> Any:
        """What is billed are searches."""
        return {
            "id": "0c8cd1a2-0000-4000-8000-000000000002",
            "results": [self.result(request, index, found) for index, found in ranks],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
        }


class JinaRankingContract(RankingContract):
    """POST /v1/rerank, as Jina's OpenAPI of 2026-04-02 has it."""

    fields: ClassVar = {"model", "query", "documents", "top_n", "return_documents", "truncation"}
    more: ClassVar = {"jina-reranker-v3": {"max_doc_length", "return_embeddings"}}
    error = jina_server.JinaContract.error  # type: ignore[assignment]

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Fields by model; a name that does not begin with jina is the tests' own."""
        model = request["model"]
        if model.startswith("jina") and set(request) - self.fields - self.more.get(model, set()):
            return Fault(422, f"extra inputs are not permitted by {model}")
        if not 1 <= request.get("max_doc_length", 1) <= 8_192:
            return Fault(422, "max_doc_length: at most 8192")
        return super().refusal({name: request[name] for name in self.fields if name in request})

    def result(self, request: dict[str, Any], index: int, found: float | None) -> dict[str, Any]:
        """With its document, unless that is not wanted."""
        result = super().result(request, index, found)
        return (
            {**result, "document": request["documents"][index]}
            if request.get("return_documents", True)
            else result
        )


class ServedRankingContract(RankingContract):
    """POST /v1/rerank, as vLLM has it: documents come back, fields that it does not know are let pass."""

    fields: ClassVar = {"model", "query", "documents", "top_n", "truncate_prompt_tokens"}

    def result(self, request: dict[str, Any], index: int, found: float | None) -> dict[str, Any]:
        """With its document."""
        return {**super().result(request, index, found), "document": {"text": request["documents"][index]}}

    def error(self, fault: Fault) -> dict[str, Any]:
        """An object under `error`."""
        return {
            "error": {
                "message": fault.message,
                "type": "BadRequestError",
                "param": fault.param,
                "code": fault.status,
            }
        }


voyage_ranking_server = partial(RankingServer, VoyageRankingContract())  # type: ignore[arg-type]
cohere_ranking_server = partial(RankingServer, CohereRankingContract())  # type: ignore[arg-type]
jina_ranking_server = partial(RankingServer, JinaRankingContract())  # type: ignore[arg-type]
served_ranking_server = partial(RankingServer, ServedRankingContract())  # type: ignore[arg-type]
