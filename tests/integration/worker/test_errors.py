"""What goes wrong: models that refuse, that fail for now, that are misconfigured, and tables in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest

from pg_embed.errors import InputRejected, ModelMisconfigured, ModelUnavailable, Overloaded
from pg_embed.jobs import Refused, Store, Work
from tests.fix_worker import (
    NEVER,
    Connection,
    GatedFake,
    StartWorker,
    broken_rows,
    create_docs,
    create_fake_model,
    insert_docs,
    vector,
)
from tests.sql.helpers import tend, value


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, empty, with a vectorizer of three attempts."""
    create_fake_model(db)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', backfill => false, max_attempts => 3)")
    return db


def failures(db: Connection) -> list[tuple[str, str, int]]:
    return db.execute("SELECT key, code, attempts FROM embed.failures").fetchall()


def entry(db: Connection) -> tuple[int, timedelta, str]:
    """Attempts, wait and last error of the one entry that was put back."""
    while True:
        row = db.execute(
            "SELECT attempts, available_at - now(), last_error FROM embed._queue"
            " WHERE worker IS NULL AND last_error IS NOT NULL"  # one in hand counts another attempt
        ).fetchone()
        if row is not None:
            return row[0], row[1], row[2]


def test_one_refused_row_is_found_and_the_others_go_through(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(fail_on="poison")
    start_worker(dsn, model)
    insert_docs(docs, *("poison" if number in (0, 77, 199) else f"text {number}" for number in range(200)))
    docs.execute("SELECT embed.wait('docs')")
    assert [row[0] for row in failures(docs)] == ["1", "200", "78"]
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(embedding) FROM docs") == 197
    assert len(model.calls) < 60, "a refused row is found by halving"


def test_nothing_but_refused_rows_ends_too(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn, GatedFake(fail_on="poison"))
    insert_docs(docs, *["poison"] * 33)
    docs.execute("SELECT embed.wait('docs')")
    assert len(failures(docs)) == 33


def test_a_row_that_is_refused_is_not_sent_again_by_itself(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake(fail_on="poison")
    start_worker(dsn, model)
    insert_docs(docs, "poison")
    docs.execute("SELECT embed.wait('docs')")
    insert_docs(docs, "good")
    docs.execute("SELECT embed.wait('docs')")
    assert model.texts == ["poison", "good"]


def test_an_unavailable_model_is_tried_again_with_growing_waits(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    model.refuse = lambda texts: ModelUnavailable("not now")
    start_worker(dsn, model, backoff=1_000.0, backoff_limit=NEVER, repair_wait=0.01)
    insert_docs(docs, "one")
    attempts, first, error = entry(docs)
    assert (attempts, error) == (1, "not now")
    assert timedelta(seconds=990) < first <= timedelta(seconds=1_250)
    docs.execute("UPDATE embed._queue SET available_at = now(), last_error = NULL; NOTIFY pg_embed_work")
    attempts, second, error = entry(docs)
    assert attempts == 2
    assert timedelta(seconds=1_990) < second <= timedelta(seconds=2_500)
    assert failures(docs) == []


def test_the_provider_s_own_wait_is_honoured(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake()
    model.refuse = lambda texts: ModelUnavailable("slow down", retry_after=2_000.0)
    start_worker(dsn, model)
    insert_docs(docs, "one")
    _, wait, error = entry(docs)
    assert error == "slow down"
    assert timedelta(seconds=1_990) < wait <= timedelta(seconds=2_500)


def test_rows_go_through_once_the_model_is_back(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    errors = iter([ModelUnavailable("one"), ModelUnavailable("two")])
    model.refuse = lambda texts: next(errors, None)
    start_worker(dsn, model)
    insert_docs(docs, "one")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert failures(docs) == []


def test_a_row_is_given_up_when_its_attempts_are_spent_and_not_before(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    model.refuse = lambda texts: ModelUnavailable("not now")
    start_worker(dsn, model)
    insert_docs(docs, "one", "two")
    docs.execute("SELECT embed.wait('docs')")
    assert failures(docs) == [("1", "PE020", 3), ("2", "PE020", 3)]
    assert len(model.calls) == 3


def test_a_new_row_is_not_given_up_with_an_old_one(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    insert_docs(docs, "old")
    docs.execute("UPDATE embed._queue SET attempts = 2")
    insert_docs(docs, "new")
    model = GatedFake()
    model.refuse = lambda texts: ModelUnavailable("not now")
    start_worker(dsn, model, backoff=NEVER, backoff_limit=NEVER, repair_wait=0.01)
    while not failures(docs) or value(docs, "SELECT count(*) FROM embed._queue WHERE last_error IS NULL"):
        pass
    assert failures(docs) == [("1", "PE020", 3)]
    assert value(docs, "SELECT attempts FROM embed._queue") == 1


@pytest.mark.parametrize("error", [ModelMisconfigured("no key"), Overloaded("full")])
def test_what_is_nobody_s_fault_is_charged_to_nobody(
    docs: Connection, dsn: str, start_worker: StartWorker, error: Exception
) -> None:
    model = GatedFake()
    errors = iter([error] * 8)
    model.refuse = lambda texts: next(errors, None)
    start_worker(dsn, model)
    insert_docs(docs, "one")
    docs.execute("SELECT embed.wait('docs')")
    assert failures(docs) == []
    assert len(model.calls) == 9, "more often than there are attempts"
    assert broken_rows(docs) == []


def test_a_model_that_cannot_be_loaded_charges_nobody_and_tells(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("UPDATE embed._model SET family = 'nothing'")
    start_worker(dsn)
    insert_docs(docs, "one")
    attempts, _, error = entry(docs)
    assert attempts == 0
    assert "nothing" in error
    assert value(docs, "SELECT last_error FROM embed.status") == error
    docs.execute("UPDATE embed._model SET family = 'fake'")
    docs.execute("SELECT embed.retry('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_model_of_another_space_than_the_catalog_says_writes_nothing(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, GatedFake(document_prompt="another: "))
    insert_docs(docs, "one")
    attempts, _, error = entry(docs)
    assert attempts == 0
    assert "another space" in error
    assert value(docs, "SELECT count(embedding) FROM docs") == 0
    assert failures(docs) == []


def test_a_failing_vectorizer_does_not_stop_another(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(docs, "broken", unavailable_on="")
    docs.execute(
        "UPDATE embed._model SET options = options || '{\"unavailable_on\": \"e\"}' WHERE name = 'broken'"
    )
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('other', 'body', model => 'broken')")
    docs.execute("INSERT INTO other SELECT i, 'never' FROM generate_series(1, 1000) AS i")
    start_worker(dsn, backoff=NEVER, backoff_limit=NEVER, repair_wait=NEVER)
    for number in range(5):
        insert_docs(docs, f"text {number}")
        docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(embedding) FROM other") == 0


def test_a_hanging_model_does_not_stop_another_vectorizer(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(docs, "slow", dimensions=5)
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('other', 'body', model => 'slow')")
    docs.execute("INSERT INTO other SELECT i, 'text' FROM generate_series(1, 10000) AS i")
    slow = GatedFake(shut=True, dimensions=5)
    start_worker(dsn, {"slow": slow})
    slow.next_call()
    for number in range(3):
        insert_docs(docs, f"text {number}")
        docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    slow.open()
    docs.execute("SELECT embed.wait('other')")


def test_an_unexpected_error_is_logged_and_the_row_tried_again(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    errors = iter([RuntimeError("a bug")])
    model.refuse = lambda texts: next(errors, None)
    start_worker.expected = "a bug"
    start_worker(dsn, model)
    insert_docs(docs, "one")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


@pytest.mark.parametrize(("character", "told"), [("\0", ""), ("\udcff", "?")])
def test_an_error_with_a_character_that_no_database_takes_is_told_without_it(
    docs: Connection, dsn: str, start_worker: StartWorker, character: str, told: str
) -> None:
    model = GatedFake()
    bad, later = InputRejected(f"bad{character}byte"), ModelUnavailable(f"la{character}ter")
    model.refuse = lambda texts: bad if "bad" in texts else later
    start_worker(dsn, model)
    insert_docs(docs, "bad")
    docs.execute("SELECT embed.wait('docs')")
    insert_docs(docs, "later")
    docs.execute("SELECT embed.wait('docs')")
    assert docs.execute("SELECT key, error FROM embed.failures ORDER BY key").fetchall() == [
        ("1", f"bad{told}byte"),
        ("2", f"la{told}ter"),
    ]


def test_a_row_whose_vector_its_table_refuses_is_found_and_the_others_are_written(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF OLD.title = 'archived' THEN RAISE 'archived rows are read-only'; END"
        " IF; RETURN NEW; END $$;"
        "CREATE TRIGGER guard BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION guard()"
    )
    insert_docs(docs, *(f"text {number}" for number in range(100)), None)
    docs.execute("INSERT INTO docs VALUES (500, 'archived', 'a'), (501, 'archived', 'b')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(embedding) FROM docs") == 100
    found = docs.execute("SELECT key, code, error FROM embed.failures").fetchall()
    assert found == [
        (key, "P0001", "the table refuses its vector: archived rows are read-only") for key in ("500", "501")
    ]
    docs.execute("ALTER TABLE docs DISABLE TRIGGER guard")
    assert value(docs, "SELECT embed.retry('docs')") == 2
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


def wait_for_all(db: Connection) -> None:
    """Until nothing is queued, of what is queued meanwhile, too."""
    while value(db, "SELECT count(*) FROM embed._queue"):
        db.execute("SELECT embed.wait('docs')")


def change_on_update(db: Connection, timing: str, change: str) -> None:
    """A trigger that changes a text whenever anything of its row is written."""
    body = change if timing == "BEFORE" else f"IF pg_trigger_depth() = 1 THEN {change} END IF;"
    db.execute(
        f"CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;"
        f"CREATE TRIGGER change {timing} UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION change()"
    )


@pytest.mark.parametrize(
    ("timing", "change"),
    [
        ("BEFORE", "NEW.title := clock_timestamp();"),
        ("AFTER", "UPDATE public.docs SET title = clock_timestamp() WHERE id = NEW.id;"),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_a_text_that_every_write_of_its_vector_changes_is_not_embedded_for_ever(
    db: Connection, dsn: str, start_worker: StartWorker, timing: str, change: str, others: int
) -> None:
    create_fake_model(db)
    create_docs(db)
    change_on_update(db, timing, f"IF NEW.id = 2 THEN {change} END IF;")
    for column in ["embedding", "other"][: 1 + others]:
        db.execute(
            "SELECT embed.create_vectorizer("
            "'docs', template => '{title} {body}', column_name => %s, max_attempts => 3)",
            [column],
        )
    model = GatedFake()
    start_worker(dsn, model)
    db.execute("SELECT embed.wait('docs')")  # or rows come from the backfill, too
    insert_docs(db, "one", "two", "three")
    wait_for_all(db)
    told = "a trigger of the table changes its text whenever a vector is written"
    found = db.execute("SELECT key, code, error, attempts FROM embed.failures").fetchall()
    assert found == [("2", "27000", told, 3)] * (1 + others)
    assert value(db, "SELECT count(*) FROM docs WHERE embedding IS NULL") == 0
    assert broken_rows(db, text="concat(title, ' ', body)") == []
    db.execute("DROP TRIGGER change ON docs")
    assert value(db, "SELECT embed.retry()") == 1 + others
    wait_for_all(db)
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
    assert broken_rows(db, text="concat(title, ' ', body)") == []


def test_a_trigger_that_tidies_a_text_once_is_no_failure(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    change_on_update(docs, "BEFORE", "NEW.body := btrim(NEW.body);")
    start_worker(dsn)
    insert_docs(docs, " one ", "two", "  three")
    wait_for_all(docs)
    assert broken_rows(docs) == []
    assert value(docs, "SELECT string_agg(body, ',' ORDER BY id) FROM docs") == "one,two,three"
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


def before_a_refusal(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen once, between the refusal of a row and its listing."""
    give_up, left = Store.give_up, [happens]

    async def late(store: Store, work: Work, row: Refused) -> bool | None:
        if left:
            await asyncio.to_thread(left.pop())
        return await give_up(store, work, row)

    monkeypatch.setattr(Store, "give_up", late)


def refuse_bad(db: Connection, table: str, text: str) -> None:
    """A trigger that lets no vector of the text `bad` into a table."""
    db.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF NEW.embedding IS NOT NULL AND NEW.{text} = 'bad' THEN RAISE 'bad'; END IF;"
        " RETURN NEW; END $$;"
        f"CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION guard()"
    )


@pytest.mark.parametrize(
    ("storage", "home", "text"), [("column", "docs", "body"), ("table", "docs_embedding", "chunk")]
)
def test_a_refused_row_is_not_listed_whose_newer_text_was_embedded_meanwhile(
    db: Connection,
    dsn: str,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    storage: str,
    home: str,
    text: str,
) -> None:
    create_fake_model(db)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', storage => %s, backfill => false)", [storage])
    refuse_bad(db, home, text)

    def change() -> None:
        with psycopg.connect(dsn, autocommit=True) as user:
            user.execute("UPDATE docs SET body = 'good'")
            while not value(user, f"SELECT count(embedding) FROM {home}"):
                pass

    before_a_refusal(monkeypatch, change)
    start_worker(dsn)
    insert_docs(db, "bad")
    db.execute("SELECT embed.wait('docs')")
    assert failures(db) == []
    assert value(db, f"SELECT embedding = %s::halfvec(4) FROM {home}", vector("good"))


def test_a_refused_row_that_somebody_holds_is_listed_when_it_is_free(
    docs: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_bad(docs, "docs", "body")
    with psycopg.connect(dsn) as user:
        before_a_refusal(monkeypatch, lambda: (user.execute("SELECT FROM docs FOR UPDATE"), None)[1])
        start_worker(dsn)
        insert_docs(docs, "bad")
        assert entry(docs)[2] == "the row is locked by another transaction"
        assert failures(docs) == []
    docs.execute("SELECT embed.wait('docs')")
    assert failures(docs) == [("1", "P0001", 1)]


@pytest.mark.parametrize("code", ["40001", "40P01"], ids=["moved to another partition", "deadlock"])
def test_a_write_that_met_another_is_tried_again_before_its_lease_is_over(
    docs: Connection, dsn: str, start_worker: StartWorker, code: str
) -> None:
    docs.execute("CREATE SEQUENCE met")
    docs.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF nextval('public.met') < 5 THEN RAISE EXCEPTION 'met' USING ERRCODE = '{code}'; END IF;"
        " RETURN new; END $$"
    )
    docs.execute("CREATE TRIGGER guard BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION guard()")
    start_worker(dsn, lease=3_600)
    insert_docs(docs, "one")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert value(docs, "SELECT last_value FROM met") == 5
    assert failures(docs) == []


def test_a_row_that_a_trigger_silently_keeps_as_it_is_ends_too(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF OLD.title = 'archived' THEN RETURN NULL; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER guard BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION guard();"
        "CREATE TRIGGER redundant BEFORE UPDATE ON docs FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    )
    insert_docs(docs, "one", "two")
    docs.execute("INSERT INTO docs VALUES (500, 'archived', 'a')")
    start_worker(dsn)
    docs.execute("SELECT embed.wait('docs')")
    refusal = [("500", "27000", "a trigger of the table did not let the vector be written")]
    assert docs.execute("SELECT key, code, error FROM embed.failures").fetchall() == refusal
    docs.execute("SELECT embed.backfill('docs', 'all')")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    assert docs.execute("SELECT key, code, error FROM embed.failures").fetchall() == refusal


@pytest.mark.parametrize("state", ["55000", "54000"])
def test_an_error_that_is_no_lost_connection_is_told(
    docs: Connection, dsn: str, start_worker: StartWorker, state: str
) -> None:
    docs.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE 'not ready' USING ERRCODE = '{state}'; END $$;"
        "CREATE TRIGGER guard BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION guard()"
    )
    start_worker.expected = "not ready"
    start_worker(dsn)
    insert_docs(docs, "one")
    while value(docs, "SELECT reason FROM embed.vectorizers") is None:
        pass
    assert value(docs, "SELECT reason FROM embed.vectorizers") == "not ready"
    docs.execute("DROP TRIGGER guard ON docs")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []


def test_a_row_that_the_filter_fails_on_is_given_up_and_nobody_else_hears_of_it(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, n int, body text, note text)")
    docs.execute("SELECT embed.create_vectorizer('other', 'body', filter => '10 / n > 1')")
    docs.execute("INSERT INTO other VALUES (1, 0, 'x'), (2, 1, 'y'), (3, 100, 'z'), (4, 0, 'x')")
    start_worker(dsn, tend_every=0.05)
    docs.execute("SELECT embed.wait('other')")
    found = docs.execute("SELECT key, code, error FROM embed.failures ORDER BY key").fetchall()
    assert found == [(key, "22012", "its text cannot be read: division by zero") for key in ("1", "4")]
    assert value(docs, "SELECT state FROM embed.why('other', 1)") == "failed"
    assert docs.execute("SELECT id FROM other WHERE embedding IS NOT NULL").fetchall() == [(2,)]
    docs.execute("UPDATE other SET note = 'the writer meets no error'")
    docs.execute("UPDATE other SET n = 0 WHERE id = 3")
    docs.execute("DELETE FROM other WHERE id = 4")
    docs.execute("UPDATE other SET n = 2 WHERE n = 0")
    docs.execute("SELECT embed.wait('other')")
    text = "CASE WHEN 10 / n > 1 THEN body END"
    assert broken_rows(docs, "other", text=text, vectorizer="other_embedding") == []
    while value(docs, "SELECT count(*) FROM embed.failures"):
        pass


@pytest.mark.parametrize("kind", ["text", "vector(5)"])
def test_a_column_whose_type_was_changed_stops_only_its_vectorizer(
    docs: Connection, dsn: str, start_worker: StartWorker, kind: str
) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('other', 'body')")
    docs.execute(f"ALTER TABLE other ALTER embedding TYPE {kind}")
    docs.execute("INSERT INTO other VALUES (1, 'x')")
    start_worker(dsn)
    insert_docs(docs, "one")
    docs.execute("SELECT embed.wait('docs')")
    assert broken_rows(docs) == []
    tend(docs)
    found = docs.execute(
        "SELECT state, reason FROM embed.vectorizers WHERE name = 'other_embedding'"
    ).fetchone()
    assert found is not None
    assert found[0] == "stopped"
    assert "another type" in found[1]


def test_the_column_may_change_between_halfvec_and_vector(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    insert_docs(docs, "one")
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("ALTER TABLE docs ALTER embedding TYPE vector(4)")
    insert_docs(docs, "two")
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT embedding = %s::vector FROM docs WHERE id = 2", vector("two"))


def test_a_locked_table_stops_only_itself(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    docs.execute("SELECT embed.create_vectorizer('other', 'body')")
    docs.execute("INSERT INTO other VALUES (1, 'x')")
    docs.execute(
        "INSERT INTO embed._failure SELECT id, '9', 'PE021', 'x', 1 FROM embed._vectorizer"
        " WHERE name ~ 'other'"
    )
    with psycopg.connect(dsn) as user:
        user.execute("LOCK TABLE other IN ACCESS EXCLUSIVE MODE")
        start_worker(dsn, tend_every=0.01)
        for number in range(3):
            insert_docs(docs, f"text {number}")
            docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.wait('other')")
    assert broken_rows(docs, "other", vectorizer="other_embedding") == []
