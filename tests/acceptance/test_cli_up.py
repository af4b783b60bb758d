"""`pg-embed up` and `demo`: a whole installation in one process, and nothing left when it has gone."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.command import Running, as_json, pg_embed, running
from tests.fix_pg import temporary_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEARCH = "SELECT title FROM docs ORDER BY embedding <=> embed('how do I get my money back?') LIMIT 1"


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as parent:
        yield parent / "data"


def ready(up: Running) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(up.wait_for("dsn", "stdout"))
    return told


def postmaster(folder: Path) -> int:
    return int((folder / "cluster" / "postmaster.pid").read_text().split()[0])


def is_gone(pid: int) -> bool:
    """Within some seconds; an orphan may stay as a zombie where the first process reaps none."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_up_serves_until_stopped_and_keeps_the_data(folder: Path) -> None:
    with running("up", "--json", "--data-dir", folder) as up:
        told = ready(up)
        with psycopg.connect(told["dsn"], autocommit=True) as db:
            db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
            db.execute("SELECT embed.create_vectorizer('docs', 'body')")
            db.execute(
                "INSERT INTO docs VALUES (1, 'Returns', 'You may send anything back within thirty days.'),"
                " (2, 'Opening', 'We are open from nine to five.')"
            )
            db.execute("SELECT embed.wait('docs')")
            assert db.execute(SEARCH).fetchone() == ("Returns",)
        with urllib.request.urlopen(told["http"] + "/readyz", timeout=10) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(told["http"] + "/metrics", timeout=10) as answer:
            figures = answer.read().decode()
        assert 'pg_embed_model_loads_total{code="ok",model="all-MiniLM-L6-v2"} 1.0' in figures
        assert "pg_embed_model_calls_total" in figures
        assert as_json("doctor", told["dsn"])["holds"]

        other = pg_embed("up", "--json", "--data-dir", folder)
        assert other.returncode == 1
        assert told["dsn"] in other.stderr

        server = postmaster(folder)
        assert up.end(signal.SIGTERM) == 0
        assert is_gone(server)
        assert up.said[-1].strip() != "Traceback"

    with running("up", "--json", "--data-dir", folder) as up, psycopg.connect(ready(up)["dsn"]) as db:
        assert db.execute(SEARCH).fetchone() == ("Returns",)
        db.close()
        assert up.end(signal.SIGINT) == 0


def test_up_after_a_kill(folder: Path) -> None:
    with running("up", "--json", "--data-dir", folder) as up:
        ready(up)
        up.end(signal.SIGKILL)
    with running("up", "--json", "--data-dir", folder) as up:
        told = ready(up)
        with psycopg.connect(told["dsn"], autocommit=True) as db:
            assert db.execute("SELECT embed('hello') IS NOT NULL").fetchone() == (True,)
        server = postmaster(folder)
        assert up.end() == 0
    assert is_gone(server)


def test_up_listens_on_tcp_when_asked(folder: Path) -> None:
    with running("up", "--json", "--data-dir", folder, "--port", "0") as up:
        told = ready(up)
        assert "127.0.0.1" in told["dsn"]
        with psycopg.connect(told["dsn"]) as db:
            assert db.execute("SELECT count(*) FROM embed.models").fetchone() == (1,)
        db.close()
        assert up.end() == 0


def test_demo_embeds_once_and_answers(folder: Path) -> None:
    first = as_json("demo", "--limit", "200", "--data-dir", folder)
    assert (first["rows"], first["embedded"]) == (200, 200)
    assert len(first["answers"]) == 4
    for answer in first["answers"]:
        assert answer["question"] in answer["sql"]
        assert len(answer["rows"]) == 5
    second = as_json("demo", "--limit", "200", "--data-dir", folder)
    assert (second["rows"], second["embedded"]) == (200, 0)
    assert second["answers"] == first["answers"]
    assert not (folder / "cluster" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("starting PostgreSQL", signal.SIGINT),
        ("reading the docstrings", signal.SIGTERM),
        ("loading the model", signal.SIGINT),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(folder: Path, words: str, number: signal.Signals) -> None:
    with running("demo", "--limit", "50", "--data-dir", folder) as demo:
        demo.wait_for(words)
        assert demo.end(number) == 130
    assert not (folder / "cluster" / "postmaster.pid").exists()
    with running("demo", "--limit", "50", "--data-dir", folder) as demo:
        demo.wait_for("loading the model")
        assert demo.end(number) == 130
