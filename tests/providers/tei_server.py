"""Text Embeddings Inference's published contract, as 1.9 has it, on this machine."""

from __future__ import annotations

from functools import partial
from hashlib import shake_128
from typing import Any, ClassVar

from tests.providers.ranking_server import RankingServer, Ranks
from tests.providers.server import Fault, ProviderServer, Vectors

MAX_ITEMS = 32
MAX_INPUT_LENGTH = 512
VOCABULARY = 30_522
PROMPTS = {"query", "document"}
INFO = {
    "model_id": "thenlper/gte-base",
    "model_sha": "fca14538aa9956a46526bd1d0d11d69e19b5a101",
    "model_dtype": "float16",
    "served_model_name": "thenlper/gte-base",
    "model_type": {"embedding": {"pooling": "cls"}},
    "max_concurrent_requests": 512,
    "max_input_length": MAX_INPUT_LENGTH,
    "max_batch_tokens": 16_384,
    "max_batch_requests": None,
    "max_client_batch_size": MAX_ITEMS,
    "auto_truncate": True,
    "tokenization_workers": 4,
    "version": "1.9.3",
    "sha": None,
    "docker_label": None,
}
ERROR_TYPES = {400: "Empty", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


class TeiContract:
    """POST /embed and GET /info."""

    path = "/embed"
    headers: ClassVar = {"x-compute-tokens": "7"}
    fields: ClassVar = {
        "inputs",
        "truncate",
        "truncation_direction",
        "prompt_name",
        "normalize",
        "dimensions",
    }
    list_name = "inputs"

    def __init__(self, **info: Any) -> None:
        self.info = {"/info": {**INFO, **info}}

    def texts(self, request: dict[str, Any]) -> list[str]:
        """A list."""
        return list(request[self.list_name])

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Fields, prompts and limits, with four characters a token."""
        texts = self.texts(request)
        if unknown := set(request) - self.fields:
            return Fault(422, f"unknown field `{unknown.pop()}`")
        if request.get("prompt_name") not in {None, *PROMPTS}:
            return Fault(422, f"prompt {request['prompt_name']} was not found")
        if request.get("dimensions", 1) > 8:
            return Fault(422, "`dimensions` should be smaller than the maximum embedding dimension.")
        if not texts:
            return Fault(400, f"`{self.list_name}` cannot be empty")
        if len(texts) > MAX_ITEMS:
            return Fault(422, f"batch size {len(texts)} > maximum allowed batch size {MAX_ITEMS}")
        if not all(texts):
            return Fault(422, "`inputs` cannot be empty")
        longest = max(len(text) // 4 for text in texts)
        if longest > MAX_INPUT_LENGTH and not request.get("truncate"):
            return Fault(422, f"`inputs` must have less than {MAX_INPUT_LENGTH} tokens. Given: {longest}")
        return None

    def dimensions(self, request: dict[str, Any], native: int) -> int:
        """As asked for, or the model's."""
        return request.get("dimensions") or native

    def wants_base64(self, request: dict[str, Any]) -> bool:
        """There are only lists."""
        return False

    def answer(self, request: dict[str, Any], vectors: Vectors) -> Any:
        """Lists of numbers, in the order of the texts."""
        return vectors.rows

    def error(self, fault: Fault) -> dict[str, Any]:
        """A sentence and a word."""
        return {"error": fault.message, "error_type": ERROR_TYPES.get(fault.status, "Validation")}


class TeiSparseContract(TeiContract):
    """POST /embed_sparse and GET /info."""

    path = "/embed_sparse"
    fields: ClassVar = {"inputs", "truncate", "truncation_direction", "prompt_name"}

    def __init__(self) -> None:
        super().__init__(model_type={"embedding": {"pooling": "splade"}})

    def answer(self, request: dict[str, Any], vectors: Vectors) -> Any:
        """A value for each word."""
        rows = [sparse_row(text) for text in self.texts(request)]
        rows = rows[: len(vectors.rows)]
        if any("BEYOND" in text for text in self.texts(request)):
            rows[-1].append({"index": VOCABULARY, "value": 1.0})
        if any("TWICE" in text for text in self.texts(request)):
            rows[-1].append(dict(rows[-1][0]))
        return rows


class TeiRankingContract(TeiContract):
    """POST /rerank and GET /info."""

    path = "/rerank"
    fields: ClassVar = {"query", "texts", "truncate", "truncation_direction", "raw_scores", "return_text"}
    list_name = "texts"

    def __init__(self) -> None:
        labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        super().__init__(model_id="BAAI/bge-reranker-base", model_type={"reranker": labels})

    def texts(self, request: dict[str, Any]) -> list[str]:
        """The texts behind the query: any of them may tell of a fault."""
        return [request["query"], *request["texts"]]

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """As for vectors; the query is no text of the batch."""
        if unknown := set(request) - self.fields:
            return Fault(422, f"unknown field `{unknown.pop()}`")
        told = {"inputs": request["texts"], "truncate": request.get("truncate")}
        return TeiContract().refusal(told)

    def answer(self, request: dict[str, Any], ranks: Ranks, tokens: int) -> Any:  # type: ignore[override]
        """Places and scores."""
        return [{"index": index, "score": found} for index, found in ranks]


def sparse_row(text: str) -> list[dict[str, Any]]:
    """An index for each word and its length as the value, in no order."""
    words = dict.fromkeys(text.split())
    return [
        {"index": int.from_bytes(shake_128(word.encode()).digest(4)) % VOCABULARY, "value": len(word) / 4}
        for word in words
    ]


tei_server = partial(ProviderServer, TeiContract())
tei_sparse_server = partial(ProviderServer, TeiSparseContract())
tei_ranking_server = partial(RankingServer, TeiRankingContract())  # type: ignore[arg-type]
