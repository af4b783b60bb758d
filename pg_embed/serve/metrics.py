"""What operators watch, as Prometheus reads it. Names and labels are API."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pg_embed.errors import ModelUnavailable, PgEmbedError
from pg_embed.records import Priority
from pg_embed.serve.frames import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_ERROR = re.compile(rb'\{"id":[^,]*,"error":\{"code":"(PE\d+)"')


@dataclass
class Outcome:
    """How a request ended: `ok`, `gone`, or the SQLSTATE of its error."""

    code: str = "ok"


class Metrics:
    """Counts in a registry of their own; an observer of the engine, and of the doors."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        model, lane = ["model"], ["model", "priority"]
        self._requests = Counter("pg_embed_requests_total", "Requests.", ["door", "code"], registry=registry)
        self._request_seconds = Histogram(
            "pg_embed_request_seconds", "Time of a request.", ["door"], buckets=SECONDS, registry=registry
        )
        self._loads = Counter(
            "pg_embed_model_loads_total", "Loads of a model.", [*model, "code"], registry=registry
        )
        self._load_seconds = Gauge(
            "pg_embed_model_load_seconds", "Time of the last load.", model, registry=registry
        )
        self._queued = Gauge(
            "pg_embed_queued_texts", "Texts that wait for the model.", lane, registry=registry
        )
        self._calls = Counter(
            "pg_embed_model_calls_total", "Calls of the model.", [*lane, "code"], registry=registry
        )
        self._call_seconds = Histogram(
            "pg_embed_model_call_seconds", "Time of a call.", lane, buckets=SECONDS, registry=registry
        )
        self._call_texts = Histogram(
            "pg_embed_model_call_texts", "Texts of a call.", lane, buckets=TEXTS, registry=registry
        )
        self._tokens = Counter("pg_embed_tokens_total", "Tokens embedded.", lane, registry=registry)
        self._throttled = Histogram(
            "pg_embed_limit_wait_seconds",
            "Time that a call waited for the model's limits.",
            lane,
            buckets=SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "pg_embed_limit_exceeded_total",
            "Calls that the provider found too many.",
            lane,
            registry=registry,
        )
        self._answers = Counter(
            "pg_embed_answers_total", "Callers of the engine.", [*lane, "code"], registry=registry
        )
        self._answer_seconds = Histogram(
            "pg_embed_answer_seconds",
            "Time of a caller, queue included.",
            lane,
            buckets=SECONDS,
            registry=registry,
        )
        self._memo = Counter(
            "pg_embed_memo_texts_total",
            "Texts of queries, by whether known.",
            [*model, "outcome"],
            registry=registry,
        )

    def render(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self.registry)

    @contextmanager
    def timed(self, door: str) -> Iterator[Outcome]:
        """Count and time one request, whose outcome the caller may set."""
        outcome = Outcome()
        started = time.perf_counter()
        try:
            yield outcome
        except BaseException:
            outcome.code = "gone"
            raise
        finally:
            self._requests.labels(door, outcome.code).inc()
            self._request_seconds.labels(door).observe(time.perf_counter() - started)

    def watch(self, door: str, answer: Answer) -> Answer:
        """The same handler, with its requests counted."""

        async def watched(request: bytes) -> bytes:
            with self.timed(door) as outcome:
                result = await answer(request)
                if error := _ERROR.match(result):
                    outcome.code = error[1].decode()
                return result

        return watched

    def loaded(self, model: str, seconds: float, error: PgEmbedError | None) -> None:
        """A model was loaded, or could not be."""
        self._loads.labels(model, _code(error)).inc()
        self._load_seconds.labels(model).set(seconds)

    def queued(self, model: str, priority: Priority, texts: int) -> None:
        """So many texts now wait."""
        self._queued.labels(model, _lane(priority)).set(texts)

    def computed(
        self,
        model: str,
        priority: Priority,
        texts: int,
        tokens: int,
        seconds: float,
        error: PgEmbedError | None,
    ) -> None:
        """One call of the model ended."""
        lane = _lane(priority)
        self._calls.labels(model, lane, _code(error)).inc()
        self._call_seconds.labels(model, lane).observe(seconds)
        self._call_texts.labels(model, lane).observe(texts)
        self._tokens.labels(model, lane).inc(tokens)
        if isinstance(error, ModelUnavailable) and error.limited:
            self._refused.labels(model, lane).inc()

    def answered(
        self, model: str, priority: Priority, texts: int, seconds: float, error: PgEmbedError | None
    ) -> None:
        """One caller got its answer."""
        self._answers.labels(model, _lane(priority), _code(error)).inc()
        self._answer_seconds.labels(model, _lane(priority)).observe(seconds)

    def remembered(self, model: str, hits: int, misses: int) -> None:
        """So many texts of a query were known, and so many were not."""
        self._memo.labels(model, "hit").inc(hits)
        self._memo.labels(model, "miss").inc(misses)

    def throttled(self, model: str, priority: Priority, seconds: float) -> None:
        """A call waited so long for the model's limits."""
        self._throttled.labels(model, _lane(priority)).observe(seconds)


def _code(error: PgEmbedError | None) -> str:
    return "ok" if error is None else error.sqlstate


def _lane(priority: Priority) -> str:
    return priority.name.lower()
