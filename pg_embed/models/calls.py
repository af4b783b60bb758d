"""What all families that call a server share: options, hosts and keys, one call, and empty texts."""

from __future__ import annotations

from binascii import Error as Base64Error
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import add, gt
from typing import Any, TypeVar

from pg_embed.errors import ModelUnavailable
from pg_embed.models.answers import parsed
from pg_embed.models.hosted import Endpoint
from pg_embed.models.keys import read_key, refuse_keys
from pg_embed.models.options import read_options
from pg_embed.records import ModelSpec

UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, Base64Error)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What every such family can be told; where nothing is said, the server's own limits hold.

    A key is never among it, only where to find one. `space` names the weights behind a `base_url` that is not
    the provider's; where it is not given, the URL does.
    """

    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    max_tokens: int | None = None
    max_batch_items: int | None = None
    max_batch_tokens: int | None = None
    concurrency: int = 8
    timeout: float = 60.0  # seconds a call
    space: str | None = None


@dataclass(frozen=True)
class Provider:
    """A provider's hosts, each by how its keys begin, the usual one by ""; and where a key is looked for."""

    hosts: Mapping[str, str]
    variable: str | None

    def open(self, options: ServerOptions, path: str) -> Endpoint:
        """A path at base_url, or at the host that the key belongs to."""
        find = partial(self._find_key, options)
        key = find()
        base_url = options.base_url or self._host(key)
        return Endpoint(
            f"{base_url}/{path}", key, timeout=options.timeout, connections=options.concurrency, renew=find
        )

    def server(self, options: ServerOptions) -> str | None:
        """Whose weights answer, by the name of their space or by the URL; None: the provider's own."""
        return options.space or (None if self._at_home(options) else options.base_url)

    def _at_home(self, options: ServerOptions) -> bool:
        return options.base_url is None or options.base_url in self.hosts.values()

    def _find_key(self, options: ServerOptions) -> str | None:
        """Where the options lead; without a word the provider's variable, for its own hosts only."""
        implied = self._at_home(options) and options.api_key_file is None
        return read_key(options.api_key_env or (self.variable if implied else None), options.api_key_file)

    def _host(self, key: str | None) -> str:
        marks = [mark for mark in self.hosts if mark and key is not None and key.startswith(mark)]
        return self.hosts[marks[0] if marks else ""]


T = TypeVar("T", bound=ServerOptions)
R = TypeVar("R")


def server_options(spec: ModelSpec, shape: type[T]) -> T:
    """The options, with no key among them, and without a slash at the end of `base_url`."""
    refuse_keys(spec.options)
    options = read_options(spec, shape)
    return options if options.base_url is None else replace(options, base_url=options.base_url.rstrip("/"))


def ask(endpoint: Endpoint, request: Mapping[str, Any] | None, understand: Callable[[Any], R]) -> R:
    """One call, a GET if there is no request; `ModelUnavailable` if the answer is not the contract's."""
    body = endpoint.get() if request is None else endpoint.post(request)
    try:
        return understand(parsed(body))
    except UNUSABLE as exc:
        raise ModelUnavailable(f"{endpoint.url} gave no usable answer: {endpoint.clean(str(exc))}") from exc


def packed(costs: Sequence[tuple[int, ...]], limits: tuple[int, ...]) -> Iterator[slice]:
    """Runs of neighbours whose costs keep within all limits; what is too much by itself goes alone."""
    start, sums = 0, (0,) * len(limits)
    for place, cost in enumerate(costs):
        raised = tuple(map(add, sums, cost))
        if place > start and any(map(gt, raised, limits)):
            yield slice(start, place)
            start, raised = place, cost
        sums = raised
    if start < len(costs):
        yield slice(start, len(costs))


def filled(texts: Sequence[str]) -> list[str]:
    """The texts, a space for each empty one: no provider takes empty ones."""
    return [text or " " for text in texts]
