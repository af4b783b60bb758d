"""One suite over all transports: the same vectors, the same errors, whatever happens to the sidecar."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pg_embed.engine import EngineSettings
from pg_embed.models.hashing import FakeEmbedder, load
from pg_embed.records import VECTORS, Embeddings, Kind, ModelSpec, Outputs
from tests.fix_models import PATIENCE
from tests.fix_serve import (
    FAKE,
    RERANKER,
    SLOW,
    START_TIMEOUT,
    Failure,
    Place,
    RunningSidecar,
    call,
    failure,
    request,
)

UNREACHABLE = 'start it with "pg-embed serve"; "pg-embed doctor" tells what is missing'
DELAY = 3.0  # seconds that a model takes for an answer nobody waits for
SLOWER = replace(SLOW, options={**SLOW.options, "delay": DELAY})
LATE = "the model may be loading, or the sidecar busy: try again, or set embed.timeout higher"
AWKWARD = [
    "",
    " ",
    "plain",
    "back\\slash \\n \\\\ \\. end\\",
    "lines\nand\ttabs\rand\x0bfeeds\x0c",
    "'single' \"double\" $$dollar$$ %s %L",
    "žluťoučký kůň 雪 مرحبا 🦄🏳️‍🌈",
    '{"id":"00000000-0000-0000-0000-000000000000"}',
]


@pytest.fixture
def sidecar(place: Place) -> Iterator[RunningSidecar]:
    with place.sidecar() as running:
        yield running


@pytest.fixture
def session(place: Place) -> Iterator[psycopg.Connection[Any]]:
    with place.connect() as connection:
        yield connection


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the model begins with "late"."""
    event, embed = threading.Event(), FakeEmbedder.embed

    def tell(self: FakeEmbedder, texts: Sequence[str], kind: Kind, outputs: Outputs = VECTORS) -> Embeddings:
        if "late" in texts:
            event.set()
        return embed(self, texts, kind, outputs)

    monkeypatch.setattr(FakeEmbedder, "embed", tell)
    return event


def after(event: threading.Event, act: Callable[[], object]) -> threading.Thread:
    """Do something in a thread of its own as soon as the event is set."""

    def wait() -> None:
        assert event.wait(PATIENCE)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def expected(texts: list[str], model: ModelSpec = FAKE, kind: Any = "query") -> list[list[float]]:
    quick = replace(model, options={"dimensions": model.options["dimensions"]})
    return [[float(number) for number in row] for row in load(quick).embed(texts, kind).dense]


def vectors(answer: dict[str, Any]) -> list[list[float]]:
    return [json.loads(vector) for vector in answer["vectors"]]


def same(answer: dict[str, Any], texts: list[str]) -> bool:
    return bool(
        all(a == pytest.approx(b, rel=1e-6) for a, b in zip(vectors(answer), expected(texts), strict=True))
    )


def works(connection: psycopg.Connection[Any], text: str = "again") -> bool:
    return same(call(connection, request([text])), [text])


def test_vectors_are_those_of_the_model(sidecar: RunningSidecar, session: psycopg.Connection[Any]) -> None:
    asked = request(["one", "two"], kind="document")
    answer = call(session, asked)
    assert answer["id"] == asked["id"]
    assert answer["tokens"] == 2
    assert same(answer, ["one", "two"])


