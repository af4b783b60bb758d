"""`pg-embed switch`, in processes of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from tests.acceptance.command import as_json, pg_embed, running, succeeds

Db = psycopg.Connection[tuple[object, ...]]
FAKE = ("--family", "fake", "--option")


@pytest.fixture
def docs(db: Db, dsn: str) -> Iterator[str]:
    """A database with 80 rows, a worker, and a second model `wide`; its DSN."""
    succeeds("models", "--dsn", dsn, "create", "small", *FAKE, "dimensions=8", "--default")
    succeeds("models", "--dsn", dsn, "create", "wide", *FAKE, "dimensions=12")
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT g, 'text ' || g FROM generate_series(1, 80) AS g")
    succeeds("vectorize", "--dsn", dsn, "docs", "body")
    with running("worker", dsn) as worker:
        worker.wait_for("worker_started")
        yield dsn
        assert worker.end() == 0


def test_begin_wait_go_back_and_forget(docs: str) -> None:
    dsn = ("--dsn", docs)
    assert "no switch is under way" in succeeds("switch", *dsn)
    done = pg_embed("switch", *dsn, "docs", "wide", "--auto", "--wait")
    assert done.returncode == 0, done.stderr
    assert "swapped" in done.stdout
    assert "notice: new vectorizers go on taking 'small'" in done.stderr
    (row,) = as_json("switch", *dsn, "docs")
    assert (row["state"], row["model"], row["other_model"], row["columns"]) == (
        "swapped", "wide", "small", ["embedding_old"],
    )  # fmt: skip
    assert row["compared"] == 50
    (row,) = as_json("switch", *dsn, "docs", "--rollback", "--wait")
    assert (row["state"], row["model"]) == ("swapped", "small")
    assert as_json("switch", *dsn, "docs", "--forget") == []


def test_finish_by_hand_or_abort(docs: str) -> None:
    dsn = ("--dsn", docs)
    (row,) = as_json("switch", *dsn, "docs", "wide", "--wait")
    assert (row["state"], row["model"], row["rows_left"]) == ("ready", "small", 0)
    assert as_json("switch", *dsn, "docs", "--abort") == []
    as_json("switch", *dsn, "docs", "wide", "--keep", "drop", "--wait")
    assert as_json("switch", *dsn, "docs", "--finish") == []


def test_chunks_are_cut_another_way(db: Db, docs: str) -> None:
    dsn = ("--dsn", docs)
    chunks = "storage => 'table', chunking => '{\"size\": 16, \"overlap\": 0}', name => 'parts'"
    db.execute(f"SELECT embed.create_vectorizer('docs', 'body', model => 'small', {chunks})".encode())
    cut = json.dumps({"size": 8, "overlap": 1})
    words = ("parts", "wide", "--chunking", cut, "--auto", "--keep", "drop", "--wait")
    assert as_json("switch", *dsn, *words) == []
    row = db.execute("SELECT model, chunking FROM embed.vectorizers WHERE name = 'parts'").fetchone()
    assert row is not None
    assert (row[0], row[1]["size"], row[1]["overlap"]) == ("wide", 8, 1)  # type: ignore[index]
    refused = pg_embed("switch", *dsn, "docs_embedding", "wide", "--chunking", cut)
    assert (refused.returncode != 0, "chunk" in refused.stderr) == (True, True)


def test_what_does_not_fit_together_is_refused(dsn: str) -> None:
    for words, told in (
        (("docs", "--finish", "--abort"), "several things"),
        (("docs", "wide", "--status"), "several things"),
        (("--finish",), "no vectorizer is named"),
        (("docs", "--finish", "--chunking", "{}"), "the beginning of a switch"),
        (("docs", "wide", "--chunking", "{size: 3}"), "the chunking is not JSON"),
    ):
        done = pg_embed("switch", "--dsn", dsn, *words)
        assert done.returncode == 2
        assert told in done.stderr
