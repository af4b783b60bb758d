"""Cohere's and Jina's `POST /v1/rerank`: its request understood, its answer spelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from pg_embed.errors import BadRequest
from pg_embed.records import Scores
from pg_embed.serve.openai import read_model, read_object
from pg_embed.serve.requests import MAX_TEXTS


@dataclass(frozen=True)
class RerankRequest:
    """What a client asks for."""

    query: str
    texts: list[str]
    model: str | None
    most: int | None  # results, the best ones
    with_documents: bool


def parse(body: bytes) -> RerankRequest:
    """The request, or `BadRequest` with what is wrong in it."""
    fields = read_object(body)
    query = fields.get("query")
    if not isinstance(query, str):
        raise BadRequest('"query" must be a string')
    return RerankRequest(
        query=query,
        texts=_texts(fields.get("documents")),
        model=read_model(fields),
        most=_most(fields.get("top_n")),
        with_documents=_flag(fields.get("return_documents")),
    )


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise BadRequest('"documents" must be a non-empty array')
    if len(value) > MAX_TEXTS:
        raise BadRequest(f'"documents" may have {MAX_TEXTS} texts, not {len(value)}')
    return [_text(document) for document in value]


def _text(document: Any) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise BadRequest('each of "documents" must be a string, or an object with a string "text"')
    return text


def _most(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise BadRequest('"top_n" must be a positive integer')
    return value


def _flag(value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise BadRequest('"return_documents" must be true or false')
    return bool(value)


def spell(request: RerankRequest, model: str, result: Scores) -> bytes:
    """The answer: the best first, equal ones in their order."""
    order = np.argsort(-result.scores, kind="stable")[: request.most]
    results = [_result(request, index, float(result.scores[index])) for index in order.tolist()]
    return orjson.dumps({"model": model, "results": results, "usage": {"total_tokens": result.tokens}})


def _result(request: RerankRequest, index: int, score: float) -> dict[str, Any]:
    told = {"index": index, "relevance_score": score}
    return {**told, "document": {"text": request.texts[index]}} if request.with_documents else told
