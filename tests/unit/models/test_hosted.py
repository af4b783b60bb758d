"""What every hosted family makes of a provider's faults, on local servers with the providers' contracts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stamina

from pg_embed.errors import InputRejected, InvalidArgument, ModelError, ModelMisconfigured, ModelUnavailable
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.hosted import ATTEMPTS, LONGEST_RESET, LONGEST_WAIT
from pg_embed.models.provider import HostedEmbedder
from pg_embed.models.registry import default_registry
from pg_embed.records import Allowance, ModelSpec, Remaining
from tests.fix_models import PROVIDERS
from tests.providers.server import Fault, ProviderServer

KEY = "pa-test-0123456789abcdef"
WITHOUT_INDEXES = {"cohere"}  # the order of its answers cannot be checked
WAITS: list[tuple[dict[str, str], float | None]] = [
    ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
    ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ({"Retry-After": "tomorrow"}, None),
    ({"Retry-After": "9" * 400}, None),
    ({"Retry-After": "9" * 20}, LONGEST_WAIT),
    ({"retry-after-ms": "nan"}, None),
    ({"retry-after-ms": "-5"}, 0),
    ({"x-ratelimit-reset": "soon"}, None),
    ({"x-ratelimit-reset": "1"}, None),
    ({"x-ratelimit-reset": "99999999999"}, LONGEST_RESET),
]
NO_ANSWERS = [
    b"[]",
    b"null",
    b'"words"',
    b'{"data": null}',
    b'{"data": [{"index": 0}]}',
    b'{"data": [{"index": 0, "embedding": []}]}',
    b'{"data": [{"index": 0, "embedding": 1}]}',
    b'{"data": [{"index": 0, "embedding": "A"}]}',
    b'{"data": [{"index": "0", "embedding": [1]}]}',
    b'{"embeddings": []}',
    b'{"embeddings": {"float": [[]]}}',
    b'{"embeddings": {"float": [1]}}',
    b'{"embeddings": {"float": [["word"]]}}',
    b"",
]
Connect = Callable[..., HostedEmbedder]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


@pytest.fixture(params=PROVIDERS)
def family(request: pytest.FixtureRequest) -> str:
    """Each hosted family."""
    return str(request.param)


@pytest.fixture
def server(family: str, start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """Its provider's contract on this machine."""
    return start_provider(family)


@pytest.fixture
def connect(family: str, server: ProviderServer) -> Iterator[Connect]:
    """Models on the server; closed at the end."""
    made: list[HostedEmbedder] = []

    def connect(**options: Any) -> HostedEmbedder:
        options = {"base_url": server.base_url, "model": "any", "dimensions": 8, **options}
        given = {name: value for name, value in options.items() if value is not None}
        embedder = default_registry().load(ModelSpec("model", family, given))
        assert isinstance(embedder, HostedEmbedder)
        made.append(embedder)
        return embedder

    yield connect
    for embedder in made:
        embedder.close()


def expected(*texts: str) -> np.ndarray[Any, Any]:
    return FakeEmbedder(FakeOptions(dimensions=8)).embed(texts, "document").dense


def test_vectors_and_tokens_are_the_servers(connect: Connect) -> None:
    for kind in ("query", "document"):
        embeddings = connect().embed(["one", "two words"], kind)  # type: ignore[arg-type]
        assert np.array_equal(embeddings.dense, expected("one", "two words"))
        assert embeddings.tokens == 4


def test_an_empty_text_is_sent_as_a_space(connect: Connect) -> None:
    assert np.array_equal(connect().embed(["", "a"], "document").dense, expected(" ", "a"))


def test_dimensions_that_are_not_given_are_asked_for_once(connect: Connect, server: ProviderServer) -> None:
    embedder = connect(dimensions=None)
    assert len(server.requests) == 1
    embedder.embed(["one"], "document")
    assert embedder.card.dimensions == 8
    assert not any("dimension" in name for request in server.requests for name in request)


def test_dimensions_that_are_given_are_sent_and_cost_no_call(
    connect: Connect, server: ProviderServer
) -> None:
    embedder = connect(dimensions=5)
    assert server.requests == []
    assert embedder.embed(["one"], "document").dense.shape == (1, 5)
    assert any(
        5 in (request.get("dimensions"), request.get("output_dimension")) for request in server.requests
    )


