"""Hooks that make texts of rows: bytes and other columns in, a text or nothing out, and their faults."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.worker.preparing import MOST_HUNG, Hooks, read
from tests.fix_worker import (
    DIMENSIONS,
    Connection,
    GatedFake,
    StartWorker,
    create_docs,
    create_fake_model,
    insert_docs,
    vector,
)
from tests.integration.worker.test_switch import until
from tests.sql.helpers import queued, refused, value

TIMEOUT = 2.0  # seconds, for a hook that hangs: on a busy machine one that does not may take a while
release = threading.Event()


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def html(row: Mapping[str, Any]) -> str | None:
    """The words of a page; None where there are none."""
    parser = _Words()
    parser.feed(row["page"].decode(row["charset"] or "utf-8"))
    return " ".join(parser.words) or None


def spelled(row: Mapping[str, Any]) -> str:
    """What a hook sees."""
    return repr(sorted(row.items()))


def hang(row: Mapping[str, Any]) -> str:
    """Come back when the test lets it."""
    if row["body"] == "hang":
        assert release.wait(60), "the test never let the hook go"
    return str(row["body"])


def odd(row: Mapping[str, Any]) -> Any:
    """No text."""
    return {"int": 7, "surrogate": "\ud800", "nul": "a\0b"}.get(row["body"], row["body"])


HERE = f"{__name__}:"
HOOKS = ", ".join(f"{name}={HERE}{name}" for name in ("html", "spelled", "hang", "odd"))


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """Let hooks that hang end with the test."""
    release.clear()
    yield
    release.set()


@pytest.fixture
def pages(db: Connection) -> Connection:
    """`pages` with three HTML pages as bytes: one without words, one in Latin-1."""
    create_fake_model(db)
    db.execute("CREATE TABLE pages (id int PRIMARY KEY, page bytea, charset text, note text)")
    rows = [
        (1, b"<p>one <b>page</b></p>", None),
        (2, b"<br>", None),
        (3, "<i>é</i>".encode("latin-1"), "latin-1"),
    ]
    for row in rows:
        db.execute("INSERT INTO pages (id, page, charset) VALUES (%s, %s, %s)", row)
    return db


def vectors(db: Connection, table: str = "pages") -> dict[int, str | None]:
    """What stands in the column of the vectors."""
    found = db.execute(f"SELECT id, embedding::text FROM {table}").fetchall()
    return {row[0]: row[1] for row in found}


def halved(db: Connection, text: str) -> str:
    """A text's vector as the column has it."""
    return str(value(db, f"SELECT %s::vector::halfvec({DIMENSIONS})::text", vector(text)))


def test_a_hook_makes_texts_of_bytes_and_none_is_no_vector(
    pages: Connection, dsn: str, start_worker: StartWorker
) -> None:
    pages.execute("SELECT embed.create_vectorizer('pages', ARRAY['page', 'charset'], prepare => 'html')")
    start_worker(dsn, prepare=HOOKS)
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages) == {1: halved(pages, "one page"), 2: None, 3: halved(pages, "é")}
    assert value(pages, "SELECT state FROM embed.why('pages', 2)") == "no input"
    assert value(pages, "SELECT count(*) FROM embed.failures") == 0
    pages.execute(
        "UPDATE pages SET page = '<p>new</p>' WHERE id < 3;"
        " UPDATE pages SET page = NULL, charset = NULL WHERE id = 3"
    )
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages) == {1: halved(pages, "new"), 2: halved(pages, "new"), 3: None}
    pages.execute("UPDATE pages SET page = '<hr>' WHERE id = 1")
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages)[1] is None, "what was there is not its text any more"
    assert value(pages, "SELECT prepare FROM embed.vectorizers") == "html"


def test_a_vectorizer_gets_a_hook_another_and_none(
    pages: Connection, dsn: str, start_worker: StartWorker
) -> None:
    pages.execute("UPDATE pages SET note = 'a note' WHERE id = 1")
    pages.execute("SELECT embed.create_vectorizer('pages', 'note', name => 'pages')")
    start_worker(dsn, prepare=HOOKS)
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages) == {1: halved(pages, "a note"), 2: None, 3: None}
    pages.execute("SELECT embed.alter_vectorizer('pages', ARRAY['page', 'charset'], prepare => 'html')")
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages) == {1: halved(pages, "one page"), 2: None, 3: halved(pages, "é")}
    pages.execute("SELECT embed.alter_vectorizer('pages', ARRAY['note'], prepare => 'spelled')")
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages)[1] == halved(pages, "[('note', 'a note')]")
    for change, told in (
        ("ARRAY['page'], prepare => ''", "page"),
        ("template => '{note}', prepare => 'html'", "both a template and a hook are given"),
        ("storage => 'table'", "are made by the hook 'spelled', and not kept"),
    ):
        code, message, _ = refused(pages, f"SELECT embed.alter_vectorizer('pages', {change})")
        assert code == "PE003"
        assert told in message
    pages.execute("SELECT embed.alter_vectorizer('pages', 'note', prepare => '')")
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages) == {1: halved(pages, "a note"), 2: None, 3: None}
    assert value(pages, "SELECT prepare FROM embed.vectorizers") is None


