"""Cohere's published contract for embeddings, on this machine."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from tests.providers.server import Fault, ProviderServer, Vectors, run, too_much

MAX_ITEMS = 96
MAX_TOKENS = 128_000
V5_SIZES, V4_SIZES = (2048, 1536, 1024, 768, 512, 256), (1536, 1024, 512, 256)
ONE_SIZE = {
    "embed-english-v3.0": 1024,
    "embed-multilingual-v3.0": 1024,
    "embed-english-light-v3.0": 384,
    "embed-multilingual-light-v3.0": 384,
}
FIELDS = {
    "model", "input_type", "texts", "images", "inputs", "max_tokens", "output_dimension", "embedding_types",
    "truncate", "priority",
}  # fmt: skip
INPUT_TYPES = {"search_document", "search_query", "classification", "clustering", "image"}


class CohereContract:
    """POST /v2/embed."""

    path = "/v2/embed"
    headers: ClassVar = {}

    def texts(self, request: dict[str, Any]) -> list[str]:
        """A list."""
        return list(request.get("texts") or [])

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Fields, limits, and sizes; models whose name does not begin with embed are the tests' own."""
        if unknown := set(request) - FIELDS:
            return Fault(400, f"unknown field: {unknown.pop()}")
        if request.get("input_type") not in INPUT_TYPES:
            return Fault(400, "valid input_type must be provided")
        if request.get("truncate", "END") not in ("NONE", "START", "END"):
            return Fault(400, "truncate must be NONE, START or END")
        for index, text in enumerate(self.texts(request)):
            if not text:
                return Fault(400, f"inputs contains an element that is the empty string at index {index}")
        size = request.get("output_dimension")
        if size is not None and size not in _sizes(request["model"], size):
            return Fault(400, f"output_dimension {size} is not supported by {request['model']}")
        broken = too_much(self.texts(request), items=MAX_ITEMS, tokens=MAX_TOKENS)
        return Fault(400, broken) if broken else None

    def dimensions(self, request: dict[str, Any], native: int) -> int:
        """As asked for, or the model's."""
        return request.get("output_dimension") or _sizes(request["model"], native)[0]

    def wants_base64(self, request: dict[str, Any]) -> bool:
        """By its embedding_types, of which one is answered here."""
        return request.get("embedding_types") == ["base64"]

    def answer(self, request: dict[str, Any], vectors: Vectors) -> dict[str, Any]:
        """Lists by type, in the order of the texts."""
        kind = "base64" if self.wants_base64(request) else "float"
        return {
            "id": "0c8cd1a2-0000-4000-8000-000000000000",
            "embeddings": {kind: vectors.rows},
            "texts": request["texts"],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": vectors.tokens}},
            "response_type": "embeddings_by_type",
        }

    def error(self, fault: Fault) -> dict[str, Any]:
        """An id and one sentence."""
        return {"id": "0c8cd1a2-0000-4000-8000-000000000001", "message": fault.message}


def _sizes(model: str, native: int) -> tuple[int, ...]:
    if model in ONE_SIZE:
        return (ONE_SIZE[model],)
    if model.startswith("embed-v5"):
        return V5_SIZES
    return V4_SIZES if model.startswith("embed-v4") else (native,)


cohere_server = partial(ProviderServer, CohereContract())


if __name__ == "__main__":
    run(cohere_server)