def test_a_refused_input_is_said_so(connect: Connect, server: ProviderServer) -> None:
    embedder = connect()
    for status in (400, 413, 422):
        server.faults.append(Fault(status, "not this text"))
        with pytest.raises(InputRejected, match=f"answered {status}: not this text"):
            embedder.embed(["a"], "document")
    assert len(server.requests) == 3


def test_what_only_the_operator_can_mend_is_a_misconfiguration(
    connect: Connect, server: ProviderServer
) -> None:
    embedder = connect()
    for status in (301, 401, 403, 404):
        server.faults.append(Fault(status, "not so"))
        with pytest.raises(ModelMisconfigured, match=f"answered {status}: not so") as caught:
            embedder.embed(["a"], "document")
        assert "key" in str(caught.value.hint)
        assert caught.value.refused is (status in (401, 403)), "the account, not the configuration"
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "fault",
    [
        Fault(402, "please pay"),
        Fault(429, "no more", code="insufficient_quota"),
        Fault(429, "no more", code="billing_not_active"),
        Fault(400, "no more", code="billing_hard_limit_reached"),
        Fault(403, "no more", code="AUTHZ_INSUFFICIENT_BALANCE"),
    ],
    ids=lambda fault: fault.code or "payment",
)
def test_an_empty_account_is_a_misconfiguration_that_is_said_so(
    family: str, connect: Connect, server: ProviderServer, fault: Fault
) -> None:
    if fault.code is not None and family not in ("openai", "jina"):
        pytest.skip("the provider's errors have no codes")
    server.faults.append(fault)
    with pytest.raises(ModelMisconfigured) as caught:
        connect().embed(["a"], "document")
    assert "balance" in str(caught.value.hint)
    assert caught.value.refused


def test_what_passes_is_left_to_the_queue_with_the_wait_that_is_asked_for(
    connect: Connect, server: ProviderServer
) -> None:
    embedder = connect()
    statuses = (408, 409, 424, 425, 429, 499, 501, 529)
    for status in statuses:
        for headers, seconds in (({}, None), ({"Retry-After": "7"}, 7)):
            server.faults.append(Fault(status, headers=headers))
            with pytest.raises(ModelUnavailable, match=f"answered {status}") as caught:
                embedder.embed(["a"], "document")
            assert caught.value.retry_after == seconds
            assert caught.value.limited is (status == 429)
    assert len(server.requests) == 2 * len(statuses)


def test_what_a_provider_says_of_its_limits_is_told_once_and_to_the_caller_s_thread(
    family: str, connect: Connect
) -> None:
    told = {
        "openai": Allowance(requests=Remaining(4_999, reset=0.012)),
        "jina": Allowance(Remaining(499), Remaining(999_999)),
    }
    embedder = connect()
    embedder.embed(["one"], "document")
    with ThreadPoolExecutor(1) as other:
        assert other.submit(embedder.allowance).result() is None
    assert embedder.allowance() == told.get(family)
    assert embedder.allowance() is None


def test_a_server_error_that_passes_is_not_seen(connect: Connect, server: ProviderServer) -> None:
    embedder = connect()
    for status in (500, 502, 503, 504):
        server.faults.extend([Fault(status)] * (ATTEMPTS - 1))
        assert len(embedder.embed(["one"], "document").dense) == 1
    assert len(server.requests) == 4 * ATTEMPTS


def test_a_server_error_that_stays_is_unavailable(connect: Connect, server: ProviderServer) -> None:
    embedder = connect()
    for status in (500, 502, 503, 504):
        server.faults.extend([Fault(status)] * ATTEMPTS)
        with pytest.raises(ModelUnavailable, match=f"answered {status}"):
            embedder.embed(["a"], "document")
    assert len(server.requests) == 4 * ATTEMPTS


def test_a_wait_may_be_told_in_several_ways_and_is_never_absurd(
    connect: Connect, server: ProviderServer
) -> None:
    embedder = connect()
    for headers, seconds in WAITS:
        server.faults.append(Fault(429, headers=headers))
        with pytest.raises(ModelUnavailable) as caught:
            embedder.embed(["a"], "document")
        assert caught.value.retry_after == seconds, headers


def test_a_limit_that_is_lifted_soon_is_waited_for_as_long_as_that(
    connect: Connect, server: ProviderServer
) -> None:
    server.faults.append(Fault(429, headers={"x-ratelimit-reset": str(int(time.time()) + 30)}))
    with pytest.raises(ModelUnavailable) as caught:
        connect().embed(["a"], "document")
    assert caught.value.retry_after is not None
    assert 20 < caught.value.retry_after <= 30


