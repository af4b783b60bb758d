"""Voyage AI's published contract for embeddings, on this machine."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from tests.providers.server import Fault, ProviderServer, Vectors, listed, run, too_much

MAX_ITEMS, MAX_CHUNKS = 1_000, 16_000
SIZES = {256, 512, 1024, 2048}
ONE_SIZE = {"voyage-finance-2": 1024, "voyage-law-2": 1024, "voyage-code-2": 1536}
TOTAL_TOKENS = {
    "voyage-4-lite": 1_000_000,
    "voyage-3.5-lite": 1_000_000,
    "voyage-4": 320_000,
    "voyage-3.5": 320_000,
}
FEWEST_TOTAL_TOKENS = 120_000
TEXT_TOKENS = 32_000
FIELDS = {
    "input", "model", "input_type", "truncation", "output_dimension", "output_dtype", "encoding_format",
}  # fmt: skip


class VoyageContract:
    """POST /v1/embeddings."""

    path = "/v1/embeddings"
    headers: ClassVar = {}

    def texts(self, request: dict[str, Any]) -> list[str]:
        """One text or several."""
        given = request["input"]
        return [given] if isinstance(given, str) else given

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Fields, limits, and sizes; models whose name does not begin with voyage are the tests' own."""
        model, size = request["model"], request.get("output_dimension")
        if unknown := set(request) - FIELDS:
            return Fault(400, f"Argument '{unknown.pop()}' is not supported by our API")
        if request.get("input_type") not in (None, "query", "document"):
            return Fault(400, "input_type must be query or document")
        if request.get("encoding_format") not in (None, "base64"):
            return Fault(400, "encoding_format must be null or base64")
        if model.startswith("voyage") and size is not None and (model in ONE_SIZE or size not in SIZES):
            return Fault(400, f"output_dimension {size} is not supported by {model}")
        broken = too_much(
            self.texts(request),
            items=MAX_ITEMS,
            tokens=TOTAL_TOKENS.get(model, FEWEST_TOTAL_TOKENS),
            text_tokens=None if request.get("truncation", True) else TEXT_TOKENS,
        )
        return Fault(400, broken) if broken else None

    def dimensions(self, request: dict[str, Any], native: int) -> int:
        """As asked for, or the model's."""
        model = request["model"]
        default = ONE_SIZE.get(model, 1024) if model.startswith("voyage") else native
        return request.get("output_dimension") or default

    def wants_base64(self, request: dict[str, Any]) -> bool:
        """By its encoding_format."""
        return request.get("encoding_format") == "base64"

    def answer(self, request: dict[str, Any], vectors: Vectors) -> dict[str, Any]:
        """A list of embeddings."""
        usage = {"total_tokens": vectors.tokens}
        return {"object": "list", "data": listed(vectors), "model": request["model"], "usage": usage}

    def error(self, fault: Fault) -> dict[str, Any]:
        """One sentence."""
        return {"detail": fault.message}


class VoyageContextContract(VoyageContract):
    """POST /v1/contextualizedembeddings, for documents that are chunks already."""

    path = "/v1/contextualizedembeddings"
    fields: ClassVar = {
        "inputs",
        "model",
        "input_type",
        "output_dimension",
        "output_dtype",
        "encoding_format",
    }

    def texts(self, request: dict[str, Any]) -> list[str]:
        """All chunks."""
        return [chunk for document in request["inputs"] for chunk in document]

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Fields, sizes, and limits of documents, chunks and tokens."""
        if unknown := set(request) - self.fields:
            return Fault(400, f"Argument '{unknown.pop()}' is not supported by our API")
        documents = request["inputs"]
        if not all(documents) or not 1 <= len(documents) <= MAX_ITEMS:
            return Fault(400, f"1 to {MAX_ITEMS} inputs are allowed, none of them empty")
        if max(sum(len(chunk) // 4 for chunk in document) for document in documents) > TEXT_TOKENS:
            return Fault(400, f"an input may have {TEXT_TOKENS} tokens")
        if request.get("output_dimension") not in (None, *SIZES):
            return Fault(400, "output_dimension is not supported")
        broken = too_much(self.texts(request), items=MAX_CHUNKS, tokens=FEWEST_TOTAL_TOKENS)
        return Fault(400, broken) if broken else None

    def answer(self, request: dict[str, Any], vectors: Vectors) -> dict[str, Any]:
        """A list of documents, each a list of embeddings."""
        places = [(d, c) for d, document in enumerate(request["inputs"]) for c in range(len(document))]
        found: dict[int, list[dict[str, Any]]] = {}
        for item in listed(vectors):
            document, chunk = places[item["index"]]
            found.setdefault(document, []).append({**item, "index": chunk})
        data = [{"object": "list", "data": chunks, "index": document} for document, chunks in found.items()]
        usage = {"total_tokens": vectors.tokens}
        return {
            "object": "list",
            "data": data,
            "model": request["model"],
            "usage": usage,
            "chunker_version": None,
        }


voyage_context_server = partial(ProviderServer, VoyageContextContract())
voyage_server = partial(ProviderServer, VoyageContract())


if __name__ == "__main__":
    run(voyage_server)
