"""What a provider's headers say is left of its limits, in the spellings that are in use.

OpenAI, and many servers after it: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, the reset as
"6m0s" or "12ms". Jina: `X-RateLimit-Remaining-{Requests,Tokens}` alone. Some write seconds, or the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from time import time

from pg_embed.records import Allowance, Remaining

PREFIX = "x-ratelimit-"
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
SPAN = re.compile(rf"(?:{PART.pattern})+")
A_TIME = 1_000_000_000  # a number as large as this is no span of seconds, it is seconds since 1970


def read_allowance(headers: Mapping[str, str]) -> Allowance | None:
    """What is left, or None where nothing is said; what cannot be read is not believed."""
    requests, tokens = _remaining(headers, "requests"), _remaining(headers, "tokens")
    return None if requests is None and tokens is None else Allowance(requests, tokens)


def _remaining(headers: Mapping[str, str], what: str) -> Remaining | None:
    left = _number(headers.get(f"{PREFIX}remaining-{what}"))
    if left is None:
        return None
    return Remaining(
        left, _number(headers.get(f"{PREFIX}limit-{what}")), _span(headers.get(f"{PREFIX}reset-{what}"))
    )


def _number(told: str | None) -> float | None:
    try:
        number = float(told or "")
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


def _span(told: str | None) -> float | None:
    if told is not None and SPAN.fullmatch(told.strip()):
        return sum(float(number) * UNITS[unit] for number, unit in PART.findall(told))
    number = _number(told)
    if number is None or number < A_TIME:
        return number
    return max(0.0, number - time())
