"""What hosted families share: a client with one policy of retries, and the servers' errors as ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from time import monotonic, time
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import stamina

from pg_embed.errors import InputRejected, InvalidArgument, ModelError, ModelMisconfigured, ModelUnavailable
from pg_embed.models.allowance import read_allowance
from pg_embed.records import Allowance

CONNECT_TIMEOUT = 10.0  # seconds
ATTEMPTS = 3  # quick ones, for lost connections and server errors; the queue has the patience
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 0.5  # seconds
LONGEST_ANSWER = 512 * 1024 * 1024  # bytes
LONGEST_MESSAGE = 300  # characters of a server's own words
LONGEST_WAIT = 86_400.0  # seconds; what a server asks for beyond a day is not believed
LONGEST_RESET = 60.0  # seconds until a rate limit is lifted: the server tells it by its own clock
REJECTED = {400, 413, 422, 498}  # 498 is Cohere's for a text with a word from its deny list
PASSING = {408, 409, 424, 425, 429, 499}
RETRIED = {500, 502, 503, 504}
PAYMENT = {402}
KEY_REFUSED = {401, 403}
KEY_HINT = "the key is missing, wrong or not meant for this: mend it where api_key_env or api_key_file says"
NO_BALANCE = {  # codes of OpenAI, and the last of Jina
    "insufficient_quota",
    "billing_not_active",
    "billing_hard_limit_reached",
    "AUTHZ_INSUFFICIENT_BALANCE",
}
LIMITED = 429
NO_MODEL = {"INPUT_MODEL_NOT_FOUND"}  # Jina's code, under the status of a refused text
CONFIGURATION = {"model", "dimensions", "encoding_format"}  # a 400 about one of these is not about the texts
HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
MASKED_KEY = re.compile(r"\b(?:(?:sk|pa|al|hf|gsk|xai)[-_]|jina_)[\w*.-]{4,}")


class Passing(ModelUnavailable):
    """a failure that a second attempt at once may not meet again"""


class Endpoint:
    """One URL that is asked for JSON; used by several threads.

    Where the key is refused, `renew` is asked for one: if it is another, the call is made again with that.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        timeout: float,
        connections: int,
        renew: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.url = checked_url(url)
        self._key = key
        self._spent: set[str] = set()  # keys that were refused, and may still stand in a server's words
        self._renew = renew
        self._timeout = timeout
        self._told = threading.local()
        self._client = httpx.Client(
            headers=HEADERS,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def post(self, payload: Mapping[str, Any]) -> bytes:
        """The answer's body; raises our errors, never one with the key in it."""
        try:
            content = orjson.dumps(payload)
        except TypeError as exc:
            raise InputRejected(f"a text cannot be sent: {exc}") from exc
        return self._send("POST", content)

    def get(self) -> bytes:
        """The body of what is to be had without asking for anything."""
        return self._send("GET", b"")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, method: str, content: bytes) -> bytes:
        for attempt in stamina.retry_context(
            Passing,
            attempts=ATTEMPTS,
            wait_initial=FIRST_PAUSE,
            wait_max=LONGEST_PAUSE,
            wait_jitter=FIRST_PAUSE,
        ):
            with attempt:
                return self._attempt(method, content)
        raise AssertionError  # the last attempt returns or raises

    def allowance(self) -> Allowance | None:
        """What the last answer to this thread said of limits; told once."""
        told: Allowance | None = self._told.__dict__.pop("allowance", None)
        return told

    def _attempt(self, method: str, content: bytes) -> bytes:
        deadline, key = monotonic() + self._timeout, self._key
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            with self._client.stream(method, self.url, content=content, headers=headers) as response:
                body = _read(response, deadline)
        except httpx.TimeoutException as exc:
            raise ModelUnavailable(f"{self.url} did not answer within {self._timeout:g} seconds") from exc
        except httpx.HTTPError as exc:
            raise Passing(
                f"{self.url} cannot be reached: {self.clean(str(exc)) or type(exc).__name__}"
            ) from exc
        self._told.allowance = read_allowance(response.headers)
        if response.status_code == 200:
            return body
        error = self._error(response, body)
        if response.status_code in KEY_REFUSED and self._renewed(key):
            raise Passing(str(error))
        raise error

    def _renewed(self, refused: str | None) -> bool:
        """Whether there is another key by now than the one that was refused."""
        found = self._renew()
        if found is None or found == refused:
            return False
        if refused is not None:
            self._spent.add(refused)
        self._key = found
        return True

    def _error(self, response: httpx.Response, body: bytes) -> ModelError:
        status, told = response.status_code, _told(body)
        message = f"{self.url} answered {status}: {self.clean(told.message)[:LONGEST_MESSAGE]}"
        if status in PAYMENT or told.code in NO_BALANCE:
            return ModelMisconfigured(message, hint="the account has no balance left", refused=True)
        if status in REJECTED and told.about not in CONFIGURATION and told.code not in NO_MODEL:
            return InputRejected(message)
        retry_after = _retry_after(response)
        if status in RETRIED and retry_after is None:
            return Passing(message)
        if status in PASSING or status >= 500:
            return ModelUnavailable(message, retry_after=retry_after, limited=status == LIMITED)
        if status in KEY_REFUSED:
            return ModelMisconfigured(message, hint=KEY_HINT, refused=True)
        return ModelMisconfigured(message, hint="check the key, base_url and model")

    def clean(self, text: str) -> str:
        """The text without the key, or what looks like one."""
        for key in {*self._spent, self._key or ""} - {""}:
            text = text.replace(key, "…")
        return MASKED_KEY.sub("…", text)


@dataclass(frozen=True)
class Told:
    """What the body of an error says, in any of the shapes that servers use."""

    message: str
    code: str | None = None
    about: str | None = None


def checked_url(url: str) -> str:
    """The URL, if it is one for HTTP and carries no secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument("base_url must begin with http:// or https://")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidArgument("base_url must have no user, password or parameters")
    return url


def _read(response: httpx.Response, deadline: float) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if monotonic() > deadline:
            raise httpx.ReadTimeout("the answer comes too slowly")
        if size > LONGEST_ANSWER:
            raise httpx.ReadError("the answer is too long")
    return b"".join(chunks)


def _told(body: bytes) -> Told:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Told("(no JSON)")
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if not isinstance(error, dict):
        return Told(str(error))
    message = error.get("message") or error.get("detail") or error.get("error") or "(no message)"
    return Told(_sentence(message), _word(error.get("code") or error.get("type")), _word(error.get("param")))


def _sentence(message: object) -> str:
    """The words of an error; of a list of invalid fields where and why, without the values that were sent."""
    if not isinstance(message, list):
        return str(message)
    fields = [item for item in message if isinstance(item, dict)]
    return "; ".join(f"{item.get('loc')}: {item.get('msg')}" for item in fields) or "(no message)"


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from whichever header says so; never negative, never longer than a day."""
    asked = _asked(response.headers, limited=response.status_code == 429)
    return None if asked is None or not isfinite(asked) else min(max(0.0, asked), LONGEST_WAIT)


def _asked(headers: httpx.Headers, *, limited: bool) -> float | None:
    try:
        if "retry-after-ms" in headers:
            return float(headers["retry-after-ms"]) / 1000
        if told := headers.get("retry-after", "").strip():
            if told.replace(".", "", 1).isdigit():
                return float(told)
            return (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        if limited and (left := float(headers["x-ratelimit-reset"]) - time()) > 0:
            return min(left, LONGEST_RESET)
    except (ValueError, TypeError, KeyError):
        pass
    return None
