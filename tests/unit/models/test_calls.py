"""What families that call a server share."""

from __future__ import annotations

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.models.calls import Provider, ServerOptions, packed, server_options
from pg_embed.records import ModelSpec

PROVIDER = Provider({"": "https://a.example/v1", "al-": "https://b.example/v1"}, "A_API_KEY")


@pytest.mark.parametrize(
    ("costs", "limit", "runs"),
    [
        ([], 5, []),
        ([1, 1, 1], 5, [(0, 3)]),
        ([2, 3, 1, 5, 9, 1], 5, [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]),
        ([9], 5, [(0, 1)]),
        ([5, 5], 5, [(0, 1), (1, 2)]),
    ],
)
def test_neighbours_go_together_as_far_as_the_limit(
    costs: list[int], limit: int, runs: list[tuple[int, int]]
) -> None:
    found = list(packed([(cost,) for cost in costs], (limit,)))
    assert [(run.start, run.stop) for run in found] == runs


def test_every_limit_holds() -> None:
    found = packed([(1, 10), (1, 10), (1, 0), (1, 0)], (3, 15))
    assert [(run.start, run.stop) for run in found] == [(0, 1), (1, 4)]


def test_a_key_leads_to_its_host_and_a_base_url_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {}
    for key in ("al-1", "pa-1"):
        monkeypatch.setenv("A_API_KEY", key)
        endpoint = PROVIDER.open(ServerOptions(), "embeddings")
        urls[key] = endpoint.url
        endpoint.close()
    assert urls == {"al-1": "https://b.example/v1/embeddings", "pa-1": "https://a.example/v1/embeddings"}


@pytest.mark.parametrize(
    ("options", "server"),
    [
        ({}, None),
        ({"base_url": "https://b.example/v1"}, None),
        ({"base_url": "https://c.example"}, "https://c.example"),
        ({"base_url": "https://c.example", "space": "ours"}, "ours"),
        ({"space": "ours"}, "ours"),
    ],
)
def test_the_providers_own_hosts_tell_nothing_of_the_weights(
    options: dict[str, str], server: str | None
) -> None:
    assert PROVIDER.server(ServerOptions(**options)) == server


def test_a_key_among_the_options_and_an_unknown_option_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="must not stand"):
        server_options(ModelSpec("m", "f", {"api_key": "x"}), ServerOptions)
    with pytest.raises(InvalidArgument, match="no option 'colour'"):
        server_options(ModelSpec("m", "f", {"colour": "x"}), ServerOptions)
    assert (
        server_options(ModelSpec("m", "f", {"base_url": "http://a/"}), ServerOptions).base_url == "http://a"
    )
