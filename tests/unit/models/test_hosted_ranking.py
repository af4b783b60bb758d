"""What every hosted reranker keeps, and what it makes of a provider's faults, on local servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import stamina

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, ModelUnavailable, PgEmbedError
from pg_embed.models.hosted import ATTEMPTS
from pg_embed.models.hosted_ranking import HostedReranker
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec
from tests.fix_models import RANKERS
from tests.providers.ranking_server import score
from tests.providers.server import Fault, ProviderServer

KEY = "pa-test-0123456789abcdef"
QUERY = "How do I get my money back?"
TEXTS = ["thirty days", "naïve Größe 東京 🦜", "", 'a "quoted"\nline', "word"]
MENDED_BY_THE_OPERATOR = [
    (Fault(401, "no"), "key"),
    (Fault(402, "please pay"), "balance"),
    (Fault(403, "no"), "key"),
    (Fault(404, "no"), "base_url"),
]
NO_ANSWERS = [
    b"",
    b"[]",
    b"null",
    b'{"data": null, "results": null}',
    b'{"data": [{"index": 0}], "results": [{"index": 0}]}',
    b'[{"index": 0, "score": null}]',
    b'[{"index": 1, "score": 0.5}]',
    b'{"data": [{"index": 1, "relevance_score": 1}], "results": [{"index": 1, "relevance_score": 1}]}',
    b'{"data": [{"index": "0", "relevance_score": 1}], "results": [{"index": "0", "relevance_score": 1}]}',
    b'{"data": [{"index": 0, "relevance_score": []}], "results": [{"index": 0, "relevance_score": []}]}',
    b'{"data": [{"index": 0, "relevance_score": "x"}], "results": [{"index": 0, "relevance_score": "x"}]}',
    b'{"data": [{"index": 0, "relevance_score": 1e99}], "results": [{"index": 0, "relevance_score": 1e99}]}',
]
Connect = Callable[..., HostedReranker]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


@pytest.fixture(params=[*RANKERS, "tei_reranker"])
def family(request: pytest.FixtureRequest) -> str:
    """Each hosted family of rerankers."""
    return str(request.param)


@pytest.fixture
def server(family: str, start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """Its provider's contract on this machine."""
    return start_provider(family)


@pytest.fixture
def connect(family: str, server: ProviderServer) -> Iterator[Connect]:
    """Rerankers on the server; closed at the end."""
    made: list[HostedReranker] = []

    def connect(**options: Any) -> HostedReranker:
        named = {} if family == "tei_reranker" else {"model": "any"}  # that server has one model
        given = {"base_url": server.base_url, **named, **options}
        reranker = default_registry().load(ModelSpec("model", family, given))
        assert isinstance(reranker, HostedReranker)
        made.append(reranker)
        return reranker

    yield connect
    for reranker in made:
        reranker.close()


def failing(reranker: HostedReranker, *texts: str) -> PgEmbedError:
    with pytest.raises(PgEmbedError) as caught:
        reranker.rerank(QUERY, list(texts) or ["a"])
    return caught.value


def documents(request: dict[str, Any]) -> list[str]:
    return request.get("documents") or request["texts"]


def test_scores_come_in_the_order_of_the_texts(connect: Connect, server: ProviderServer) -> None:
    found = connect().rerank(QUERY, TEXTS)
    expected = [score(QUERY, text or " ") for text in TEXTS]
    assert found.scores.dtype == np.float32
    assert found.scores.tolist() == expected
    assert expected != sorted(expected, reverse=True), "the server's order is another"
    assert found.tokens > 0
    assert len(server.requests) == 1


def test_a_text_has_the_same_score_alone(connect: Connect) -> None:
    reranker = connect()
    together = reranker.rerank(QUERY, TEXTS).scores
    assert [reranker.rerank(QUERY, [text]).scores.item() for text in TEXTS] == together.tolist()


def test_empty_texts_and_queries_are_sent_as_a_space(connect: Connect, server: ProviderServer) -> None:
    assert connect().rerank("", [""]).scores.tolist() == [score(" ", " ")]
    assert (server.requests[0]["query"], documents(server.requests[0])) == (" ", [" "])


def test_no_texts_cost_no_call(connect: Connect, server: ProviderServer) -> None:
    found = connect().rerank(QUERY, [])
    assert (found.scores.shape, found.tokens, server.requests) == ((0,), 0, [])


def test_the_query_is_counted_with_every_text(connect: Connect, server: ProviderServer) -> None:
    reranker = connect(max_batch_tokens=200)
    query, texts = "query " * 20, [f"text {number}" for number in range(12)]
    (asked,) = reranker.count_tokens([query])
    found = reranker.rerank(query, texts)
    assert found.scores.tolist() == [score(query, text) for text in texts]
    sizes = [len(documents(request)) for request in server.requests]
    assert sum(sizes) == 12
    assert all(size * asked < 200 for size in sizes)
    assert max(sizes) == sizes[0] > 1


def test_a_text_that_alone_is_too_much_goes_alone(connect: Connect, server: ProviderServer) -> None:
    connect(max_batch_tokens=50).rerank(QUERY, ["a", "long " * 100, "b"])
    assert [len(documents(request)) for request in server.requests] == [1, 1, 1]


