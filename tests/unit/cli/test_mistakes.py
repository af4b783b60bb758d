"""Wrong use: what the command says to people and to programs, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("pg-embed"))
NOWHERE = "postgresql://somebody@127.0.0.1:1/shop"
NO_DSN = "error: no database is named\nhint: give its DSN, or set PG_EMBED_DSN, as in postgresql://user@host/name\n"


def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        ["/bin/sh", "-c", line.replace("pg-embed", COMMAND)],
        capture_output=True, text=True, timeout=110, check=False, env={**kept, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    ["status", "doctor", "worker", "install", "uninstall", "search q --table docs", "models create bm25"],
)
def test_a_missing_dsn_says_how_to_give_it(command: str) -> None:
    done = run(f"pg-embed {command}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NO_DSN)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("nothing", "error: no such command 'nothing'\nhint: see: pg-embed --help\n"),
        ("status --nothing", "error: no such option: --nothing\nhint: see: pg-embed status --help\n"),
        (f"search q --dsn {NOWHERE}", "error: missing option '--table'\nhint: see: pg-embed search --help\n"),
    ],
)
def test_wrong_use_names_the_help(command: str, said: str) -> None:
    done = run(f"pg-embed {command}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_wrong_value_of_a_variable_names_it() -> None:
    wrong = run(f"pg-embed serve {NOWHERE}", PG_EMBED_SERVE_HTTP_PORT="x")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[0].endswith("(variable PG_EMBED_SERVE_HTTP_PORT)")
    overruled = run(f"pg-embed serve {NOWHERE} --http-port y", PG_EMBED_SERVE_HTTP_PORT="x")
    assert "variable" not in overruled.stderr


@pytest.mark.parametrize(
    ("command", "code", "status"),
    [
        ("status --json", "PE003", 2),
        ("nothing --json", "PE003", 2),
        (f"status --json {NOWHERE}", "PE051", 1),
        (f"install --json {NOWHERE}", "PE051", 1),
        ("eval --json /nowhere", "PE003", 2),
    ],
)
def test_a_failure_is_json_where_json_is_asked_for(command: str, code: str, status: int) -> None:
    done = run(f"pg-embed {command}")
    told = json.loads(done.stdout)["error"]
    assert (done.returncode, told["code"]) == (status, code)
    assert done.stderr.splitlines()[:2] == [f"error: {told['message']}", f"hint: {told['hint']}"]


def test_a_variable_asks_for_json_too() -> None:
    assert json.loads(run("pg-embed status", PG_EMBED_JSON="yes").stdout)["error"]["code"] == "PE003"
    assert run("pg-embed status", PG_EMBED_JSON="0").stdout == ""


def test_the_lines_of_a_log_in_json_are_all_json() -> None:
    done = run(f"pg-embed serve --http-port 0 {NOWHERE}", PG_EMBED_LOG_FORMAT="json")
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["code"]) == ("error", "PE051")
    assert line["hint"].startswith("check the DSN's host and port")


def test_a_server_that_is_not_there_is_said_with_what_to_look_at() -> None:
    done = run(f"pg-embed status {NOWHERE}")
    assert done.returncode == 1
    assert "hint: check the DSN's host and port, and that the server runs" in done.stderr


def test_without_a_command_the_help_is_shown() -> None:
    done = run("pg-embed")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: pg-embed [OPTIONS] COMMAND [ARGS]...")


def test_a_full_disk_is_one_error() -> None:
    done = run("pg-embed models > /dev/full")
    assert done.returncode == 1
    assert "Exception ignored" not in done.stderr
    assert "error: No space left on device" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    done = run(f"pg-embed models --json --outputs score {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "" or json.loads(done.stdout)


def test_letters_that_the_terminal_has_not_are_no_error() -> None:
    done = run("pg-embed models --help | cat", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