def test_sparse_and_token_vectors_come_over_it_too(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    options = {"dimensions": 3, "sparse_dimensions": 1_000, "multi_dimensions": 2}
    model = ModelSpec("three", "fake", options)
    found = load(model).embed(["one fish one"], "query")
    assert found.sparse is not None
    assert found.multi is not None
    indices, values = found.sparse.row(0)
    pairs = ",".join(f"{i + 1}:{v}" for i, v in zip(indices, values, strict=True))
    sparse = call(session, request(["one fish one"], model=model, output="sparse"))
    assert sparse["vectors"] == [f"{{{pairs}}}/1000"]
    [multi] = call(session, request(["one fish one"], model=model, output="multi"))["vectors"]
    tokens = [json.loads(token) for token in json.loads(f"[{multi[1:-1]}]")]
    assert tokens == pytest.approx(found.multi.row(0).astype(float))


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_arrives_unchanged(
    sidecar: RunningSidecar, session: psycopg.Connection[Any], text: str
) -> None:
    assert same(call(session, request([text])), [text])


def test_a_text_of_a_megabyte_arrives_unchanged(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    text = "snow\\ 雪\n'" * 100_000
    assert same(call(session, request([text])), [text])


def test_a_long_answer_arrives_whole(sidecar: RunningSidecar, session: psycopg.Connection[Any]) -> None:
    model = ModelSpec("wide", "fake", {"dimensions": 4000})
    answer = call(session, request([str(number) for number in range(50)], model=model))
    assert [len(vector) for vector in vectors(answer)] == [4000] * 50


def test_embed_gives_null_for_null_and_vectors_for_texts(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    session.execute("""SELECT embed.create_model('fake', 'fake', options => '{"dimensions": 4}')""")
    row = session.execute("SELECT embed(NULL), embed('')::text, embed('cat', 'fake')::text").fetchone()
    assert row is not None
    assert row[0] is None
    assert json.loads(row[1]) == pytest.approx(expected([""])[0], rel=1e-6)
    assert json.loads(row[2]) == pytest.approx(expected(["cat"])[0], rel=1e-6)


def test_scores_are_those_of_the_reranker(sidecar: RunningSidecar, session: psycopg.Connection[Any]) -> None:
    asked = request(["a dog", "a red fox"], model=RERANKER, op="rerank", query="red fox")
    assert call(session, asked) == {"id": asked["id"], "scores": [0.0, 1.0], "tokens": 9}
    awkward = request([*AWKWARD, "雪"], model=RERANKER, op="rerank", query="雪 single")
    found = call(session, awkward)["scores"]
    assert found == [0.0] * 5 + [0.5] * 2 + [0.0, 0.5]


def test_rerank_orders_texts_and_keeps_its_errors(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    session.execute("SELECT embed.create_model('fake', 'fake', options => '{\"dimensions\": 4}')")
    session.execute(
        "SELECT embed.create_model('reranker', 'fake_reranker', options => '{\"fail_on\": \"poison\"}')"
    )
    texts = ["a dog", None, "a red fox", "a fox"]
    found = session.execute("SELECT * FROM embed.rerank('red fox', %s)", [texts]).fetchall()
    assert found == [(3, 1.0), (4, 0.5), (1, 0.0)]
    row = session.execute("SELECT embed.rerank_scores('red fox', %s)", [texts]).fetchone()
    assert row == ([0.0, None, 1.0, 0.5],)
    for statement, code in (
        ("SELECT embed.rerank('q', '{poison}')", "PE021"),
        ("SELECT embed('q', 'reranker')", "PE003"),
    ):
        with pytest.raises(psycopg.Error) as raised:
            session.execute(statement)
        assert raised.value.sqlstate == code


def test_errors_of_the_sidecar_keep_their_code_and_hint(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    with pytest.raises(psycopg.Error) as raised:
        session.execute(
            "SELECT embed._ask(%s::jsonb)", (json.dumps(request(["x"], space_id="another space")),)
        )
    assert raised.value.sqlstate == "PE030"
    assert "embed the rows again" in (raised.value.diag.message_hint or "")


def test_an_error_of_the_model_is_an_answer(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    model = ModelSpec("picky", "fake", {"dimensions": 4, "fail_on": "poison"})
    answer = call(session, request(["poison"], model=model))
    assert answer["error"]["code"] == "PE021"
    assert same(call(session, request(["food"], model=model)), ["food"])


def test_a_bad_request_says_what_is_wrong(sidecar: RunningSidecar, session: psycopg.Connection[Any]) -> None:
    answer = call(session, request(["x"], kind="riddle"))
    assert answer["error"] == {
        "code": "PE023",
        "message": '"kind" must be "query" or "document"',
        "hint": None,
    }


def test_no_sidecar_is_an_error_at_once(place: Place, session: psycopg.Connection[Any]) -> None:
    started = time.monotonic()
    error = failure(session, request(["x"]))
    assert (error.code, error.hint) == ("PE010", UNREACHABLE)
    assert error.message.startswith("the sidecar cannot be reached: ")
    assert time.monotonic() - started < 9, "before the time of the call is over"


def test_a_slow_model_is_an_error_when_the_time_is_over(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    error = failure(session, request(["x"], model=SLOW, timeout=30), timeout=0.3)
    assert error == Failure("PE011", "no answer from the sidecar within 0.3 s", LATE)
    assert works(session)


def test_a_timeout_of_the_sidecar_is_the_same_error(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    answer = call(session, request(["x"], model=SLOW, timeout=0.2))
    assert answer["error"]["code"] == "PE011"


def test_overload_is_told_at_once(place: Place) -> None:
    settings = EngineSettings(max_queued_queries=2)
    together = threading.Barrier(12)
    with place.sidecar(engine=settings), ThreadPoolExecutor(12) as pool:

        def ask(number: int) -> str:
            with place.connect() as connection:
                asked = request([f"text {number}"], model=narrow, timeout=20)
                together.wait(START_TIMEOUT)
                return str(call(connection, asked, timeout=20).get("error", {}).get("code", "ok"))

        narrow = ModelSpec("narrow", "fake", {**SLOW.options, "max_batch_items": 1, "delay": 0.5})
        assert set(pool.map(ask, range(12))) == {"ok", "PE012"}


def test_cancel_ends_the_wait_and_the_session_goes_on(
    sidecar: RunningSidecar, session: psycopg.Connection[Any], begun: threading.Event
) -> None:
    works(session)
    started = time.monotonic()
    after(begun, session.cancel_safe)
    assert failure(session, request(["late"], model=SLOWER)).code == "57014"
    assert time.monotonic() - started < DELAY, "before the model answers"
    assert all(works(session, f"text {number}") for number in range(5))


def test_statement_timeout_ends_the_wait_and_the_session_goes_on(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    session.execute("SET statement_timeout = '200ms'")
    started = time.monotonic()
    assert failure(session, request(["late"], model=SLOWER)).code == "57014"
    assert time.monotonic() - started < DELAY, "before the model answers"
    session.execute("SET statement_timeout = 0")
    assert all(works(session, f"text {number}") for number in range(5))


def test_a_terminated_session_does_not_hang(
    place: Place, sidecar: RunningSidecar, begun: threading.Event
) -> None:
    with place.connect() as session, place.connect() as killer:
        pid = session.info.backend_pid
        after(begun, lambda: killer.execute("SELECT pg_terminate_backend(%s)", (pid,)))
        started = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            call(session, request(["late"], model=SLOWER))
        assert time.monotonic() - started < DELAY, "before the model answers"
        deadline = time.monotonic() + 10
        while killer.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            assert time.monotonic() < deadline
        assert works(killer)


@pytest.mark.parametrize(
    "mode", ["READ ONLY", "ISOLATION LEVEL REPEATABLE READ", "ISOLATION LEVEL SERIALIZABLE"]
)
def test_any_transaction_will_do(
    sidecar: RunningSidecar, session: psycopg.Connection[Any], mode: str
) -> None:
    session.execute(f"BEGIN {mode}")
    assert works(session, "one")
    assert works(session, "two")
    session.execute("COMMIT")


def test_databases_may_default_to_any_isolation(place: Place) -> None:
    with place.connect() as session:
        name = session.info.dbname
        session.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        session.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with place.sidecar(), place.connect() as session:
        assert works(session)
        session.execute("SET default_transaction_read_only = off")
        session.execute(f"ALTER DATABASE {name} RESET ALL")


def test_a_failed_subtransaction_does_no_harm(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    session.execute("BEGIN")
    session.execute("SAVEPOINT before")
    assert failure(session, request(["x"], model=SLOW), timeout=0.2).code == "PE011"
    session.execute("ROLLBACK TO before")
    assert works(session)
    session.execute("COMMIT")


def test_after_a_restart_of_the_sidecar_the_session_goes_on(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    assert works(session)
    sidecar.stop()
    assert failure(session, request(["x"])).code == "PE010"
    sidecar.start()
    assert works(session)


def test_a_restart_between_two_calls_goes_unnoticed(
    sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    assert works(session)
    sidecar.restart()
    assert works(session)


def test_a_graceful_stop_answers_what_is_in_hand(
    sidecar: RunningSidecar, session: psycopg.Connection[Any], begun: threading.Event
) -> None:
    works(session)
    stopper = after(begun, sidecar.stop)
    assert same(call(session, request(["late"], model=SLOW)), ["late"])
    stopper.join()


def test_a_killed_sidecar_is_an_error_soon(place: Place, session: psycopg.Connection[Any]) -> None:
    process = place.process()
    try:
        assert works(session)
        started = time.monotonic()
        threading.Timer(0.3, process.kill).start()
        error = failure(
            session,
            request(["late"], model=SLOWER),
            timeout=20,
        )
        assert (error.code, error.hint) == ("PE010", UNREACHABLE)
        assert time.monotonic() - started < 15, "before the time of the call is over"
    finally:
        process.kill()
    with place.sidecar():
        assert works(session)


def test_fifty_sessions_get_their_own_answers(place: Place, sidecar: RunningSidecar) -> None:
    def ask(number: int) -> bool:
        with place.connect() as connection:
            return all(works(connection, f"session {number}, text {text}") for text in range(5))

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(ask, range(50)))


def test_under_random_cancels_every_answer_is_that_of_its_own_request(
    place: Place, sidecar: RunningSidecar
) -> None:
    brief = ModelSpec("brief", "fake", {"dimensions": 4, "delay": 0.004, "concurrency": 4})

    def ask(number: int) -> list[str]:
        chance = random.Random(number)
        outcomes = []
        with place.connect() as connection:
            works(connection)
            for turn in range(30):
                text = f"session {number}, turn {turn}"
                try:
                    connection.execute(f"SET statement_timeout = {chance.choice([1, 3, 6, 10, 20, 1000])}")
                    outcomes.append(
                        "right" if same(call(connection, request([text], model=brief)), [text]) else "wrong"
                    )
                except psycopg.errors.QueryCanceled:
                    outcomes.append("cancelled")
        return outcomes

    with ThreadPoolExecutor(8) as pool:
        outcomes = [outcome for each in pool.map(ask, range(8)) for outcome in each]
    assert set(outcomes) == {"right", "cancelled"}


def test_answered_requests_do_not_pile_up(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    assert all(works(session, str(number)) for number in range(10))
    row = session.execute("SELECT count(*) FROM embed._mailbox").fetchone()
    assert row == (0,)
    if place.serve.spool is not None:
        pid = session.info.backend_pid
        names = {path.name for path in place.serve.spool.iterdir()}
        assert names == {"alive", "lock", f"{pid}.req", f"{pid}.ans"}


def test_an_ordinary_role_may_not_call_the_transport(
    place: Place, sidecar: RunningSidecar, session: psycopg.Connection[Any]
) -> None:
    session.execute("CREATE ROLE nobody_in_particular")
    try:
        session.execute("SET ROLE nobody_in_particular")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            call(session, request(["x"]))
    finally:
        session.execute("RESET ROLE")
        session.execute("DROP ROLE nobody_in_particular")


def test_without_a_transport_the_error_says_what_to_do(db: psycopg.Connection[Any]) -> None:
    error = failure(db, request(["x"]))
    assert (error.code, error.message) == ("PE013", "this database has no transport to a sidecar")
    assert "embed the text in the client" in (error.hint or "")
