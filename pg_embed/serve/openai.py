"""OpenAI's `POST /v1/embeddings`: its request understood, its answer and its errors spelled."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from pg_embed.errors import (
    AmbiguousModel,
    BadRequest,
    InputRejected,
    InvalidArgument,
    ModelUnavailable,
    Overloaded,
    PgEmbedError,
    SidecarTimeout,
    UnknownModel,
)
from pg_embed.records import Embeddings, Kind
from pg_embed.serve.requests import MAX_TEXTS

STATUS: dict[type[PgEmbedError], int] = {
    UnknownModel: 404,
    AmbiguousModel: 400,
    BadRequest: 400,
    InvalidArgument: 400,
    InputRejected: 400,
    Overloaded: 429,
    ModelUnavailable: 503,
    SidecarTimeout: 504,
}


@dataclass(frozen=True)
class EmbeddingsRequest:
    """What a client asks for."""

    texts: list[str]
    model: str | None
    kind: Kind
    encoding: Literal["float", "base64"]
    dimensions: int | None


def parse(body: bytes) -> EmbeddingsRequest:
    """The request, or `BadRequest` with what is wrong in it."""
    fields = read_object(body)
    return EmbeddingsRequest(
        texts=_texts(fields.get("input")),
        model=read_model(fields),
        kind=_choice(fields, "input_type", {"document": "document", "query": "query"}),
        encoding=_choice(fields, "encoding_format", {"float": "float", "base64": "base64"}),
        dimensions=_dimensions(fields.get("dimensions")),
    )


def read_object(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise BadRequest("the body is not a JSON object")
    return fields


def read_model(fields: dict[str, Any]) -> str | None:
    """The name of a model, if one is named."""
    value = fields.get("model")
    if value is not None and not isinstance(value, str):
        raise BadRequest('"model" must be a string')
    return value or None


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise BadRequest('"input" must be a string or a non-empty array of strings')
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest('"input" must be text: arrays of tokens are not taken')
    if len(texts) > MAX_TEXTS:
        raise BadRequest(f'"input" may have {MAX_TEXTS} texts, not {len(texts)}')
    return texts


def _choice(fields: dict[str, Any], name: str, choices: dict[str, Any]) -> Any:
    value = fields.get(name)
    if value is None:
        return next(iter(choices.values()))
    if not isinstance(value, str) or value not in choices:
        raise BadRequest(f'"{name}" must be one of: {", ".join(choices)}')
    return choices[value]


def _dimensions(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise BadRequest('"dimensions" must be an integer')
    return value


def spell(request: EmbeddingsRequest, model: str, result: Embeddings) -> bytes:
    """The answer, in the encoding that was asked for."""
    rows = np.ascontiguousarray(result.dense, dtype="<f4")
    if not np.isfinite(rows).all():
        raise ModelUnavailable("the model gave a vector with a number that is not finite")
    data = [
        {"object": "embedding", "index": index, "embedding": _encode(row, request.encoding)}
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    return orjson.dumps(
        {"object": "list", "data": data, "model": model, "usage": usage}, option=orjson.OPT_SERIALIZE_NUMPY
    )


def _encode(row: np.ndarray[Any, Any], encoding: str) -> Any:
    return base64.b64encode(row.tobytes()).decode() if encoding == "base64" else row


def status(error: PgEmbedError) -> int:
    """The HTTP status that tells a client whether trying again makes sense."""
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)


def spell_error(error: PgEmbedError) -> bytes:
    """The error in OpenAI's shape; `code` is our SQLSTATE."""
    message = f"{error} ({error.hint})" if error.hint else str(error)
    kind = "invalid_request_error" if status(error) < 429 else "server_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": error.sqlstate}})
