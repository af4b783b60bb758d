"""What the hosted families share: their options, what providers say of their models, and the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, ModelUnavailable
from pg_embed.models.calls import Provider, ServerOptions, ask
from pg_embed.models.hosted import Endpoint
from pg_embed.models.space import space_id
from pg_embed.models.tokens import estimate_tokens
from pg_embed.records import VECTORS, Allowance, Card, Embeddings, Kind, Metric, Output, Outputs

PROBE = "dimensions"


@dataclass(frozen=True, kw_only=True)
class HostedOptions(ServerOptions):
    """What a provider's family of embeddings can be told."""

    model: str
    dimensions: int | None = None
    metric: Metric = "cosine"


@dataclass(frozen=True)
class Limits:
    """What a provider says of a model: tokens a text, texts and tokens a call, and sizes of its vectors.

    The first size is the default; a single one cannot be asked for; none at all is found out by a call.
    Models with one `space` give vectors that may be mixed.
    """

    max_tokens: int
    max_batch_items: int
    max_batch_tokens: int
    dimensions: tuple[int, ...] = ()
    space: str | None = None

    def choose(self, options: HostedOptions) -> int | None:
        """The vectors' size, the default if none is wanted; None if only the server knows."""
        wanted = options.dimensions
        if not self.dimensions:
            return wanted
        if wanted is not None and wanted not in self.dimensions:
            raise InvalidArgument(
                f"{options.model} has no vectors of {wanted} dimensions",
                hint=f"dimensions: {', '.join(str(size) for size in sorted(self.dimensions))}",
            )
        return wanted or self.dimensions[0]

    def ask(self, options: HostedOptions) -> int | None:
        """The size to send: providers' defaults differ and change; None where there is no choice."""
        return None if len(self.dimensions) == 1 else self.choose(options)


class Contract(Protocol):
    """One provider's API: how vectors are asked for, and where they stand in the answer."""

    @property
    def dimensions(self) -> int | None:
        """The vectors' size; None if only the server knows."""

    @property
    def longest_prompt(self) -> str:
        """The longest of what is put in front of a text, here or by the provider; counted with it."""

    def request(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """The body of a call; an empty text is sent as a space, for no provider takes empty ones."""

    def answer(self, told: Any, count: int) -> Embeddings:
        """What the answer to so many texts says; KeyError and its like if it is not the contract's."""

    def card(self, dimensions: int) -> Card:
        """The model's card, once its dimensions are known."""


C = TypeVar("C", bound=Contract)


class HostedEmbedder:
    """A model behind an endpoint, asked and understood by its provider's contract."""

    def __init__(self, contract: Contract, endpoint: Endpoint) -> None:
        self._contract = contract
        self._endpoint = endpoint
        self.card = contract.card(contract.dimensions or self.probe())

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate: a third of the UTF-8 bytes, the longest prompt counted in."""
        return estimate_tokens(texts, self._contract.longest_prompt)

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """One call for all of them; tokens that the server does not tell are estimated."""
        result = self._call(texts, kind)
        self._check_size(result)
        return result

    def allowance(self) -> Allowance | None:
        """What the last answer to this thread said of limits; told once."""
        return self._endpoint.allowance()

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def _call(self, texts: Sequence[str], kind: Kind) -> Embeddings:
        request = self._contract.request(texts, kind)
        result = ask(self._endpoint, request, lambda told: self._contract.answer(told, len(texts)))
        return result if result.tokens else replace(result, tokens=sum(self.count_tokens(texts)))

    def _check_size(self, result: Embeddings) -> None:
        found = width(result)
        if found is not None and found != self.card.dimensions:
            raise ModelUnavailable(
                f"{self._endpoint.url} gave {found} dimensions, expected {self.card.dimensions}",
                hint="the option dimensions must be what the server gives",
            )

    def probe(self, kind: Kind = "document") -> int:
        """The dimensions of a text's vector; a refusal of such a text is the configuration's fault."""
        try:
            return int(self._call([PROBE], kind).dense.shape[1])
        except InputRejected as exc:
            raise ModelMisconfigured(str(exc), hint="check base_url, model, dimensions and prompts") from exc


def width(result: Embeddings) -> int | None:
    """Dimensions of dense or token vectors; of sparse ones nothing can be said."""
    if result.multi is not None:
        return int(result.multi.vectors.shape[1])
    return None if result.sparse is not None else int(result.dense.shape[1])


def open_model(
    contract: C, endpoint: Endpoint, make: Callable[[C, Endpoint], HostedEmbedder] = HostedEmbedder
) -> HostedEmbedder:
    """The model behind an endpoint; dimensions that are not known are learned from one vector."""
    try:
        return make(contract, endpoint)
    except BaseException:
        endpoint.close()
        raise


def provider_card(
    family: str,
    provider: Provider,
    options: HostedOptions,
    limits: Limits,
    dimensions: int,
    *,
    outputs: tuple[Output, ...] = ("dense",),
    **facts: Any,
) -> Card:
    """The card of a provider's model.

    The space is that of the weights, however one gets to them: the provider's own hosts are not part of it,
    any other base_url is. `facts` tell what else changes the vectors: which end of a long text is kept.
    """
    return Card(
        family=family,
        checkpoint=options.model,
        outputs=outputs,
        dimensions=dimensions,
        max_tokens=options.max_tokens or limits.max_tokens,
        metric=options.metric,
        space_id=space_id(
            family,
            model=limits.space or options.model,
            server=provider.server(options),
            dimensions=dimensions,
            **facts,
        ),
        concurrency=options.concurrency,
        max_batch_items=options.max_batch_items or limits.max_batch_items,
        max_batch_tokens=options.max_batch_tokens or limits.max_batch_tokens,
        padded=False,
        paid=True,
    )
