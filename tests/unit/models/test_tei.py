"""The family "tei": what the server tells is believed, what it gives is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import stamina

from pg_embed.errors import InputRejected, InvalidArgument, ModelMisconfigured, ModelUnavailable
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.hosted import ATTEMPTS
from pg_embed.models.registry import default_registry
from pg_embed.protocols import Embedder
from pg_embed.records import ModelSpec
from tests.fix_models import TEI
from tests.providers.server import Fault, ProviderServer, serving
from tests.providers.tei_server import INFO, VOCABULARY, TeiContract, sparse_row

KEY = "tei-secret-0123456789"
Connect = Callable[..., Embedder]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


@pytest.fixture
def server(start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """A server with a model of dense vectors."""
    return start_provider("tei")


@pytest.fixture
def sparse_server(start_provider: Callable[[str], ProviderServer]) -> ProviderServer:
    """A server with a model of sparse vectors."""
    return start_provider("tei_sparse")


@pytest.fixture
def connect(server: ProviderServer) -> Iterator[Connect]:
    """Models on a server; closed at the end. What loading asks for is not among the server's requests."""
    made: list[Embedder] = []

    def connect(on: ProviderServer = server, **options: Any) -> Embedder:
        made.append(default_registry().load(ModelSpec("t", "tei", {"base_url": on.base_url, **options})))
        on.requests.clear()
        return made[-1]

    yield connect
    for embedder in made:
        embedder.close()


def serve(**info: Any) -> Any:
    """A server that tells something else of itself."""
    return serving(lambda: ProviderServer(TeiContract(**info)))


def test_vectors_come_in_the_order_of_the_texts(connect: Connect) -> None:
    texts = ["one", "", "naïve Größe 東京 🦜"]
    found = connect().embed(texts, "document")
    expected = FakeEmbedder(FakeOptions()).embed(["one", " ", texts[2]], "document").dense
    assert np.array_equal(found.dense, expected)
    assert found.tokens > 0


def test_texts_are_cut_and_vectors_normalised_unless_told_otherwise(
    connect: Connect, server: ProviderServer
) -> None:
    connect().embed(["a"], "query")
    assert server.requests == [{"inputs": ["a"], "truncate": True, "normalize": True}]
    connect(truncate=False, normalize=False, dimensions=4).embed(["a"], "query")
    assert server.requests == [{"inputs": ["a"], "truncate": False, "normalize": False, "dimensions": 4}]


def test_prompts_are_named_by_kind(connect: Connect, server: ProviderServer) -> None:
    embedder = connect(query_prompt_name="query", document_prompt_name="document")
    embedder.embed(["a"], "query")
    embedder.embed(["b"], "document")
    assert [request["prompt_name"] for request in server.requests] == ["query", "document"]


@pytest.mark.parametrize("option", ["query_prompt_name", "document_prompt_name"])
def test_a_prompt_that_the_model_does_not_have_is_found_at_load(connect: Connect, option: str) -> None:
    with pytest.raises(ModelMisconfigured, match="nonsense was not found"):
        connect(**{option: "nonsense"})


def test_dimensions_that_the_model_does_not_have_are_found_at_load(connect: Connect) -> None:
    assert connect(dimensions=4).embed(["a"], "document").dense.shape == (1, 4)
    with pytest.raises(ModelMisconfigured, match="smaller than the maximum"):
        connect(dimensions=9)


def test_the_card_is_what_the_server_tells(connect: Connect) -> None:
    card = connect().card
    assert (card.checkpoint, card.dimensions, card.max_tokens) == ("thenlper/gte-base", 8, 512)
    assert (card.max_batch_items, card.max_batch_tokens, card.concurrency) == (32, 16_384, 8)
    assert (card.outputs, card.metric, card.padded) == (("dense",), "cosine", False)
    told = connect(max_tokens=9, max_batch_items=8, max_batch_tokens=7, concurrency=6, metric="ip").card
    assert (told.max_tokens, told.max_batch_items, told.max_batch_tokens) == (9, 8, 7)
    assert (told.concurrency, told.metric) == (6, "ip")


