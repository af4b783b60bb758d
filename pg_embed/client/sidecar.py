"""A sidecar's HTTP door, as a client asks it: OpenAI's embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np

from pg_embed.client.requests import Question, read
from pg_embed.db import error_class
from pg_embed.errors import (
    InvalidArgument,
    ModelUnavailable,
    PgEmbedError,
    SidecarTimeout,
    SidecarUnreachable,
)
from pg_embed.models import answers
from pg_embed.records import Float32

PATH = "/v1/embeddings"


class Sidecar:
    """Where it is and how to ask it; the connections are made by those who call."""

    def __init__(self, address: str, token: str | None, timeout: float) -> None:
        self._address = address.rstrip("/").removesuffix("/v1")
        self._timeout = timeout
        try:
            scheme = httpx.URL(self._address).scheme
        except httpx.InvalidURL:
            scheme = ""
        if scheme not in ("http", "https"):
            hint = "give one such as http://127.0.0.1:8089"
            raise InvalidArgument(f"{address!r} is no address of a sidecar", hint=hint)
        self.settings: dict[str, Any] = {
            "base_url": self._address,
            "timeout": timeout,
            "headers": {} if token is None else {"Authorization": f"Bearer {token}"},
        }

    def bodies(self, asked: Question) -> Iterator[dict[str, Any]]:
        """One request after the other; the door gives dense vectors alone."""
        if asked.output != "dense":
            raise InvalidArgument(
                f"a sidecar's HTTP door gives no {asked.output} vectors",
                hint="ask the database, Client(dsn), or load the model here, Client(dsn, in_process=True);"
                " a search without them: mode='dense'",
            )
        for part in asked.batches():
            model: Mapping[str, str] = {} if asked.model is None else {"model": asked.model}
            yield {
                "input": part["texts"],
                "input_type": asked.kind,
                "encoding_format": "base64",
                **model,
            }

    def vectors(self, response: httpx.Response, count: int) -> Float32:
        """The vectors of an answer, float32 of shape (texts, dimensions); or the error that it tells."""
        try:
            told = answers.parsed(response.content)
            if response.is_success:
                return answers.embeddings(answers.openai_answer(told), count).dense
            raise _error(told["error"])
        except (ValueError, KeyError, TypeError, IndexError) as exc:
            raise ModelUnavailable(
                f"{self._address} answered with status {response.status_code} and what is no answer of a"
                f" sidecar: {exc}",
                hint="is it the address of `pg-embed serve`?",
            ) from exc

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Let the errors of HTTP leave the block as ours."""
        try:
            yield
        except httpx.TimeoutException as exc:
            raise SidecarTimeout(f"{self._address} gave no answer within {self._timeout:g} seconds") from exc
        except httpx.TransportError as exc:
            raise SidecarUnreachable(
                f"the sidecar at {self._address} cannot be reached: {exc}",
                hint="is it running? start it with: pg-embed serve --http-port PORT",
            ) from exc


def joined(parts: Sequence[Float32]) -> Float32:
    """The vectors of all requests."""
    return np.concatenate(parts) if parts else np.asarray(read([], "dense"))


def _error(told: Mapping[str, Any]) -> PgEmbedError:
    return error_class(str(told["code"]))(str(told["message"]))
