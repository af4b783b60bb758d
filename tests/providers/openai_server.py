"""OpenAI's published contract for embeddings, on this machine.

Run it by hand: `python -m tests.providers.openai_server --port 8080`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from tests.providers.server import Fault, ProviderServer, Vectors, listed, run, too_much

MAX_ITEMS = 2_048
MAX_TOKENS = 300_000
MAX_TEXT_TOKENS = 8_192
NATIVE_DIMENSIONS = {"text-embedding-3-small": 1_536, "text-embedding-3-large": 3_072}


class OpenAIContract:
    """POST /v1/embeddings."""

    path = "/v1/embeddings"
    headers: ClassVar = {"x-ratelimit-remaining-requests": "4999", "x-ratelimit-reset-requests": "12ms"}

    def texts(self, request: dict[str, Any]) -> list[str]:
        """One text or several."""
        given = request["input"]
        return [given] if isinstance(given, str) else given

    def refusal(self, request: dict[str, Any]) -> Fault | None:
        """Limits, and the one old model that has one size."""
        broken = too_much(
            self.texts(request), items=MAX_ITEMS, tokens=MAX_TOKENS, text_tokens=MAX_TEXT_TOKENS
        )
        if broken:
            return Fault(400, broken, param="input")
        if request["model"] == "text-embedding-ada-002" and "dimensions" in request:
            return Fault(400, "this model does not support specifying dimensions", param="dimensions")
        return None

    def dimensions(self, request: dict[str, Any], native: int) -> int:
        """As asked for, or the model's."""
        return request.get("dimensions") or NATIVE_DIMENSIONS.get(request["model"], native)

    def wants_base64(self, request: dict[str, Any]) -> bool:
        """By its encoding_format."""
        return request.get("encoding_format") == "base64"

    def answer(self, request: dict[str, Any], vectors: Vectors) -> dict[str, Any]:
        """A list of embeddings."""
        usage = {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens}
        return {"object": "list", "data": listed(vectors), "model": request["model"], "usage": usage}

    def error(self, fault: Fault) -> dict[str, Any]:
        """An object under `error`."""
        kind = "invalid_request_error" if fault.status < 429 else "server_error"
        return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}}


openai_server = partial(ProviderServer, OpenAIContract())


if __name__ == "__main__":
    run(openai_server)
