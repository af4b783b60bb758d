"""What the hosted families share: their options, what providers say of their models, and the model itself."""

from __future__ import annotations

from binascii import Error as Base64Error
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, ModelUnavailable
from pg_embed.models.answers import Answer, embeddings, parsed
from pg_embed.models.hosted import Endpoint
from pg_embed.models.keys import read_key, refuse_keys
from pg_embed.models.options import read_options
from pg_embed.models.space import space_id
from pg_embed.models.tokens import estimate_tokens
from pg_embed.records import VECTORS, Allowance, Card, Embeddings, Kind, Metric, ModelSpec, Outputs

PROBE = "dimensions"
UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, Base64Error)


@dataclass(frozen=True)
class HostedOptions:
    """What a provider's family can be told; where nothing is said, the provider's own limits hold.

    A key is never among it, only where to find one. `space` names the weights behind a `base_url` that is not
    the provider's; where it is not given, the URL does.
    """

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    dimensions: int | None = None
    metric: Metric = "cosine"
    max_tokens: int | None = None
    max_batch_items: int | None = None
    max_batch_tokens: int | None = None
    concurrency: int = 8
    timeout: float = 60.0  # seconds a call
    space: str | None = None


T = TypeVar("T", bound=HostedOptions)


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

    def answer(self, told: Any) -> Answer:
        """What the body of the answer says; KeyError and its like if it is not the contract's."""

    def card(self, dimensions: int) -> Card:
        """The model's card, once its dimensions are known."""


class HostedEmbedder:
    """A model behind an endpoint, asked and understood by its provider's contract."""

    def __init__(self, contract: Contract, endpoint: Endpoint) -> None:
        self._contract = contract
        self._endpoint = endpoint
        self.card = contract.card(contract.dimensions or self._probe())

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate: a third of the UTF-8 bytes, the longest prompt counted in."""
        return estimate_tokens(texts, self._contract.longest_prompt)

    def embed(self, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        """One call for all of them."""
        result = self._call(texts, kind)
        found = result.dense.shape[1]
        if found != self.card.dimensions:
            raise ModelUnavailable(
                f"{self._endpoint.url} gave {found} dimensions, expected {self.card.dimensions}",
                hint="the option dimensions must be what the server gives",
            )
        return result

    def allowance(self) -> Allowance | None:
        """What the last answer to this thread said of limits; told once."""
        return self._endpoint.allowance()

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def _call(self, texts: Sequence[str], kind: Kind) -> Embeddings:
        body = self._endpoint.post(self._contract.request(texts, kind))
        try:
            return embeddings(self._contract.answer(parsed(body)), len(texts))
        except UNUSABLE as exc:
            reason = self._endpoint.clean(str(exc))
            raise ModelUnavailable(f"{self._endpoint.url} gave no usable answer: {reason}") from exc

    def _probe(self) -> int:
        try:
            return int(self._call([PROBE], "document").dense.shape[1])
        except InputRejected as exc:
            raise ModelMisconfigured(str(exc), hint="check base_url, model and dimensions") from exc


def filled(texts: Sequence[str]) -> list[str]:
    """The texts, a space for each empty one."""
    return [text or " " for text in texts]


def hosted_options(spec: ModelSpec, shape: type[T]) -> T:
    """The options, with no key among them, and without a slash at the end of `base_url`."""
    refuse_keys(spec.options)
    options = read_options(spec, shape)
    return options if options.base_url is None else replace(options, base_url=options.base_url.rstrip("/"))


def find_key(options: HostedOptions, own: Collection[str], variable: str) -> str | None:
    """The key that the options lead to; without a word the provider's variable, for its own hosts only."""
    at_home = options.base_url is None or options.base_url in own
    implied = variable if at_home and options.api_key_file is None else None
    return read_key(options.api_key_env or implied, options.api_key_file)


def open_model(contract: Contract, url: str, key: str | None, options: HostedOptions) -> HostedEmbedder:
    """The model at a URL; where its dimensions are not known, the server is asked for one vector."""
    endpoint = Endpoint(url, key, timeout=options.timeout, connections=options.concurrency)
    try:
        return HostedEmbedder(contract, endpoint)
    except BaseException:
        endpoint.close()
        raise


def provider_card(
    family: str,
    options: HostedOptions,
    limits: Limits,
    dimensions: int,
    *,
    own: Collection[str],
    cut: str | None = None,
) -> Card:
    """The card of a provider's model.

    The space is that of the weights, however one gets to them: the provider's own hosts are not part of it,
    any other base_url is. `cut` tells of a way to shorten long texts that keeps another part of them.
    """
    elsewhere = None if options.base_url is None or options.base_url in own else options.base_url
    return Card(
        family=family,
        checkpoint=options.model,
        outputs=("dense",),
        dimensions=dimensions,
        max_tokens=options.max_tokens or limits.max_tokens,
        metric=options.metric,
        space_id=space_id(
            family,
            model=limits.space or options.model,
            server=options.space or elsewhere,
            dimensions=dimensions,
            cut=cut,
        ),
        concurrency=options.concurrency,
        max_batch_items=options.max_batch_items or limits.max_batch_items,
        max_batch_tokens=options.max_batch_tokens or limits.max_batch_tokens,
        padded=False,
    )
