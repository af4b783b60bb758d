"""What providers' headers say is left of a limit."""

from __future__ import annotations

import time

import httpx
import pytest

from pg_embed.models.allowance import read_allowance
from pg_embed.records import Allowance, Remaining


def read(**headers: str) -> Allowance | None:
    return read_allowance(httpx.Headers({name.replace("_", "-"): told for name, told in headers.items()}))


def test_openai_tells_limit_rest_and_time() -> None:
    told = read(
        x_ratelimit_limit_requests="60",
        x_ratelimit_remaining_requests="59",
        x_ratelimit_reset_requests="1s",
        x_ratelimit_limit_tokens="150000",
        x_ratelimit_remaining_tokens="149984",
        x_ratelimit_reset_tokens="6m0s",
    )
    assert told == Allowance(Remaining(59, 60, 1), Remaining(149_984, 150_000, 360))


def test_jina_tells_what_remains_alone() -> None:
    told = read(X_RateLimit_Remaining_Requests="4", X_RateLimit_Remaining_Tokens="99")
    assert told == Allowance(Remaining(4), Remaining(99))


@pytest.mark.parametrize(
    ("told", "seconds"), [("12ms", 0.012), ("1m30s", 90), ("1h", 3_600), ("7.5s", 7.5), ("20", 20)]
)
def test_spans(told: str, seconds: float) -> None:
    allowance = read(x_ratelimit_remaining_requests="1", x_ratelimit_reset_requests=told)
    assert allowance is not None
    assert allowance.requests is not None
    assert allowance.requests.reset == pytest.approx(seconds)


def test_a_time_is_a_span_from_now() -> None:
    at = str(int(time.time()) + 30)
    allowance = read(x_ratelimit_remaining_tokens="1", x_ratelimit_reset_tokens=at)
    assert allowance is not None
    assert allowance.tokens is not None
    assert allowance.tokens.reset == pytest.approx(30, abs=2)


@pytest.mark.parametrize("told", ["", "soon", "-1", "nan", "inf"])
def test_what_cannot_be_read_is_not_believed(told: str) -> None:
    assert read(x_ratelimit_remaining_requests=told) is None
    allowance = read(x_ratelimit_remaining_requests="5", x_ratelimit_reset_requests=told)
    assert allowance == Allowance(Remaining(5))


def test_nothing_is_said() -> None:
    assert read(content_type="application/json") is None
