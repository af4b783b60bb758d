"""The commands that look at a database, in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pg_embed.install import installed_revision, migrate
from tests.acceptance.command import COMMAND, TIMEOUT, as_json, pg_embed, psql, running, succeeds
from tests.fix_pg import MakeRole
from tests.fix_serve import spool_place

HEAVY = {"torch", "transformers", "numpy", "psycopg", "sqlalchemy", "alembic", "uvloop"}
FAKE = ("--family", "fake", "--option", "dimensions=4")
Db = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def docs(db: Db, dsn: str) -> str:
    """A database with a small model and a vectorizer on three rows; its DSN."""
    succeeds("models", "--dsn", dsn, "create", "small", *FAKE, "--default")
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two'), (3, NULL)")
    succeeds("vectorize", "--dsn", dsn, "docs", "body")
    return dsn


def embed_all(dsn: str, db: Db) -> None:
    with running("worker", dsn) as worker:
        worker.wait_for("worker_started")
        db.execute("SELECT embed.wait('docs')")
        assert worker.end() == 0


@pytest.mark.parametrize("arguments", [["--help"], ["up", "--help"], ["install", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import json, sys\nfrom pg_embed.cli import main\n"
        f"sys.argv = {['pg-embed', *arguments]!r}\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert HEAVY.isdisjoint(json.loads(done.stdout.splitlines()[-1]))


def test_install_upgrade_uninstall(bare_dsn: str) -> None:
    assert as_json("install", bare_dsn)["previous"] is None
    assert as_json("upgrade", bare_dsn)["previous"] == migrate.head()
    assert "up to date" in succeeds("install", bare_dsn)
    succeeds("uninstall", bare_dsn)
    assert installed_revision(bare_dsn) is None


def test_dsn_may_come_from_the_environment(bare_dsn: str) -> None:
    succeeds("install", PG_EMBED_DSN=bare_dsn)
    assert installed_revision(bare_dsn) == migrate.head()


def test_upgrade_of_a_bare_database_says_install(bare_dsn: str) -> None:
    done = pg_embed("upgrade", bare_dsn)
    assert done.returncode == 1
    assert "pg-embed install" in done.stderr


def test_printed_sql_installs_upgrades_and_uninstalls_under_psql(bare_dsn: str) -> None:
    for arguments in (["install", "--sql"], ["upgrade", "--sql", "--from", migrate.head()]):
        done = psql(bare_dsn, succeeds(*arguments))
        assert done.returncode == 0, done.stderr
        assert installed_revision(bare_dsn) == migrate.head()
    assert [model["name"] for model in as_json("models", "--dsn", bare_dsn)] == ["all-MiniLM-L6-v2"]
    done = psql(bare_dsn, succeeds("uninstall", "--sql"))
    assert done.returncode == 0, done.stderr
    assert installed_revision(bare_dsn) is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["status"], 2, "set PG_EMBED_DSN"),
        (["install", "dbname=x port=1 host=127.0.0.1"], 1, "error: connection"),
        (["upgrade", "--sql"], 2, "--from"),
        (["upgrade", "--sql", "--from", "9999"], 2, "there is no revision '9999'"),
        (["serve", "--http-port", "0"], 2, "--no-worker"),
        (["serve", "--no-worker"], 2, "the sidecar has no door"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_wrong_use_and_failures_are_plain_words(arguments: list[str], status: int, words: str) -> None:
    done = pg_embed(*arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_errors_of_the_database_have_their_hint(dsn: str) -> None:
    done = pg_embed("retry", dsn, "--vectorizer", "nobody")
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error == "error: there is no vectorizer 'nobody', nor a table of that name that has one"
    assert hint.startswith("hint: make one with")


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ({"dbname": "no"}, "hint: check the DSN's user and database"),
        ({"user": "no"}, "hint: check the DSN's user and database"),
        ({"port": "1"}, "hint: check the DSN's host and port"),
    ],
)
def test_a_connection_that_is_not_made_says_what_to_look_at(
    dsn: str, changed: dict[str, str], hint: str
) -> None:
    done = pg_embed("status", make_conninfo(dsn, **changed))
    assert done.returncode == 1
    assert hint in done.stderr


def test_a_table_that_is_not_there_says_how_to_name_it(dsn: str) -> None:
    done = pg_embed("vectorize", "--dsn", dsn, "nothing", "body")
    assert done.returncode == 1
    assert "hint: check the name; a table that is not on the search_path is written" in done.stderr


def test_commands_on_a_bare_database_say_install(bare_dsn: str) -> None:
    done = pg_embed("status", bare_dsn)
    assert done.returncode == 1
    assert "hint: run: pg-embed install DSN" in done.stderr


def test_debug_shows_the_traceback(bare_dsn: str) -> None:
    assert "Traceback" in pg_embed("status", bare_dsn, PG_EMBED_DEBUG="1").stderr


def test_a_wrong_setting_is_named(dsn: str) -> None:
    done = pg_embed("worker", dsn, PG_EMBED_WORKER_LEASE="soon")
    assert done.returncode == 2
    assert "PG_EMBED_WORKER_LEASE" in done.stderr


def test_models_are_created_without_a_sidecar(dsn: str, db: Db) -> None:
    made = as_json("models", "--dsn", dsn, "create", "small", *FAKE)
    assert made["card"]["dimensions"] == 4
    assert db.execute("SELECT dimensions FROM embed.models WHERE name = 'small'").fetchone() == (4,)


def test_known_models_are_listed_without_a_database_and_with_one_when_asked(dsn: str) -> None:
    assert "bge-m3" in {model["name"] for model in as_json("models")}
    known = as_json("models", "--dsn", dsn, "--known", "--local", "--outputs", "sparse")
    assert known
    assert all(not model["hosted"] and "sparse" in model["outputs"] for model in known)
    succeeds("models", "--dsn", dsn, "create", "small", *FAKE)
    assert "small" in {model["name"] for model in as_json("models", "--dsn", dsn)}


def test_a_wrong_option_of_a_model_is_wrong_use(dsn: str) -> None:
    done = pg_embed("models", "--dsn", dsn, "create", "small", "--family", "fake", "--option", "size=4")
    assert done.returncode == 2
    assert "'size'" in done.stderr
    done = pg_embed("models", "--dsn", dsn, "create", "small", "--family", "fake", "--option", "size")
    assert "NAME=VALUE" in done.stderr


def test_vectorize_worker_status(docs: str, db: Db) -> None:
    embed_all(docs, db)
    assert db.execute("SELECT count(embedding) FROM docs").fetchone() == (2,)
    (row,) = as_json("status", docs)
    assert (row["vectorizer"], row["pending"], row["failed"]) == ("docs_embedding", 0, 0)
    assert "docs_embedding" in succeeds("status", docs)


def test_vectorize_knows_templates_and_filters(db: Db, dsn: str) -> None:
    succeeds("models", "--dsn", dsn, "create", "small", *FAKE)
    db.execute('CREATE TABLE "My Docs" (id bigint PRIMARY KEY, title text, body text, draft boolean)')
    arguments = [
        "--template",
        "{title}: {body}",
        "--model",
        "small",
        "--filter",
        "NOT draft",
        "--column",
        "v",
    ]
    made = as_json("vectorize", "--dsn", dsn, '"My Docs"', *arguments, "--name", "mine")
    assert made == {"vectorizer": "mine"}
    told = db.execute("SELECT template, filter, column_name FROM embed.vectorizers").fetchone()
    assert told == ("{title}: {body}", "(NOT draft)", "v")


def test_vectorize_takes_a_second_model_for_sparse_vectors(docs: str, db: Db) -> None:
    succeeds("models", "--dsn", docs, "create", "bm25", "--family", "bm25")
    db.execute("SELECT embed.drop_vectorizer('docs')")
    succeeds("vectorize", "--dsn", docs, "docs", "body", "--sparse", "bm25", "--sparse-column", "words")
    embed_all(docs, db)
    assert db.execute("SELECT count(embedding), count(words) FROM docs").fetchone() == (2, 2)
    (row,) = as_json("status", docs)
    assert (row["model"], row["sparse_model"]) == ("small", "bm25")
    assert "small + bm25" in " ".join(succeeds("status", docs).split())


def test_failures_are_listed_and_sent_again(db: Db, dsn: str) -> None:
    succeeds("models", "--dsn", dsn, "create", "picky", *FAKE, "--option", "fail_on=two", "--default")
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    succeeds("vectorize", "--dsn", dsn, "docs", "body")
    embed_all(dsn, db)
    (failure,) = as_json("failures", dsn)
    assert (failure["key"], failure["code"]) == ("2", "PE021")
    assert as_json("retry", dsn, "--key", "2") == {"rows": 1}
    assert succeeds("failures", dsn).strip() == "no row was given up"


def test_backfill_queues_rows_again(docs: str, db: Db) -> None:
    embed_all(docs, db)
    db.execute("UPDATE docs SET embedding = NULL")
    succeeds("backfill", "--dsn", docs, "docs")
    embed_all(docs, db)
    assert db.execute("SELECT count(embedding) FROM docs").fetchone() == (2,)


def test_worker_logs_json_when_told(dsn: str) -> None:
    with running("worker", dsn, PG_EMBED_LOG_FORMAT="json") as worker:
        line = json.loads(worker.wait_for("worker_started"))
        assert line["level"] == "info"
        assert line["worker"] > 0
        assert worker.end() == 0
        worker.wait_for("worker_stopped")


def test_doctor_finds_what_is_missing(dsn: str, docs: str) -> None:
    done = pg_embed("doctor", docs, "--json")
    told = json.loads(done.stdout)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert done.returncode == 1
    assert not told["holds"]
    assert (states["server"], states["schema"], states["roles"]) == ("ok", "ok", "ok")
    assert (states["transport"], states["workers"]) == ("warning", "failed")
    assert "pg-embed worker" in pg_embed("doctor", docs).stdout


def test_doctor_stops_where_nothing_is_installed(bare_dsn: str) -> None:
    done = pg_embed("doctor", bare_dsn, "--json")
    last = json.loads(done.stdout)["checks"][-1]
    assert (done.returncode, last["name"], last["state"]) == (1, "schema", "failed")
    assert last["advice"] == "run: pg-embed install DSN"


def test_doctor_of_an_unreachable_server() -> None:
    done = pg_embed("doctor", "host=127.0.0.1 port=1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["checks"][0]["name"] == "connection"


def test_serve_opens_the_door_of_the_transport(docs: str, serve_folder: Path, db: Db) -> None:
    from pg_embed.embedded.account import choose_account

    spool = serve_folder / "spool"
    spool.mkdir(mode=0o700)
    choose_account(serve_folder / "nowhere").own(spool)
    assert as_json("install", docs, "--spool", spool)["transport"] == "spool"
    with running("serve", docs) as sidecar:
        sidecar.wait_for(str(spool))
        sidecar.wait_for("worker_started")
        vector = as_json("embed", "--dsn", docs, "one")["vector"]
        assert len(vector) == 4
        db.execute("SELECT embed.wait('docs')")
        found = db.execute("SELECT id FROM docs ORDER BY embedding <=> embed('one') LIMIT 1").fetchone()
        assert found == (1,)
        assert as_json("doctor", docs)["holds"]
        assert sidecar.end() == 0
    assert not (spool / "alive").exists()


def test_rerank_puts_the_best_answer_first(db: Db, dsn: str, serve_folder: Path) -> None:
    place = spool_place(dsn, serve_folder)
    succeeds("install", dsn, "--spool", serve_folder / "spool")
    succeeds("models", "--dsn", dsn, "create", "judge", "--family", "fake_reranker")
    texts = ["a dog", "a red fox", "a fox"]
    with place.sidecar():
        assert as_json("rerank", "--dsn", dsn, "red fox", *texts, "--model", "judge") == [
            {"rank": 1, "score": 1.0, "text": "a red fox"},
            {"rank": 2, "score": 0.5, "text": "a fox"},
            {"rank": 3, "score": 0.0, "text": "a dog"},
        ]
        table = succeeds("rerank", "--dsn", dsn, "red fox", *texts).splitlines()
        assert table[1].split() == ["rank", "score", "text"]
        assert [line.strip().split(maxsplit=2) for line in table[3:6]] == [
            ["1", "1", "a red fox"],
            ["2", "0.5", "a fox"],
            ["3", "0", "a dog"],
        ]
        piped = pg_embed("rerank", "--dsn", dsn, "red fox", "--json", stdin="a dog\n\n  a red fox\r\n")
        assert [row["text"] for row in json.loads(piped.stdout)] == ["a red fox", "a dog"]
        assert succeeds("rerank", "--dsn", dsn, "red fox").strip() == "there is no text"
        wrong = pg_embed("rerank", "--dsn", dsn, "q", "text", "--model", "all-MiniLM-L6-v2")
        assert wrong.returncode == 2
        assert "hint: name a reranker: 'judge'" in wrong.stderr


def test_a_second_signal_ends_at_once(db: Db, dsn: str) -> None:
    slow = ("--option", "delay=60.0")
    succeeds("models", "--dsn", dsn, "create", "slow", *FAKE, *slow, "--default")
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    succeeds("vectorize", "--dsn", dsn, "docs", "body")
    with running("worker", dsn) as worker:
        worker.wait_for("worker_started")
        while as_json("status", dsn)[0]["in_flight"] == 0:
            pass
        worker.process.terminate()
        worker.wait_for("worker_stopping")
        assert worker.end() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("ignored", [True, False])
def test_under_nohup_it_outlives_its_terminal(ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with running("serve", "--no-worker", "--http-port", "0") as service:
            service.wait_for("open: http")
            status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii")
            mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
            assert (int(mask, 16) >> (signal.SIGHUP - 1)) & 1 == ignored
            assert service.end() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_rows_in_hand_are_left_after_the_grace_time(db: Db, dsn: str) -> None:
    succeeds("models", "--dsn", dsn, "create", "slow", *FAKE, "--option", "delay=60.0", "--default")
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    succeeds("vectorize", "--dsn", dsn, "docs", "body")
    with running("worker", dsn, PG_EMBED_SERVE_GRACE="0.2") as worker:
        worker.wait_for("worker_started")
        while as_json("status", dsn)[0]["in_flight"] == 0:
            pass
        assert worker.end() == 0
    assert db.execute("SELECT count(embedding) FROM docs").fetchone() == (0,)


@pytest.mark.parametrize("command", [["status"], ["install"], ["worker"], ["serve", "--http-port", "0"]])
def test_a_dsn_that_cannot_be_read_is_not_repeated(command: list[str]) -> None:
    done = pg_embed(*command, "postgresql+psycopg://bob:s3cret@localhost/db")
    assert done.returncode in (1, 2)
    assert "the DSN cannot be read" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_doctor_does_not_repeat_a_dsn_either() -> None:
    done = pg_embed("doctor", "postgresql+psycopg://bob:s3cret@localhost/db", "--json")
    assert done.returncode == 1
    assert "s3cret" not in done.stdout + done.stderr


def test_a_missing_table_in_a_schema_of_a_like_name_is_told(docs: str, db: Db) -> None:
    db.execute("CREATE SCHEMA myembed")
    done = pg_embed("vectorize", "--dsn", docs, "myembed.docs", "body")
    assert 'relation "myembed.docs" does not exist' in done.stderr


def test_doctor_holds_where_none_was_chosen(bare_dsn: str) -> None:
    succeeds("install", bare_dsn, "--transport", "none")
    told = as_json("doctor", bare_dsn)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert (told["holds"], told["skipped"]) == (True, ["sidecar", "models"])
    assert states["transport"] == "ok"


def test_doctor_of_a_role_that_may_only_search_looks_at_what_it_may(
    docs: str, db: Db, make_role: MakeRole
) -> None:
    role = make_role("embed_reader")
    told = json.loads(pg_embed("doctor", role.dsn, "--json").stdout)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert (states["schema"], states["workers"], states["queue"]) == ("ok", "failed", "ok")
    assert "transport" in told["skipped"]


def test_json_may_stand_before_the_subcommand(dsn: str) -> None:
    done = succeeds("models", "--dsn", dsn, "--json", "create", "small", *FAKE)
    assert json.loads(done)["name"] == "small"


def test_closed_streams_and_torn_arguments_are_no_traceback() -> None:
    for line in ("pg-embed --version >&-", "pg-embed --version 2>&-"):
        done = subprocess.run(
            ["/bin/sh", "-c", line.replace("pg-embed", COMMAND)],
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
    done = subprocess.run(
        [COMMAND.encode(), b"embed", b"\xff\xfe"], capture_output=True, timeout=TIMEOUT, check=False
    )
    assert (done.returncode, done.stderr) == (2, b"error: an argument is not valid UTF-8\n")


def test_search_finds_rows_by_both_legs(db: Db, dsn: str, serve_folder: Path) -> None:
    place = spool_place(dsn, serve_folder)
    succeeds("install", dsn, "--spool", serve_folder / "spool")
    db.execute("CREATE TABLE notes (id int PRIMARY KEY, body text, score int, lang text)")
    db.execute(
        "INSERT INTO notes VALUES (1, 'a red fox', 7, 'en'), (2, 'ein Hund', 8, 'de'), (3, 'a dog', 9, 'en')"
    )
    option = ("--option", "sparse_dimensions=1000")
    succeeds("models", "--dsn", dsn, "create", "two", "--family", "fake", "--option", "dimensions=8", *option)
    db.execute("SELECT embed.create_vectorizer('notes', 'body', model => 'two', sparse_column => 'words')")
    search = ("search", "--dsn", dsn, "a red fox", "--table", "notes")
    with place.sidecar(), running("worker", dsn) as worker:
        worker.wait_for("worker_started")
        db.execute("SELECT embed.wait('notes')")
        (best,) = as_json(*search, "--k", "1")
        assert best.keys() == {"score", "row"}
        assert best["row"] == {"id": 1, "body": "a red fox", "score": 7, "lang": "en"}
        told = as_json(*search, "--explain", "--mode", "sparse", "--filter", '{"lang": "en"}')
        assert [(answer["sparse_rank"], answer["sparse_score"]) for answer in told] == [(1, 3.0), (2, 1.0)]
        table = succeeds(*search, "--k", "2", "--column", "body", "--column", "score").splitlines()
        assert table[1].split() == ["rank", "score", "body", "row.score"]
        assert "a red fox" in table[3]
        more = ("--skip", "1", "--diversity", "0.3", "--boost", '{"score": {"weight": 9}}')
        skipped = as_json(*search, *more)
        assert [answer["row"]["id"] for answer in as_json(*search, *more[2:])][1:] == [
            answer["row"]["id"] for answer in skipped
        ]
        like = as_json("search", "--dsn", dsn, "--table", "notes", "--like", "1", "--explain")
        assert {answer["row"]["id"] for answer in like} == {2, 3}
        assert {answer["dense_rank"] for answer in like} == {1, 2}
        plan = succeeds(*search, "--plan")
        assert plan.startswith("hybrid, exactly, in one pass over the rows: no leg has an index")
        assert "Seq Scan on notes" in plan
        nothing = succeeds(*search, "--filter", '{"lang": "fr"}')
        assert nothing.strip() == "there is no answer"
        for wrong, said in (
            (("--filter", "{lang"), "hint: as in --filter"),
            (("--boost", "{score"), "hint: as in --boost"),
            (("--like", "1"), "error: a search is for a query or by a key"),
            (("--mode", "no"), "error: there is no mode 'no'"),
            (("--vectorizer", "no"), "hint: it has: 'notes_embedding'"),
        ):
            done = pg_embed(*search, *wrong)
            assert done.returncode == 2
            assert said in done.stderr


def test_search_shows_the_chunks_that_answer(db: Db, dsn: str, serve_folder: Path) -> None:
    place = spool_place(dsn, serve_folder)
    succeeds("install", dsn, "--spool", serve_folder / "spool")
    db.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO notes VALUES (1, repeat('red fox. ', 20)), (2, 'a dog')")
    succeeds("models", "--dsn", dsn, "create", "one", "--family", "fake", "--option", "dimensions=8")
    chunking = '{"size": 16}'
    db.execute(
        "SELECT embed.create_vectorizer('notes', 'body', model => 'one', storage => 'table', chunking => %s)",
        [chunking],
    )
    search = ("search", "--dsn", dsn, "a dog", "--table", "notes", "--chunks", "2")
    with place.sidecar(), running("worker", dsn) as worker:
        worker.wait_for("worker_started")
        db.execute("SELECT embed.wait('notes')")
        wanted = db.execute(
            "SELECT score, chunk_score, chunk_no, context, chunk, (hit).id"
            " FROM embed.search_chunks(NULL::notes, 'a dog', per_row => 2)"
        ).fetchall()
        found = as_json(*search)
        assert [(*[*answer.values()][:-1], answer["row"]["id"]) for answer in found] == wanted
        assert [answer["row"]["id"] for answer in found] == [2, 1, 1]
        table = succeeds(*search, "--k", "1", "--column", "id").splitlines()
        assert table[1].split() == [
            "rank",
            "score",
            "chunk",
            "score",
            "chunk",
            "no",
            "context",
            "chunk",
            "id",
        ]
        done = pg_embed(*search, "--explain")
        assert (done.returncode, "hint: leave --explain or --chunks out" in done.stderr) == (2, True)