def test_the_end_of_a_limit_does_not_delay_a_server_error(connect: Connect, server: ProviderServer) -> None:
    server.faults.append(Fault(503, headers={"x-ratelimit-reset": str(int(time.time()) + 30)}))
    assert len(connect().embed(["a"], "document").dense) == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("CUT", "cannot be reached"),
        ("HTML", "not JSON"),
        ("NO_VECTORS", "no usable answer"),
        ("SHORT", "1 vectors for 2 texts"),
        ("NAN", "no usable answer"),
        ("WIDE", "9 dimensions, expected 8"),
        ("DOUBLED", "indexes are missing or doubled"),
        ("RAGGED", "no usable answer"),
    ],
)
@pytest.mark.parametrize("base64", [True, False])
def test_an_answer_that_cannot_be_trusted_is_never_a_vector(
    family: str, connect: Connect, server: ProviderServer, word: str, message: str, base64: bool
) -> None:
    if word == "DOUBLED" and family in WITHOUT_INDEXES:
        pytest.skip("the provider's answers have no indexes")
    server.base64 = base64
    with pytest.raises(ModelUnavailable, match=message):
        connect().embed(["good", word], "document")


def test_an_answer_of_another_shape_is_no_usable_answer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = connect()
    for body in NO_ANSWERS:
        monkeypatch.setattr(embedder._endpoint, "post", lambda payload, body=body: body)
        with pytest.raises(ModelUnavailable, match="no usable answer"):
            embedder.embed(["a"], "document")


