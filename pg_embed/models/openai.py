"""Family "openai": OpenAI's embeddings and every server that speaks its contract."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pg_embed.errors import InputRejected, ModelMisconfigured, ModelUnavailable
from pg_embed.models.hosted import Endpoint
from pg_embed.models.keys import read_key, refuse_keys
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.models.tokens import estimate_tokens
from pg_embed.records import Card, Embeddings, Kind, Metric, ModelSpec

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"  # where the key is looked for when nothing is said
PROBE = "dimensions"

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OpenAIOptions:
    """What the family can be told. A key is never among it, only where to find one.

    `space` names the weights behind `base_url`; where it is not given, the URL does.
    """

    model: str
    base_url: str = OPENAI
    api_key_env: str | None = None
    api_key_file: str | None = None
    dimensions: int | None = None
    query_prompt: str = ""
    document_prompt: str = ""
    metric: Metric = "cosine"
    max_tokens: int = 8_192
    max_batch_items: int = 2_048
    max_batch_tokens: int = 300_000
    concurrency: int = 8
    timeout: float = 60.0  # seconds a call
    space: str | None = None


class OpenAIEmbedder:
    """A model behind `/embeddings`. An empty text is sent as a space: the contract has no empty ones."""

    def __init__(self, options: OpenAIOptions, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._options = options
        self._prompts: dict[Kind, str] = {"query": options.query_prompt, "document": options.document_prompt}
        self._longest_prompt = max(self._prompts.values(), key=len)
        dimensions = options.dimensions or self._probe()
        self.card = _card(options, dimensions)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate: a third of the UTF-8 bytes, the longer of the two prompts counted in."""
        return estimate_tokens(texts, self._longest_prompt)

    def embed(self, texts: Sequence[str], kind: Kind) -> Embeddings:
        """One call for all of them."""
        prompt = self._prompts[kind]
        embeddings = self._call([prompt + text or " " for text in texts])
        found = embeddings.dense.shape[1]
        if found != self.card.dimensions:
            raise ModelUnavailable(
                f"{self._endpoint.url} gave {found} dimensions, expected {self.card.dimensions}",
                hint="the option dimensions must be what the server gives",
            )
        return embeddings

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def _call(self, texts: list[str]) -> Embeddings:
        payload: dict[str, Any] = {"model": self._options.model, "input": texts, "encoding_format": "base64"}
        if self._options.dimensions is not None:
            payload["dimensions"] = self._options.dimensions
        body = self._endpoint.post(payload)
        try:
            return _decoded(body, len(texts))
        except (ValueError, KeyError, TypeError, AttributeError, Base64Error) as exc:
            raise ModelUnavailable(f"{self._endpoint.url} gave no usable answer: {exc}") from exc

    def _probe(self) -> int:
        try:
            return int(self._call([PROBE]).dense.shape[1])
        except InputRejected as exc:
            raise ModelMisconfigured(str(exc), hint="check base_url, model and dimensions") from exc


def _decoded(body: bytes, count: int) -> Embeddings:
    """The vectors in the order of their indexes; ValueError and its like if anything is wrong with them."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError(f"not JSON: {body[:40]!r}") from None
    data = answer["data"]
    if len(data) != count:
        raise ValueError(f"{len(data)} vectors for {count} texts")
    dense = _ordered(_matrix([item["embedding"] for item in data]), [item["index"] for item in data])
    if not np.isfinite(dense).all():
        raise ValueError("a vector is not finite")
    return Embeddings(dense=dense, tokens=_tokens(answer))


def _matrix(vectors: list[Any]) -> Float32:
    """Base64 of little-endian float32, or lists of numbers, whichever the server chose."""
    if not isinstance(vectors[0], str):
        return np.array(vectors, np.float32)
    blobs = [a2b_base64(vector) for vector in vectors]
    if len({len(blob) for blob in blobs}) != 1:
        raise ValueError("vectors of different lengths")
    return np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), -1).astype(np.float32, copy=False)


def _ordered(dense: Float32, indexes: list[int]) -> Float32:
    straight = list(range(len(indexes)))
    if indexes == straight:
        return dense
    if sorted(indexes) != straight:
        raise ValueError("indexes are missing or doubled")
    ordered = np.empty_like(dense)
    ordered[indexes] = dense
    return ordered


def _tokens(answer: dict[str, Any]) -> int:
    usage = answer.get("usage") or {}
    return int(usage.get("total_tokens") or usage.get("prompt_tokens") or 0)


def _card(options: OpenAIOptions, dimensions: int) -> Card:
    server = None if options.base_url == OPENAI else options.base_url
    return Card(
        family="openai",
        checkpoint=options.model,
        outputs=("dense",),
        dimensions=dimensions,
        max_tokens=options.max_tokens,
        metric=options.metric,
        space_id=space_id(
            "openai",
            model=options.model,
            server=options.space or server,
            dimensions=dimensions,
            prompts=[options.query_prompt, options.document_prompt],
        ),
        concurrency=options.concurrency,
        max_batch_items=options.max_batch_items,
        max_batch_tokens=options.max_batch_tokens,
        padded=False,
    )


def load(spec: ModelSpec) -> OpenAIEmbedder:
    """Find the key; without the option dimensions, ask the server for one vector."""
    refuse_keys(spec.options)
    options = read_options(spec, OpenAIOptions)
    options = replace(options, base_url=options.base_url.rstrip("/"))
    implied = OPENAI_KEY if options.base_url == OPENAI and options.api_key_file is None else None
    key = read_key(options.api_key_env or implied, options.api_key_file)
    url = f"{options.base_url}/embeddings"
    endpoint = Endpoint(url, key, timeout=options.timeout, connections=options.concurrency)
    try:
        return OpenAIEmbedder(options, endpoint)
    except BaseException:
        endpoint.close()
        raise


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("openai", "pg_embed.models.openai:load")
