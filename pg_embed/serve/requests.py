"""The one handler behind the socket, spool and mailbox doors: bytes of a request in, of its answer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol
from uuid import UUID

import orjson

from pg_embed import log
from pg_embed.errors import BadRequest, ModelUnavailable, PgEmbedError, SidecarTimeout, SpaceMismatch
from pg_embed.models.presets import known_spec, preset_of
from pg_embed.models.spelling import spell
from pg_embed.records import VECTORS, Card, Embeddings, Kind, ModelSpec, Output, Outputs, Priority, Scores

WIRE_VERSION = 1
DEFAULT_TIMEOUT = 30.0  # seconds
MAX_TIMEOUT = 3600.0  # seconds
MAX_TEXTS = 10_000
LATE = "the model may be loading, or the sidecar busy: try again, or set embed.timeout higher"
PRIORITIES: dict[Kind, Priority] = {"query": Priority.QUERY, "document": Priority.LIVE}

logger = log.logger("serve")


class Engine(Protocol):
    """What the doors want of the engine."""

    async def card(self, spec: ModelSpec, timeout: float) -> Card:
        """The card of a model, which is loaded if need be."""

    async def embed(
        self,
        spec: ModelSpec,
        texts: Sequence[str],
        kind: Kind,
        priority: Priority,
        timeout: float,
        outputs: Outputs,
    ) -> Embeddings:
        """Vectors of the texts, in their order."""

    async def rerank(
        self, spec: ModelSpec, query: str, texts: Sequence[str], priority: Priority, timeout: float
    ) -> Scores:
        """How well each text answers the query, in the order of the texts."""

    async def count(self, spec: ModelSpec, texts: Sequence[str], timeout: float) -> list[int] | None:
        """Tokens of each text as a document; None where the model has no tokenizer here."""


@dataclass(frozen=True)
class Request:
    """A request that was understood."""

    op: str
    spec: ModelSpec | None
    space_id: str | None
    kind: Kind
    output: Output
    query: str
    texts: list[str]
    timeout: float


async def answer(engine: Engine, request: bytes) -> bytes:
    """The answer to one request; whatever goes wrong is told in it."""
    request_id: str | None = None
    try:
        fields = _decode(request)
        request_id = _request_id(fields)
        return await _answer(engine, request_id, _validate(fields))
    except PgEmbedError as exc:
        if isinstance(exc, SidecarTimeout):
            exc.hint = exc.hint or LATE
        return encode_error(request_id, exc)
    except Exception as exc:
        log_failure(exc)
        trouble = ModelUnavailable("the sidecar failed unexpectedly", hint="its log has the details")
        return encode_error(request_id, trouble)


def log_failure(error: Exception) -> None:
    """Tell of an error that nobody expected, with its traceback."""
    logger.error("a request failed unexpectedly", exc_info=error, extra={"event": "request_failed"})


def encode_error(request_id: str | None, error: PgEmbedError) -> bytes:
    """An error as an answer."""
    told = {"code": error.sqlstate, "message": str(error), "hint": error.hint}
    return orjson.dumps({"id": request_id, "error": told})


async def _answer(engine: Engine, request_id: str, request: Request) -> bytes:
    if request.spec is None:
        return orjson.dumps({"id": request_id, "pong": True})
    if request.op == "count":
        counts = await engine.count(request.spec, request.texts, request.timeout)
        return orjson.dumps({"id": request_id, "counts": counts})
    deadline = monotonic() + request.timeout
    card = await engine.card(request.spec, request.timeout)
    if request.op == "card":
        return orjson.dumps({"id": request_id, "card": card.as_dict(), **_published(request.spec)})
    if request.space_id not in (None, card.space_id):
        raise _mismatch(request, card)
    timeout = max(deadline - monotonic(), 0.0)
    if request.op == "rerank":
        query, texts = request.query, request.texts
        scores = await engine.rerank(request.spec, query, texts, Priority.QUERY, timeout)
        return _encode_scores(request_id, scores)
    priority, wanted = PRIORITIES[request.kind], frozenset([request.output])
    result = await engine.embed(request.spec, request.texts, request.kind, priority, timeout, wanted)
    found: dict[str, Any] = {
        "id": request_id,
        "vectors": spell(result, request.output, card),
        "tokens": result.tokens,
        "space_id": card.space_id,
    }
    return orjson.dumps(found)


def _published(spec: ModelSpec) -> dict[str, Any]:
    """What the catalog enters beside a card; `price` and `known` are null for a model that is not known."""
    preset = preset_of(spec)
    known = preset and {
        "name": preset.name,
        "licence": preset.licence,
        "commercial": preset.commercial,
        "hosted": preset.hosted,
        "languages": preset.languages,
        "parameters": preset.parameters,
    }
    price = preset.price if preset else None
    return {"family": spec.family, "options": dict(spec.options), "price": price, "known": known}


def _encode_scores(request_id: str, result: Scores) -> bytes:
    told = {"id": request_id, "scores": result.scores, "tokens": result.tokens}
    return orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)


def _mismatch(request: Request, card: Card) -> SpaceMismatch:
    name = request.spec.name if request.spec else ""
    return SpaceMismatch(
        f"the model {name} makes vectors of the space {card.space_id}, the database has {request.space_id}",
        hint="its weights, prompts or options were changed: embed the rows again, or restore the model",
    )


def _decode(request: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(request)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"the request is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise BadRequest("the request is not a JSON object")
    return fields


def _request_id(fields: dict[str, Any]) -> str:
    try:
        return str(UUID(fields["id"]))  # in its usual spelling, which the transports compare
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise BadRequest('"id" must be a uuid') from exc


def _validate(fields: dict[str, Any]) -> Request:
    if fields.get("v") != WIRE_VERSION:
        raise BadRequest(
            f'"v" must be {WIRE_VERSION}',
            hint="sidecar and database differ in version: upgrade the older",
        )
    op = fields.get("op")
    if op not in ("embed", "rerank", "count", "card", "ping"):
        raise BadRequest('"op" must be "embed", "rerank", "count", "card" or "ping"')
    output = fields.get("output", "dense")
    if output not in VECTORS:
        raise BadRequest('"output" must be "dense", "sparse" or "multi"')
    kind = fields.get("kind", "query")
    if kind not in PRIORITIES:
        raise BadRequest('"kind" must be "query" or "document"')
    return Request(
        op=op,
        spec=None if op == "ping" else _spec(op, fields.get("model")),
        space_id=_optional_text(fields, "space_id"),
        kind=kind,
        output=output,
        query=_query(fields.get("query")) if op == "rerank" else "",
        texts=_texts(fields.get("texts")) if op in ("embed", "rerank", "count") else [],
        timeout=_timeout(fields.get("timeout")),
    )


def _spec(op: str, model: Any) -> ModelSpec:
    if not isinstance(model, dict):
        raise BadRequest('"model" must be an object')
    name, family, options = model.get("name"), model.get("family"), model.get("options")
    if isinstance(name, str) and family is None and op == "card" and isinstance(options or {}, dict):
        return known_spec(name, options)
    if not isinstance(name, str) or not isinstance(family, str) or not isinstance(options or {}, dict):
        raise BadRequest('"model" must have a "name", a "family" and an object of "options"')
    return ModelSpec(name, family, options or {})


def _query(query: Any) -> str:
    if not isinstance(query, str):
        raise BadRequest('"query" must be a string')
    return query


def _texts(texts: Any) -> list[str]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequest('"texts" must be an array of strings')
    if not 0 < len(texts) <= MAX_TEXTS:
        raise BadRequest(f'"texts" must have 1 to {MAX_TEXTS} texts, not {len(texts)}')
    return texts


def _optional_text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f'"{name}" must be a string')
    return value


def _timeout(value: Any) -> float:
    if value is None:
        return DEFAULT_TIMEOUT
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TIMEOUT:
        raise BadRequest(f'"timeout" must be a number of seconds up to {MAX_TIMEOUT:g}')
    return float(value)