def test_an_answer_that_repeats_the_key_is_not_shown(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = connect()
    monkeypatch.setattr(embedder._endpoint, "_key", "a key as no other")
    monkeypatch.setattr(embedder._endpoint, "post", lambda payload: b"a key as no other, and more")
    with pytest.raises(ModelUnavailable, match="not JSON") as caught:
        embedder.embed(["a"], "document")
    assert "a key as no other" not in str(caught.value)


def test_vectors_are_sorted_by_index(family: str, connect: Connect) -> None:
    if family in WITHOUT_INDEXES:
        pytest.skip("the provider's answers have no indexes")
    texts = ["a", "b SHUFFLE", "c"]
    assert np.array_equal(connect().embed(texts, "document").dense, expected(*texts))


def test_a_server_that_hangs_is_given_up(connect: Connect) -> None:
    with pytest.raises(ModelUnavailable, match=r"did not answer within 0\.2 seconds"):
        connect(timeout=0.2).embed(["HANG"], "document")


def test_a_server_that_is_not_there_is_unavailable(connect: Connect) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        connect(base_url="http://127.0.0.1:1").embed(["a"], "document")


def test_a_refused_probe_is_a_misconfiguration(connect: Connect, server: ProviderServer) -> None:
    server.faults.append(Fault(400, "not like this"))
    with pytest.raises(ModelMisconfigured, match="not like this"):
        connect(dimensions=None)


def test_a_key_that_a_server_repeats_stands_in_no_error(
    connect: Connect, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_EMBED_TEST_KEY", KEY)
    server.key = KEY
    embedder = connect(api_key_env="PG_EMBED_TEST_KEY")
    assert len(embedder.embed(["a"], "document").dense) == 1
    for status in (400, 401, 402, 403, 404, 413, 422, 429, 500):
        server.faults.extend([Fault(status, f"the key {KEY} is not good, nor is jina_0123456789")] * ATTEMPTS)
        with pytest.raises(ModelError) as caught:
            embedder.embed(["a"], "document")
        server.faults.clear()
        told = repr([*chain(caught.value), caught.value.hint])
        assert KEY not in told
        assert "0123456789" not in told


def chain(error: BaseException | None) -> list[str]:
    """The messages of an error and of what caused it."""
    return [] if error is None else [str(error), *chain(error.__cause__ or error.__context__)]


def test_a_wrong_key_is_a_misconfiguration(
    connect: Connect, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_EMBED_TEST_KEY", KEY)
    server.key = "another"
    with pytest.raises(ModelMisconfigured, match="answered 401") as caught:
        connect(api_key_env="PG_EMBED_TEST_KEY").embed(["a"], "document")
    assert KEY not in repr(chain(caught.value))


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_was_mended_in_its_file_is_used_at_once(
    connect: Connect, server: ProviderServer, tmp_path: Path, status: int
) -> None:
    file = tmp_path / "key"
    file.write_text("the-old-key\n")
    server.key, server.refusal = "the-new-key", status
    embedder = connect(api_key_file=str(file))
    for _ in range(2):
        with pytest.raises(ModelMisconfigured, match=f"answered {status}") as caught:
            embedder.embed(["a"], "document")
        assert "api_key_file" in str(caught.value.hint)
    assert len(server.requests) == 2, "a key that is the same is not tried again"
    file.write_text("the-new-key\n")
    assert len(embedder.embed(["a"], "document").dense) == 1
    assert len(server.requests) == 4
    assert len(embedder.embed(["a"], "document").dense) == 1
    assert len(server.requests) == 5, "the new key is kept"


def test_a_key_that_is_taken_back_works_too(connect: Connect, server: ProviderServer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    embedder = connect(api_key_file=str(file))
    for key in ("one", "another", "one"):
        file.write_text(key)
        server.key = key
        assert len(embedder.embed(["a"], "document").dense) == 1


def test_no_key_that_was_ever_used_is_told(connect: Connect, server: ProviderServer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("the-old-key")
    server.key = "neither"
    embedder = connect(api_key_file=str(file))
    file.write_text("the-new-key")
    for words in (["a"], ["POISON"]):
        with pytest.raises(ModelError) as caught:
            embedder.embed(words, "document")
        assert not any(key in repr(chain(caught.value)) for key in ("the-old-key", "the-new-key"))
    server.faults.append(Fault(400, "the-old-key and the-new-key"))
    with pytest.raises(InputRejected) as refused:
        embedder.embed(["a"], "document")
    assert str(refused.value).endswith("answered 400: … and …")


def test_a_key_file_that_is_gone_is_said_so(connect: Connect, server: ProviderServer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("the-old-key")
    server.key = "the-new-key"
    embedder = connect(api_key_file=str(file))
    file.unlink()
    with pytest.raises(ModelMisconfigured, match="cannot be read"):
        embedder.embed(["a"], "document")


def test_the_providers_own_key_is_not_sent_to_another_host(
    connect: Connect, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "VOYAGE_API_KEY", "CO_API_KEY", "JINA_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    server.key = KEY
    with pytest.raises(ModelMisconfigured, match="answered 401"):
        connect().embed(["a"], "document")


def test_the_provider_wants_a_key(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "VOYAGE_API_KEY", "CO_API_KEY", "JINA_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ModelMisconfigured, match="_API_KEY is not set"):
        default_registry().load(ModelSpec("model", family, {"model": "any", "dimensions": 8}))


def test_invalid_fields_are_told_without_what_was_sent(connect: Connect, server: ProviderServer) -> None:
    fields = [{"loc": ["body", "input", 0], "msg": "too long", "type": "t", "input": "a customer's secret"}]
    server.faults.append(Fault(422, fields))  # type: ignore[arg-type]
    with pytest.raises(InputRejected, match="too long") as caught:
        connect().embed(["a"], "document")
    assert "secret" not in str(caught.value)


def test_a_lone_surrogate_is_refused(connect: Connect) -> None:
    with pytest.raises(InputRejected):
        connect().embed(["\ud800"], "document")


def test_the_space_is_that_of_the_weights_not_of_the_way_to_them(connect: Connect) -> None:
    plain = connect().card.space_id
    assert connect(timeout=3, concurrency=2, max_batch_items=7, max_batch_tokens=9).card.space_id == plain
    different: list[dict[str, Any]] = [{"model": "large"}, {"dimensions": 5}, {"space": "ours"}]
    assert len({plain, *(connect(**options).card.space_id for options in different)}) == 4


def test_a_named_space_outlives_the_move_of_a_server(connect: Connect) -> None:
    here, there = connect(space="ours"), connect(space="ours", base_url="http://elsewhere.example/v1/")
    assert here.card.space_id == there.card.space_id


def test_a_base_url_that_is_none_or_holds_a_secret_is_refused(connect: Connect) -> None:
    for url in (
        "ftp://host/v1",
        "host/v1",
        "http://",
        "https://user:secret@host/v1",
        "https://host/v1?key=secret",
    ):
        with pytest.raises(InvalidArgument) as caught:
            connect(base_url=url)
        assert "secret" not in str(caught.value)


def test_limits_may_be_told(connect: Connect) -> None:
    card = connect(max_tokens=9, max_batch_items=8, max_batch_tokens=7, concurrency=6, metric="ip").card
    told = (card.max_tokens, card.max_batch_items, card.max_batch_tokens, card.concurrency, card.metric)
    assert told == (9, 8, 7, 6, "ip")
    assert card.padded is False
