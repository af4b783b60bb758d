"""Family "tei": models behind Hugging Face's Text Embeddings Inference, by its own routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pg_embed.errors import InvalidArgument, ModelMisconfigured
from pg_embed.models.answers import Answer, embeddings, sparse_embeddings
from pg_embed.models.calls import Provider, ServerOptions, ask, filled, server_options
from pg_embed.models.provider import HostedEmbedder, open_model
from pg_embed.models.registry import Registry
from pg_embed.models.space import space_id
from pg_embed.records import Card, Embeddings, Kind, Metric, ModelSpec

TEI = Provider({}, None)  # everybody's own server
KINDS: tuple[Kind, Kind] = ("document", "query")
SPARSE = "splade"  # the pooling whose vectors are sparse


@dataclass(frozen=True, kw_only=True)
class TeiOptions(ServerOptions):
    """What the family can be told; the model and the limits are told by the server.

    The names of prompts are those that the checkpoint has for sentence-transformers.
    """

    base_url: str = field()
    output: Literal["dense", "sparse"] = "dense"
    dimensions: int | None = None
    sparse_dimensions: int | None = None
    metric: Metric = "cosine"
    normalize: bool = True
    truncate: bool = True
    query_prompt_name: str | None = None
    document_prompt_name: str | None = None


@dataclass(frozen=True)
class TeiInfo:
    """What a server tells of itself: `kind` and `pooling` of its model, and what a call may hold.

    Each text of a call takes one of `max_concurrent_requests` places.
    """

    model_id: str
    model_sha: str | None
    kind: str
    pooling: str | None
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    max_concurrent_requests: int

    @property
    def items(self) -> int:
        """Texts a call."""
        return min(self.max_client_batch_size, self.max_concurrent_requests)

    def concurrency(self, options: ServerOptions) -> int:
        """As many calls as the options say, if there are places for all their texts."""
        items = options.max_batch_items or self.items
        return max(1, min(options.concurrency, self.max_concurrent_requests // items))

    def server(self, options: ServerOptions) -> str | None:
        """What tells the weights beside the model's name: its revision, else the server."""
        return options.space or self.model_sha or options.base_url


class Tei:
    """The contract of `/embed` and `/embed_sparse`."""

    longest_prompt = ""  # the server's own affair

    def __init__(self, options: TeiOptions, info: TeiInfo) -> None:
        self._options = options
        self._info = info
        self._sparse = options.output == "sparse"
        self._prompts: dict[Kind, str | None] = {
            "query": options.query_prompt_name,
            "document": options.document_prompt_name,
        }
        self.dimensions = options.sparse_dimensions if self._sparse else options.dimensions

    def request(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """The texts, and the name of the prompt of their kind."""
        request: dict[str, Any] = {"inputs": filled(texts), "truncate": self._options.truncate}
        if self._prompts[kind] is not None:
            request["prompt_name"] = self._prompts[kind]
        if self._sparse:
            return request
        request["normalize"] = self._options.normalize
        if self._options.dimensions is not None:
            request["dimensions"] = self._options.dimensions
        return request

    def answer(self, told: Any, count: int) -> Embeddings:
        """The vectors in the order of the texts; the server tells no tokens in its answer."""
        if self._sparse:
            return sparse_embeddings(told, count, self._options.sparse_dimensions or 0)
        return embeddings(Answer(told, indexes=None, tokens=0), count)

    def card(self, dimensions: int) -> Card:
        """The card; the space is that of the weights at their revision, with their prompts."""
        options, info = self._options, self._info
        return Card(
            family="tei",
            checkpoint=info.model_id,
            outputs=(options.output,),
            dimensions=dimensions,
            metric="ip" if self._sparse else options.metric,
            space_id=space_id(
                "tei",
                model=info.model_id,
                server=info.server(options),
                output=options.output,
                pooling=info.pooling,
                dimensions=dimensions,
                normalize=options.normalize,
                prompts=[options.query_prompt_name, options.document_prompt_name],
            ),
            max_tokens=options.max_tokens or info.max_input_length,
            concurrency=info.concurrency(options),
            max_batch_items=options.max_batch_items or info.items,
            max_batch_tokens=options.max_batch_tokens or info.max_batch_tokens,
            padded=False,
        )


def read_info(options: ServerOptions) -> TeiInfo:
    """Ask the server what it is."""
    endpoint = TEI.open(options, "info")
    try:
        return ask(endpoint, None, _info)
    finally:
        endpoint.close()


def load(spec: ModelSpec) -> HostedEmbedder:
    """Ask the server what it is, and for a vector of each kind: its prompts must be known there."""
    options = server_options(spec, TeiOptions)
    _check(options)
    info = read_info(options)
    _suits(options, info)
    endpoint = TEI.open(options, "embed_sparse" if options.output == "sparse" else "embed")
    return _probed(open_model(Tei(options, info), endpoint))


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("tei", "pg_embed.models.tei:load")


def _info(told: Any) -> TeiInfo:
    ((kind, about),) = told["model_type"].items()
    pooling = about.get("pooling") if isinstance(about, Mapping) else None
    limits = ("max_input_length", "max_batch_tokens", "max_client_batch_size", "max_concurrent_requests")
    return TeiInfo(
        model_id=str(told["model_id"]),
        model_sha=told.get("model_sha"),
        kind=kind,
        pooling=pooling,
        **{name: max(1, int(told[name])) for name in limits},
    )


def _check(options: TeiOptions) -> None:
    if options.output == "sparse" and options.sparse_dimensions is None:
        raise InvalidArgument(
            "sparse vectors need the option 'sparse_dimensions'",
            hint="it is the size of the model's vocabulary, vocab_size in its config.json",
        )
    if options.output == "sparse" and options.dimensions is not None:
        raise InvalidArgument("the option 'dimensions' is for dense vectors")


def _suits(options: TeiOptions, info: TeiInfo) -> None:
    if info.kind != "embedding":
        raise ModelMisconfigured(
            f"the model at {options.base_url} is a {info.kind}, it makes no vectors",
            hint="a reranker is served by the family tei_reranker",
        )
    if (info.pooling == SPARSE) != (options.output == "sparse"):
        made = "sparse" if info.pooling == SPARSE else "dense"
        raise ModelMisconfigured(
            f"the model at {options.base_url} makes {made} vectors", hint=f"set the option output to {made}"
        )


def _probed(embedder: HostedEmbedder) -> HostedEmbedder:
    try:
        for kind in KINDS:
            embedder.probe(kind)
    except BaseException:
        embedder.close()
        raise
    return embedder
