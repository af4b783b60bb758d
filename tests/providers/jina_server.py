"""Jina AI's published contract for embeddings, as its OpenAPI of 2026-04-02 has it, on this machine."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from tests.providers.server import Fault, ProviderServer, Vectors, in_base64, listed, run, too_much

MAX_ITEMS = 512
MAX_TOKENS = 1_000_000
MULTI_SIZE = 128
EVERY = {"model", "input", "task", "dimensions", "truncate", "embedding_type"}
RETRIEVAL = {"retrieval.query", "retrieval.passage", "text-matching"}


class Schema:
    """What the contract says of requests for one model."""

    def __init__(self, fields: set[str], tasks: set[str], size: int, largest: int, text_tokens: int) -> None:
        self.fields = EVERY | fields
        self.tasks = RETRIEVAL | tasks
        self.size = size
        self.largest = largest
        self.text_tokens = text_tokens


SCHEMAS = {
    "jina-embeddings-v5-text-small": Schema(
        {"normalized"}, {"clustering", "classification"}, 1024, 1024, 32_768
    ),
    "jina-embeddings-v5-text-nano": Schema(
        {"normalized"}, {"clustering", "classification"}, 768, 1024, 8_192
    ),
    "jina-embeddings-v4": Schema(
        {"late_chunking", "return_multivector", "return_tokenized_input"},
        {"code.query", "code.passage"},
        2048,
        2048,
        32_768,
    ),
    "jina-embeddings-v3": Schema(
        {"normalized", "late_chunking"}, {"classification", "separation"}, 1024, 1024, 8_192
    ),
}


class JinaContract:
    """POST /v1/embeddings."""

    path = "/v1/embeddings"
    headers: ClassVar = {"X-RateLimit-Remaining-Requests": "499", "X-RateLimit-Remaining-Tokens": "999999"}

    def texts(self, request: dict[str, Any]) -> list[str]:
        """One text or several."""
        given = request["input"]
        return [given] if isinstance(given, str) else given

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Fields and tasks by model, and limits; a name that does not begin with jina is the tests' own."""
        schema = SCHEMAS.get(request["model"])
        if schema is None and request["model"].startswith("jina"):
            return Fault(400, f"Model '{request['model']}' not found", "INPUT_MODEL_NOT_FOUND")
        schema = schema or SCHEMAS["jina-embeddings-v3"]
        if unknown := set(request) - schema.fields:
            return Fault(422, f"{unknown.pop()}: extra inputs are not permitted")
        if request.get("task", "text-matching") not in schema.tasks:
            return Fault(422, f"task: {request['task']} is none of {sorted(schema.tasks)}")
        if request.get("return_multivector") and "dimensions" in request:
            return Fault(422, "return_multivector cannot be used with dimensions")
        if not 1 <= request.get("dimensions", 1) <= schema.largest:
            return Fault(422, f"dimensions: at most {schema.largest}")
        broken = too_much(
            self.texts(request),
            items=MAX_ITEMS,
            tokens=MAX_TOKENS,
            text_tokens=None if request.get("truncate") else schema.text_tokens,
        )
        if request.get("late_chunking") and not request.get("truncate"):
            broken = broken or too_much(
                ["".join(self.texts(request))], items=1, tokens=MAX_TOKENS, text_tokens=schema.text_tokens
            )
        return Fault(400, broken, "INPUT_INVALID") if broken else None

    def dimensions(self, request: dict[str, Any], native: int) -> int:
        """As asked for, or the model's."""
        if request.get("return_multivector"):
            return MULTI_SIZE
        schema = SCHEMAS.get(request["model"])
        return request.get("dimensions") or (schema.size if schema else native)

    def wants_base64(self, request: dict[str, Any]) -> bool:
        """By its embedding_type."""
        return request.get("embedding_type") == "base64"

    def answer(self, request: dict[str, Any], vectors: Vectors) -> dict[str, Any]:
        """A list of embeddings."""
        usage = {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens}
        if request.get("late_chunking"):
            vectors = _in_context(self.texts(request), vectors)
        data = _by_token(request, vectors) if request.get("return_multivector") else listed(vectors)
        return {"model": request["model"], "object": "list", "data": data, "usage": usage}

    def error(self, fault: Fault) -> dict[str, Any]:
        """A sentence, a code, a number."""
        return {"detail": fault.message, "code": fault.code, "request_id": "00000000"}


def _by_token(request: dict[str, Any], vectors: Vectors) -> list[dict[str, Any]]:
    """The vector of the text, then one for each further word: as the first, in base64 or as a list."""
    data = []
    for index, row in zip(vectors.indexes, vectors.rows, strict=True):
        further = token_vectors(request["input"][index])[1:]
        spelt = [in_base64(vector) if isinstance(row, str) else vector.tolist() for vector in further]
        data.append({"object": "embeddings", "index": index, "embeddings": [row, *spelt]})
    return data


def _in_context(texts: list[str], vectors: Vectors) -> Vectors:
    """Each text's vector as a part of all of them, in base64 or as a list, as the other was."""
    rows = []
    for index, row in zip(vectors.indexes, vectors.rows, strict=True):
        size = len(b64decode(row)) // 4 if isinstance(row, str) else len(row)
        vector = late_vectors(texts, size)[index]
        rows.append(in_base64(vector) if isinstance(row, str) else vector.tolist())
    return Vectors(rows, vectors.indexes, vectors.tokens)


def late_vectors(texts: Sequence[str], size: int) -> np.ndarray[Any, Any]:
    """What is answered for texts that are chunks of one document, of shape (texts, size)."""
    whole = "".join(texts)
    told = [f"{text} in {whole}" for text in texts]
    return FakeEmbedder(FakeOptions(dimensions=size)).embed(told, "document").dense


def token_vectors(text: str) -> np.ndarray[Any, Any]:
    """What is answered for a text, of shape (words, 128)."""
    words = [text, *text.split()[1:]]
    return FakeEmbedder(FakeOptions(dimensions=MULTI_SIZE)).embed(words, "document").dense


jina_server = partial(ProviderServer, JinaContract())


if __name__ == "__main__":
    run(jina_server)
