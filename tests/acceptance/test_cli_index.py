"""`pg-embed index` and `pg-embed recall`, in processes of their own."""

from __future__ import annotations

import psycopg
import pytest

from tests.acceptance.command import TIMEOUT, as_json, pg_embed, running, succeeds
from tests.fix_pg import MakeRole

Db = psycopg.Connection[tuple[object, ...]]
FAKE = ("--family", "fake", "--option", "dimensions=8")


@pytest.fixture
def docs(db: Db, dsn: str) -> str:
    """A database with 80 rows that are embedded; its DSN."""
    succeeds("models", "--dsn", dsn, "create", "small", *FAKE, "--default")
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT g, 'text ' || g FROM generate_series(1, 80) AS g")
    succeeds("vectorize", "--dsn", dsn, "docs", "body")
    with running("worker", dsn) as worker:
        worker.wait_for("worker_started")
        db.execute("SELECT embed.wait('docs')")
        assert worker.end() == 0
    return dsn


def test_plan_build_list_and_measure(docs: str, db: Db) -> None:
    dsn = ("--dsn", docs)
    (listed,) = as_json("index", *dsn)
    assert (listed["wanted"], listed["state"]) == ("none", "none")
    planned = as_json("index", *dsn, "docs", "--plan", "--min-rows", "50")
    assert (planned["kind"], planned["rows"]) == ("hnsw", 80)
    done = pg_embed("index", *dsn, "docs", "--plan", "--min-rows", "50")
    assert done.stdout.startswith("CREATE INDEX CONCURRENTLY docs_embedding_hnsw ON public.docs")
    assert "memory to build it" in done.stderr
    assert as_json("recall", *dsn, "docs")["recall"] == 1
    few = succeeds("index", *dsn, "docs")
    assert "exact search is fast below 10000 rows" in few
    (built,) = as_json("index", *dsn, "docs", "--min-rows", "50", "--memory", "16MB")
    assert (built["state"], built["wanted"], built["index"]) == ("valid", "auto", "docs_embedding_hnsw")
    assert "docs_embedding_hnsw" in succeeds("index", *dsn)
    measured = as_json("recall", *dsn, "docs", "--samples", "5", "--k", "3")
    assert measured["index"] == "docs_embedding_hnsw"
    assert 0.5 < measured["recall"] <= 1
    assert "hnsw.ef_search" in succeeds("recall", *dsn, "docs", "--samples", "5")
    (kept,) = as_json("index", *dsn, "docs", "--kind", "none")
    assert (kept["wanted"], kept["state"]) == ("none", "valid")


def test_an_unfinished_backfill_is_no_success(docs: str, db: Db) -> None:
    db.execute("SELECT embed.backfill('docs', 'all')")
    done = pg_embed("index", "--dsn", docs, "docs", "--kind", "hnsw")
    assert done.returncode == 1
    assert "after the backfill" in done.stdout


def test_a_build_of_somebody_else_s_is_waited_for(docs: str) -> None:
    build = ("index", "--dsn", docs, "docs", "--kind", "hnsw")
    with psycopg.connect(docs) as other:
        other.execute("LOCK TABLE docs IN ROW EXCLUSIVE MODE")  # which a build waits for
        with running(*build) as first:
            while as_json("index", "--dsn", docs)[0]["state"] != "building":
                assert first.process.poll() is None
            with running(*build) as second:
                second.wait_for("somebody else builds the index")
                other.rollback()
                assert (first.process.wait(TIMEOUT), second.process.wait(TIMEOUT)) == (0, 0)


def test_only_the_owner_builds(docs: str, db: Db, make_role: MakeRole) -> None:
    db.execute("SELECT embed.create_index('docs', 'hnsw')")
    role = make_role("embed_owner")
    done = pg_embed("index", "--dsn", role.dsn, "docs")
    assert done.returncode == 1
    assert "only the owner of the table may build the index of docs_embedding" in done.stderr
    assert "CREATE INDEX CONCURRENTLY" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--plan"], ["--kind", "hnsw"]])
def test_a_vectorizer_must_be_named(docs: str, arguments: list[str]) -> None:
    done = pg_embed("index", "--dsn", docs, *arguments)
    assert done.returncode == 2
    assert "no vectorizer is named" in done.stderr
