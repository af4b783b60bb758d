"""Family "jina": Jina AI's text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pg_embed.errors import InvalidArgument
from pg_embed.models.answers import embeddings, openai_answer, token_embeddings
from pg_embed.models.calls import Provider, filled, server_options
from pg_embed.models.contextual import ContextualEmbedder, Documents
from pg_embed.models.provider import HostedEmbedder, HostedOptions, Limits, open_model, provider_card
from pg_embed.models.registry import Registry
from pg_embed.records import Card, Embeddings, Kind, ModelSpec

JINA = Provider({"": "https://api.jina.ai/v1"}, "JINA_API_KEY")
TASKS: dict[Kind, str] = {"query": "retrieval.query", "document": "retrieval.passage"}
ITEMS, TOKENS = 128, 128_000  # a call; the contract states no limits, these keep calls short
SMALL_SIZES = (1024, 32, 64, 128, 256, 512, 768)
NANO_SIZES = (768, 32, 64, 128, 256, 512)
V4_SIZES = (2048, 128, 256, 512, 1024)
ALWAYS_NORMALIZED = {"jina-embeddings-v4"}  # takes no word about it

MODELS = {
    "jina-embeddings-v5-text-small": Limits(32_768, ITEMS, TOKENS, SMALL_SIZES),
    "jina-embeddings-v5-text-nano": Limits(8_192, ITEMS, TOKENS, NANO_SIZES),
    "jina-embeddings-v4": Limits(32_768, ITEMS, TOKENS, V4_SIZES),
    "jina-embeddings-v3": Limits(8_192, ITEMS, TOKENS, SMALL_SIZES),
}
MULTI = {"jina-embeddings-v4": Limits(32_768, ITEMS, 32_768, (128,))}  # a vector a token: shorter calls
OTHERS = Limits(8_192, ITEMS, TOKENS)
LATE_CHUNKING = (
    "jina-embeddings-v4",
    "jina-embeddings-v3",
)  # the models whose part of the API knows the word
CHUNKS = 512  # a document; none is divided, so this bounds nothing but its own call


@dataclass(frozen=True, kw_only=True)
class JinaOptions(HostedOptions):
    """What the family can be told.

    A text that is too long is cut, as the other families do it: left to itself the API refuses it. `output`
    "multi" asks for a vector of each token instead of one of the text. With `late_chunking` the chunks of a
    text are embedded as parts of it, where they are kept in a table of chunks; one too long is refused then.
    """

    concurrency: int = 5  # what a free account may
    truncate: bool = True
    output: Literal["dense", "multi"] = "dense"
    late_chunking: bool = False


class Jina:
    """The contract. The task is always sent, for the API takes a text without one as neither kind."""

    longest_prompt = ""

    def __init__(self, options: JinaOptions) -> None:
        self._options = options
        self._multi = options.output == "multi"
        self._limits = _limits(options)
        self.dimensions = self._limits.choose(options)

    def request(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """The texts and what they are; each text is embedded by itself, never as a part of all."""
        request = {
            "model": self._options.model,
            "input": filled(texts),
            "task": TASKS[kind],
            "truncate": self._options.truncate,
            "embedding_type": "base64",
        }
        if self._multi:
            request["return_multivector"] = True
        if self._options.model not in ALWAYS_NORMALIZED:
            request["normalized"] = True
        size = self._limits.ask(self._options)
        return request if size is None else {**request, "dimensions": size}

    def answer(self, told: Any, count: int) -> Embeddings:
        """The list under `data`."""
        return token_embeddings(told, count) if self._multi else embeddings(openai_answer(told), count)

    def card(self, dimensions: int) -> Card:
        """The card; token vectors are a space of their own, whatever their size."""
        return provider_card(
            "jina",
            JINA,
            self._options,
            self._limits,
            dimensions,
            outputs=(self._options.output,),
            output="multi" if self._multi else None,
            late_chunking=True if self._options.late_chunking else None,
        )


class JinaChunks(Jina):
    """The contract of late chunking: a call's texts are one document, read as a whole and pooled apart."""

    max_batch_documents = 1
    max_batch_chunks = CHUNKS

    def request_chunks(self, documents: Documents, kind: Kind) -> dict[str, Any]:
        """A document as it is chunked here; cut short, its last chunks would have vectors of nothing."""
        (document,) = documents
        return {**self.request(document, kind), "truncate": False, "late_chunking": True}

    def answer_chunks(self, told: Any, counts: Sequence[int]) -> list[Embeddings]:
        """The list under `data`, one for each chunk."""
        (count,) = counts
        return [self.answer(told, count)]


def _check_late_chunking(options: JinaOptions) -> None:
    if options.model not in LATE_CHUNKING:
        hint = f"models that do: {', '.join(LATE_CHUNKING)}; or leave late_chunking out"
        raise InvalidArgument(f"{options.model} does no late chunking", hint=hint)
    if options.output != "dense":
        raise InvalidArgument(
            "late chunking makes one vector a chunk, and output is multi", hint="leave one out"
        )


def _limits(options: JinaOptions) -> Limits:
    if options.output == "dense":
        return MODELS.get(options.model, OTHERS)
    if options.model not in MULTI:
        raise InvalidArgument(
            f"{options.model} makes no token vectors", hint=f"models that do: {', '.join(MULTI)}"
        )
    return MULTI[options.model]


def load(spec: ModelSpec) -> HostedEmbedder:
    """Find the key; a model that is not known here is asked for one vector."""
    options = server_options(spec, JinaOptions)
    if not options.late_chunking:
        return open_model(Jina(options), JINA.open(options, "embeddings"))
    _check_late_chunking(options)
    return open_model(JinaChunks(options), JINA.open(options, "embeddings"), ContextualEmbedder)


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("jina", "pg_embed.models.jina:load")