@pytest.mark.parametrize("storage", ["column", "table"])
def test_another_hook_of_the_same_columns_makes_every_text_anew(
    db: Connection, dsn: str, start_worker: StartWorker, storage: str
) -> None:
    create_fake_model(db)
    create_docs(db, "one", "two")
    db.execute(
        "SELECT embed.create_vectorizer('docs', ARRAY['body'], prepare => 'odd', storage => %s)", [storage]
    )
    model = GatedFake()
    start_worker(dsn, model, prepare=HOOKS)
    db.execute("SELECT embed.wait('docs')")
    assert sorted(model.texts) == ["one", "two"]
    db.execute("SELECT embed.alter_vectorizer('docs_embedding', prepare => 'spelled')")
    db.execute("SELECT embed.wait('docs')")
    spelled = {1: "[('body', 'one')]", 2: "[('body', 'two')]"}
    # a worker that has not heard of the other hook yet may call the first once more, in vain
    assert set(model.texts[2:]) - {"one", "two"} == set(spelled.values())
    if storage == "table":
        assert dict(db.execute("SELECT id, chunk FROM docs_embedding").fetchall()) == spelled
    else:
        assert vectors(db, "docs") == {key: halved(db, text) for key, text in spelled.items()}


def test_a_hook_s_texts_are_split_into_chunks(pages: Connection, dsn: str, start_worker: StartWorker) -> None:
    pages.execute(
        "SELECT embed.create_vectorizer('pages', ARRAY['page', 'charset'], prepare => 'html',"
        " storage => 'table', chunking => '{\"size\": 8}')"
    )
    pages.execute("UPDATE pages SET page = convert_to('<p>' || repeat('word ', 20), 'UTF8') WHERE id = 3")
    start_worker(dsn, prepare=HOOKS)
    pages.execute("SELECT embed.wait('pages')")
    chunks = (
        "SELECT id, regexp_split_to_array(string_agg(chunk, ' ' ORDER BY chunk_no), ' +'), count(*) > 1"
        " FROM pages_embedding GROUP BY id ORDER BY id"
    )
    assert pages.execute(chunks).fetchall() == [(1, ["one", "page"], False), (3, ["word"] * 20, True)]
    pages.execute("UPDATE pages SET page = '<hr>' WHERE id = 3; UPDATE pages SET page = '\\xff' WHERE id = 1")
    pages.execute("SELECT embed.wait('pages')")
    assert pages.execute(chunks).fetchall() == []
    ((key, code, error),) = pages.execute("SELECT key, code, error FROM embed.failures").fetchall()
    assert (key, code) == ("1", "PE021")
    assert "the hook 'html' failed on this row: UnicodeDecodeError" in error