def test_no_more_texts_are_under_way_than_the_server_has_places(connect: Connect) -> None:
    with serve(max_concurrent_requests=70) as on:
        assert connect(on).card.concurrency == 2
    with serve(max_concurrent_requests=10) as on:
        card = connect(on).card
        assert (card.max_batch_items, card.concurrency) == (10, 1)


def test_a_batch_of_the_largest_size_goes_through(connect: Connect) -> None:
    embedder = connect()
    texts = [f"text {number}" for number in range(embedder.card.max_batch_items)]
    assert embedder.embed(texts, "document").dense.shape == (32, 8)
    with pytest.raises(InputRejected, match="maximum allowed batch size 32"):
        embedder.embed([*texts, "one more"], "document")


def test_a_long_text_is_cut_unless_told_otherwise(connect: Connect) -> None:
    long = "word " * 1_000
    assert len(connect().embed([long], "document").dense) == 1
    with pytest.raises(InputRejected, match="less than 512 tokens"):
        connect(truncate=False).embed([long], "document")


def test_the_space_is_that_of_the_weights_at_their_revision(connect: Connect) -> None:
    plain = connect().card.space_id
    assert connect(timeout=3, max_batch_items=2, truncate=False).card.space_id == plain
    with serve(max_input_length=128, model_dtype="float32") as elsewhere:
        assert connect(elsewhere).card.space_id == plain
    spaces = [plain]
    for told in (
        {"model_id": "thenlper/gte-small"},
        {"model_sha": "0" * 40},
        {"model_type": {"embedding": {"pooling": "mean"}}},
    ):
        with serve(**told) as on:
            spaces.append(connect(on).card.space_id)
    options: list[dict[str, Any]] = [
        {"dimensions": 4},
        {"normalize": False},
        {"query_prompt_name": "query"},
        {"document_prompt_name": "query"},
        {"space": "ours"},
    ]
    spaces += [connect(**given).card.space_id for given in options]
    assert len(set(spaces)) == 9


def test_a_model_without_a_revision_is_known_by_its_server(connect: Connect) -> None:
    with serve(model_id="/data", model_sha=None) as one, serve(model_id="/data", model_sha=None) as other:
        assert connect(one).card.space_id != connect(other).card.space_id
        assert connect(one, space="s").card.space_id == connect(other, space="s").card.space_id


def test_sparse_vectors_are_sorted_and_whole(connect: Connect, sparse_server: ProviderServer) -> None:
    embedder = connect(sparse_server, output="sparse", sparse_dimensions=VOCABULARY)
    texts = ["many words in a text", "", "two words"]
    found = embedder.embed(texts, "document")
    assert sparse_server.requests == [
        {"inputs": ["many words in a text", " ", "two words"], "truncate": True}
    ]
    assert found.sparse is not None
    assert found.dense.shape == (3, 0)
    for row, text in enumerate(texts):
        expected = {item["index"]: item["value"] for item in sparse_row(text)}
        indices, values = found.sparse.row(row)
        assert indices.tolist() == sorted(expected)
        assert values.tolist() == [expected[index] for index in sorted(expected)]
    assert found.tokens > 0
    card = embedder.card
    assert (card.outputs, card.dimensions, card.size("sparse")) == (("sparse",), VOCABULARY, VOCABULARY)
    assert card.metric == "ip"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("BEYOND", "index 30522 is not below sparse_dimensions, 30522"),
        ("TWICE", "indices are doubled"),
        ("SHORT", "1 vectors for 2 texts"),
        ("HTML", "not JSON"),
        ("NO_VECTORS", "no usable answer"),
        ("CUT", "cannot be reached"),
    ],
)
def test_a_sparse_answer_that_cannot_be_trusted_is_never_a_vector(
    connect: Connect, sparse_server: ProviderServer, word: str, message: str
) -> None:
    embedder = connect(sparse_server, output="sparse", sparse_dimensions=VOCABULARY)
    with pytest.raises(ModelUnavailable, match=message):
        embedder.embed(["good", word], "document")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("SHORT", "1 vectors for 2 texts"),
        ("NAN", "no usable answer"),
        ("WIDE", "9 dimensions, expected 8"),
        ("RAGGED", "no usable answer"),
        ("HTML", "not JSON"),
        ("NO_VECTORS", "no usable answer"),
        ("CUT", "cannot be reached"),
    ],
)
def test_an_answer_that_cannot_be_trusted_is_never_a_vector(
    connect: Connect, word: str, message: str
) -> None:
    with pytest.raises(ModelUnavailable, match=message):
        connect().embed(["good", word], "document")