def test_the_texts_of_a_listwise_reranker_stay_together(connect: Connect, server: ProviderServer) -> None:
    reranker = connect(max_batch_tokens=50)
    reranker.card = replace(reranker.card, listwise=True)
    reranker.rerank(QUERY, TEXTS * 4)
    assert len(server.requests) == 1


def test_as_many_texts_as_the_card_says_go_through(connect: Connect) -> None:
    reranker = connect()
    texts = [f"text {number}" for number in range(reranker.card.max_batch_items)]
    assert reranker.rerank("q", texts).scores.tolist() == [score("q", text) for text in texts]


def test_the_card_says_that_it_scores(connect: Connect) -> None:
    card = connect(concurrency=3, max_tokens=9, max_batch_items=8, max_batch_tokens=7).card
    assert (card.outputs, card.dimensions, card.metric, card.padded) == (("score",), 1, "ip", False)
    assert (card.concurrency, card.max_tokens) == (3, 9)
    assert (card.max_batch_items, card.max_batch_tokens) == (8, 7)


def test_the_space_is_that_of_the_weights(connect: Connect) -> None:
    plain = connect().card.space_id
    assert connect(timeout=3, concurrency=2, max_batch_items=7).card.space_id == plain
    assert connect(space="ours").card.space_id != plain


def test_another_model_is_another_space(family: str, connect: Connect) -> None:
    if family == "tei_reranker":
        pytest.skip("that server has one model")
    assert connect(model="b").card.space_id != connect().card.space_id


def test_refused_texts_are_said_to_be_so(connect: Connect, server: ProviderServer) -> None:
    reranker = connect()
    for status in (400, 413, 422):
        server.faults.append(Fault(status, "not this"))
        error = failing(reranker)
        assert isinstance(error, InputRejected)
        assert f"answered {status}: not this" in str(error)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "hint"), MENDED_BY_THE_OPERATOR, ids=lambda of: str(getattr(of, "status", of))
)
def test_what_only_the_operator_can_mend_is_a_misconfiguration(
    connect: Connect, server: ProviderServer, fault: Fault, hint: str
) -> None:
    reranker = connect()
    server.faults.append(fault)
    error = failing(reranker)
    assert isinstance(error, ModelMisconfigured)
    assert hint in str(error.hint)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("headers", "wait"), [({}, None), ({"Retry-After": "7"}, 7)])
@pytest.mark.parametrize("status", [408, 424, 429])
def test_what_passes_is_unavailable_with_the_wait_that_is_asked_for(
    connect: Connect, server: ProviderServer, status: int, headers: dict[str, str], wait: float | None
) -> None:
    reranker = connect()
    server.faults.append(Fault(status, headers=headers))
    error = failing(reranker)
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after == wait
    assert len(server.requests) == 1


def test_server_errors_are_tried_again(connect: Connect, server: ProviderServer) -> None:
    reranker = connect()
    server.faults.extend([Fault(status) for status in (500, 503)])
    assert reranker.rerank(QUERY, ["a"]).scores.tolist() == [score(QUERY, "a")]
    server.faults.extend([Fault(502)] * ATTEMPTS)
    assert isinstance(failing(reranker), ModelUnavailable)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("CUT", "cannot be reached"),
        ("HTML", "not JSON"),
        ("NO_VECTORS", "no usable answer"),
        ("SHORT", "1 scores for 2 texts"),
        ("NAN", "no usable answer"),
        ("DOUBLED", "indexes are missing or doubled"),
    ],
)
def test_an_answer_that_cannot_be_trusted_is_never_a_score(connect: Connect, word: str, message: str) -> None:
    error = failing(connect(), "good", word)
    assert isinstance(error, ModelUnavailable)
    assert message in str(error)


@pytest.mark.parametrize("body", NO_ANSWERS)
def test_an_answer_of_another_shape_is_no_usable_answer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    reranker = connect()
    monkeypatch.setattr(reranker._endpoint, "post", lambda payload: body)
    assert "no usable answer" in str(failing(reranker))


def test_a_server_that_hangs_is_given_up(connect: Connect) -> None:
    assert "did not answer within 0.2 seconds" in str(failing(connect(timeout=0.2), "HANG"))


def test_a_server_that_is_not_there_is_unavailable(connect: Connect) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        connect(base_url="http://127.0.0.1:1").rerank(QUERY, ["a"])


def test_a_key_is_sent_and_stands_in_no_error(
    connect: Connect, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_EMBED_TEST_KEY", KEY)
    server.key = KEY
    reranker = connect(api_key_env="PG_EMBED_TEST_KEY")
    assert len(reranker.rerank(QUERY, ["a"]).scores) == 1
    for status in (400, 401, 402, 403, 404, 429):
        server.faults.append(Fault(status, f"the key {KEY} is not good"))
        error = failing(reranker)
        assert KEY not in repr([str(error), str(error.__cause__), str(error.__context__), error.hint])


def test_a_key_among_the_options_is_refused(connect: Connect) -> None:
    with pytest.raises(InvalidArgument, match="must not stand"):
        connect(api_key=KEY)


def test_the_providers_own_key_is_not_sent_to_another_host(
    connect: Connect, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "VOYAGE_API_KEY", "CO_API_KEY", "JINA_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    server.key = KEY
    with pytest.raises(ModelMisconfigured, match="answered 401"):
        connect().rerank(QUERY, ["a"])


def test_a_lone_surrogate_is_refused(connect: Connect) -> None:
    assert isinstance(failing(connect(), "\ud800"), InputRejected)
