"""`pg-embed eval` on a made-up collection, in processes of its own."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.command import pg_embed, running, succeeds
from tests.fix_serve import spool_place

Db = psycopg.Connection[tuple[object, ...]]
WORDS = ("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour")
MEASURES = {"ndcg@10", "recall@100", "mrr@10", "p50_ms", "p95_ms"}
FAKE = ("--family", "fake", "--option", "dimensions=8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Documents of two words each, and queries for the second."""
    made = tmp_path / "things"
    (made / "qrels").mkdir(parents=True)
    documents = [{"_id": word, "title": f"the {word}", "text": f"about {word}s"} for word in WORDS]
    queries = [{"_id": f"q-{word}", "text": f"{word}?"} for word in WORDS]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (made / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    judged = "".join(f"q-{word}\t{word}\t1\n" for word in WORDS)
    (made / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    return made


@pytest.fixture
def base(dsn: str, serve_folder: Path) -> str:
    """A database with a small model and a reranker, which asks a sidecar by files; its DSN."""
    spool_place(dsn, serve_folder)
    succeeds("install", dsn, "--spool", serve_folder / "spool")
    succeeds("models", "--dsn", dsn, "create", "small", *FAKE)
    succeeds("models", "--dsn", dsn, "create", "judge", "--family", "fake_reranker")
    return dsn


def tables(db: Db) -> list[str]:
    rows = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return sorted(str(row[0]) for row in rows)


def test_all_modes_are_measured_and_nothing_is_left(base: str, db: Db, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "quality.png"
    told = json.loads(
        succeeds(
            "eval",
            folder,
            "--dsn",
            base,
            "--model",
            "small",
            "--rerank",
            "judge",
            "--plot",
            picture,
            "--json",
        )
    )
    assert (told["dataset"], told["documents"], told["queries"]) == ("things", 8, 8)
    assert list(told["modes"]) == ["dense", "sparse", "hybrid", "hybrid+judge"]
    for figures in told["modes"].values():
        assert set(figures) == MEASURES
        assert 0 < figures["p50_ms"] <= figures["p95_ms"]
    # each query has one word, which one document has; the reranker counts common words
    assert told["modes"]["sparse"] | {"p50_ms": 0, "p95_ms": 0} == {
        "ndcg@10": 1, "recall@100": 1, "mrr@10": 1, "p50_ms": 0, "p95_ms": 0
    }  # fmt: skip
    assert told["modes"]["dense"]["recall@100"] == told["modes"]["hybrid"]["recall@100"] == 1
    assert told["modes"]["dense"]["ndcg@10"] < 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert tables(db) == []
    assert db.execute("SELECT count(*) FROM embed.vectorizers").fetchone() == (0,)


def test_a_table_is_kept_and_used_again_with_the_services_that_are_there(
    base: str, db: Db, folder: Path
) -> None:
    command = ("eval", folder, "--dsn", base, "--model", "small", "--keep", "--fusion", "rrf")
    with running("serve", base) as service:
        service.wait_for("worker_started")
        table = succeeds(*command).splitlines()
        assert table[1].split()[:5] == ["dataset", "mode", "ndcg@10", "recall@100", "mrr@10"]
        assert [line.split()[:2] for line in table[3:6]] == [
            ["things", "dense"],
            ["things", "sparse"],
            ["things", "hybrid"],
        ]
        assert tables(db) == ["embed_eval_things"]
        db.execute("SELECT embed.pause('embed_eval_things_dense')")
        again = succeeds(*command, "--mode", "hybrid").splitlines()
        assert [line.split()[:2] for line in again[3:-1]] == [["things", "hybrid"]]
        (folder / "corpus.jsonl").write_text('{"_id": "apple", "text": "another"}', encoding="utf-8")
        other = pg_embed(*(word for word in command if word != "--keep"))
    assert other.returncode == 2
    assert "of other documents or models" in other.stderr
    assert "hint: drop it: DROP TABLE public.embed_eval_things" in other.stderr
    assert tables(db) == ["embed_eval_things"]


def test_a_table_of_the_users_is_left_alone(base: str, db: Db, folder: Path) -> None:
    db.execute("CREATE TABLE embed_eval_things (id int)")
    done = pg_embed("eval", folder, "--dsn", base, "--model", "small")
    assert done.returncode == 2
    assert "is there already, and not of an evaluation" in done.stderr
    assert tables(db) == ["embed_eval_things"]


def test_wrong_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = pg_embed("eval", tmp_path)
    assert done.returncode == 2
    assert "corpus.jsonl is missing" in done.stderr
    assert "hint: a collection is a folder with" in done.stderr
    assert "starting" not in done.stderr
    assert pg_embed("eval", tmp_path, "--split", "all").returncode == 2