def test_a_hook_sees_each_column_as_a_value_of_python(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    db.execute(
        "CREATE DOMAIN small AS integer; CREATE TABLE docs (id int PRIMARY KEY, a small, b bytea, c jsonb,"
        ' d timestamptz, e boolean, f float8, "g ""g" text, h text[], i numeric)'
    )
    columns = ["a", "b", "c", "d", "e", "f", 'g "g', "h", "i"]
    db.execute("SELECT embed.create_vectorizer('docs', %s::text[], prepare => 'spelled')", [columns])
    db.execute(
        "INSERT INTO docs VALUES (1, 7, '\\x00ff', '{\"x\": [1, null]}', '2026-01-02 03:04:05+02',"
        " true, 0.5, 'é', '{x,y}', 1.25)"
    )
    model = GatedFake()
    start_worker(dsn, model, prepare=HOOKS)
    db.execute("SELECT embed.wait('docs')")
    expected = {
        "a": 7, "b": b"\x00\xff", "c": {"x": [1, None]}, "d": "2026-01-02 01:04:05+00", "e": True, "f": 0.5,
        'g "g': "é", "h": "{x,y}", "i": 1.25,
    }  # fmt: skip
    assert set(model.texts) == {repr(sorted(expected.items()))}


def test_a_row_on_which_a_hook_fails_is_listed_and_no_other(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_docs(db, "one", "int", "surrogate", "nul")
    db.execute("SELECT embed.create_vectorizer('docs', ARRAY['body'], prepare => 'odd')")
    start_worker(dsn, prepare=HOOKS)
    db.execute("SELECT embed.wait('docs')")
    found = dict(db.execute("SELECT key, error FROM embed.failures").fetchall())
    assert found.keys() == {"2", "3"}
    assert "returned int" in found["2"]
    assert "surrogates not allowed" in found["3"]
    assert vectors(db, "docs")[4] == halved(db, "ab")


def test_a_hook_that_hangs_costs_its_row_and_then_stops(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_docs(db, "hang", "one")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', prepare => 'hang')")
    start_worker.expected = "hooks of this worker hang"
    start_worker(dsn, prepare=HOOKS, prepare_timeout=TIMEOUT)
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT error FROM embed.failures") == (
        f"the hook 'hang' failed on this row: it took longer than {TIMEOUT:g} s"
    )
    assert vectors(db, "docs") == {1: None, 2: halved(db, "one")}
    insert_docs(db, *["hang"] * MOST_HUNG, "two")
    held_up = "SELECT state, explanation FROM embed.why('docs', %s)"
    deadline = time.monotonic() + 60
    while "hooks of this worker hang" not in str(db.execute(held_up, [2 + MOST_HUNG + 1]).fetchone()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert value(db, "SELECT count(*) FROM embed.failures") < 1 + MOST_HUNG
    release.set()
    db.execute("SELECT embed.wait('docs')")
    assert vectors(db, "docs")[2 + MOST_HUNG + 1] == halved(db, "two")


def test_a_worker_without_the_hook_leaves_the_rows_to_others(
    pages: Connection, dsn: str, start_worker: StartWorker
) -> None:
    pages.execute("SELECT embed.create_vectorizer('pages', 'page', prepare => 'pdf')")
    create_docs(pages, "one")
    pages.execute("SELECT embed.create_vectorizer('docs', 'body')")
    start_worker.expected = "has no hook 'pdf'"
    without = start_worker(dsn, prepare=HOOKS)
    pages.execute("SELECT embed.wait('docs')")
    assert vectors(pages, "docs") == {1: halved(pages, "one")}
    reason = "SELECT reason FROM embed.vectorizers WHERE name = 'pages_embedding'"
    until(lambda: value(pages, reason), "the worker's word")
    code, message, hint = refused(pages, "SELECT embed.wait('pages', '1 second')")
    assert code == "PE040"
    assert (
        "this worker has no hook 'pdf' to prepare rows (it has: hang, html, odd, spelled)" in message + hint
    )
    assert value(pages, "SELECT count(*) FROM embed.failures") == 0
    without.stop()
    start_worker(dsn, prepare=f"pdf={HERE}odd2, html={HERE}html").stop()
    start_worker.expected = "has no hook 'pdf'|cannot be loaded"
    start_worker(dsn, prepare=f"pdf={HERE}spelled")
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages)[1] == halved(pages, repr([("page", b"<p>one <b>page</b></p>")]))
    assert value(pages, reason) is None


def test_a_row_that_changed_while_its_text_was_embedded_is_not_written_for_the_old_one(
    pages: Connection, dsn: str, start_worker: StartWorker
) -> None:
    pages.execute("DELETE FROM pages WHERE id > 1")
    pages.execute("SELECT embed.create_vectorizer('pages', ARRAY['page', 'charset'], prepare => 'html')")
    model = GatedFake(shut=True)
    start_worker(dsn, model, prepare=HOOKS)
    call = model.next_call()
    pages.execute("UPDATE pages SET page = '<p>two</p>'")
    call.go()
    second = model.next_call()
    assert vectors(pages) == {1: None}, "the vector of a page that is there no more"
    assert second.texts == ["two"]
    model.open()
    pages.execute("SELECT embed.wait('pages')")
    assert vectors(pages) == {1: halved(pages, "two")}


def test_another_model_s_vectors_are_of_the_same_hook(pages: Connection) -> None:
    pages.execute("SELECT embed.create_vectorizer('pages', ARRAY['page', 'charset'], prepare => 'html')")
    create_fake_model(pages, "wide", dimensions=5)
    pages.execute("SELECT embed.switch_model('pages', 'wide')")
    assert pages.execute("SELECT prepare FROM embed._vectorizer").fetchall() == [("html",), ("html",)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("ARRAY['page'], prepare => ''", "has no name"),
        ("template => '{note}', prepare => 'html'", "both a template and a hook"),
        ("ARRAY['page']", "is not text"),
    ],
)
def test_bad_arguments_are_refused(pages: Connection, arguments: str, told: str) -> None:
    code, message, hint = refused(pages, f"SELECT embed.create_vectorizer('pages', {arguments})")
    assert code == "PE003"
    assert told in message
    assert hint
    assert queued(pages, "pages_embedding") == []


def test_a_reranker_cannot_read_what_only_a_hook_knows(pages: Connection) -> None:
    pages.execute("SELECT embed.create_vectorizer('pages', ARRAY['page', 'charset'], prepare => 'html')")
    code, message, _ = refused(pages, "SELECT embed._search_legs_v1('pages'::regclass, NULL, NULL, true)")
    assert code == "PE003"
    assert "made by the hook 'html'" in message


def test_hooks_are_named_by_settings_and_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("") == {}
    assert read("a=m:f, b = n.o:g,") == {"a": "m:f", "b": "n.o:g"}
    for bad in ("a", "a=m", "=m:f", "a=:f", "a=m:"):
        with pytest.raises(InvalidArgument, match="names no hook"):
            read(bad)
    hooks = Hooks(f"fine={HERE}html, value={HERE}TIMEOUT, none={HERE}nothing")
    assert hooks.problem("fine") is None
    assert "is no function" in str(hooks.problem("value"))
    assert "cannot be loaded: AttributeError" in str(hooks.problem("none"))
    assert "has no hook 'other'" in str(hooks.problem("other"))
    assert __name__ in sys.modules