def test_options_that_do_not_suit_are_refused(connect: Connect, sparse_server: ProviderServer) -> None:
    with pytest.raises(InvalidArgument, match="sparse_dimensions") as caught:
        connect(sparse_server, output="sparse")
    assert "vocab_size" in str(caught.value.hint)
    with pytest.raises(InvalidArgument, match="for dense vectors"):
        connect(sparse_server, output="sparse", sparse_dimensions=9, dimensions=4)
    with pytest.raises(InvalidArgument, match="needs the option 'base_url'"):
        default_registry().load(ModelSpec("t", "tei"))


def test_a_model_of_another_sort_is_a_misconfiguration(
    connect: Connect, sparse_server: ProviderServer, start_provider: Callable[[str], ProviderServer]
) -> None:
    with pytest.raises(ModelMisconfigured, match="makes sparse vectors"):
        connect(sparse_server)
    with pytest.raises(ModelMisconfigured, match="makes dense vectors"):
        connect(output="sparse", sparse_dimensions=9)
    ranking = start_provider("tei_reranker")
    with pytest.raises(ModelMisconfigured, match="is a reranker") as caught:
        connect(ranking)
    assert "tei_reranker" in str(caught.value.hint)
    with serve() as dense, pytest.raises(ModelMisconfigured, match="is no reranker"):
        default_registry().load(ModelSpec("t", "tei_reranker", {"base_url": dense.base_url}))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(413, "too large"), InputRejected),
        (Fault(422, "tokenization"), InputRejected),
        (Fault(424, "inference failed"), ModelUnavailable),
        (Fault(429, "model is overloaded"), ModelUnavailable),
        (Fault(401, "no"), ModelMisconfigured),
    ],
    ids=lambda of: str(getattr(of, "status", "")),
)
def test_the_servers_errors_are_told_apart(
    connect: Connect, server: ProviderServer, fault: Fault, expected: type[Exception]
) -> None:
    embedder = connect()
    server.faults.append(fault)
    with pytest.raises(expected, match=f"answered {fault.status}: {fault.message}"):
        embedder.embed(["a"], "document")
    assert len(server.requests) == 1


def test_a_server_that_is_another_or_away_is_said_so_at_load(
    connect: Connect, server: ProviderServer
) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        connect(base_url="http://127.0.0.1:1")
    with pytest.raises(ModelMisconfigured, match="answered 404"):
        connect(base_url=server.base_url + "/v1")
    with serve(model_type=None) as on, pytest.raises(ModelUnavailable, match="no usable answer"):
        connect(on)


def test_a_key_is_sent_where_one_is_named(
    connect: Connect, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEI_API_KEY", KEY)
    server.key = KEY
    assert len(connect(api_key_env="TEI_API_KEY").embed(["a"], "query").dense) == 1
    with pytest.raises(ModelMisconfigured, match="answered 401"):
        connect()


@pytest.mark.parametrize("family", TEI)
def test_the_local_servers_tell_what_the_real_one_tells(
    family: str, start_provider: Callable[[str], ProviderServer]
) -> None:
    info = start_provider(family).contract.info["/info"]  # type: ignore[attr-defined]
    assert set(info) == set(INFO)
