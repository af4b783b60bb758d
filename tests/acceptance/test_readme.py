"""The README: every example runs, and everything that can be set, called or watched is in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import psycopg
import pytest
import typer.main

import pg_embed.cli
from pg_embed import config, errors, log
from pg_embed.cli.app import app
from pg_embed.cli.catalog import first_model
from pg_embed.cli.running import in_background
from pg_embed.cli.service import Plan
from pg_embed.install import install
from pg_embed.models.registry import default_registry
from pg_embed.serve.metrics import Metrics
from pg_embed.serve.settings import ServeSettings
from pg_embed.serve.work_metrics import WorkMetrics
from tests.acceptance.command import COMMAND, TIMEOUT, Running, psql
from tests.fix_pg import Server, fresh_database, temporary_folder
from tests.fix_second_server import free_port
from tests.fix_serve import spool_place

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OWN, MANAGED, TRY = "Install on your own PostgreSQL", "Install on a managed PostgreSQL", "Try it"
STAYS = ("pg-embed serve", "pg-embed worker", "pg-embed up")
ELSEWHERE = ("sudo apt install", "pip install")  # what a test must not do to the machine


@dataclass(frozen=True)
class Block:
    """One example."""

    section: str
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its commands."""
        return [line for line in self.text.splitlines() if line]


def blocks() -> list[Block]:
    found = []
    for section in README.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        found += [
            Block(title, language, text) for language, text in FENCE.findall(body) if language != "text"
        ]
    return found


def shell(line: str, dsn: str, folder: Path) -> None:
    """Run one line as a person would, in a folder of its own."""
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path, "PG_EMBED_DSN": dsn},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def place(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database as a reader has it after the installation, with a sidecar and a worker; its DSN."""
    with fresh_database(server) as name, temporary_folder() as folder:
        spool = spool_place(server.dsn(name), folder)
        install(spool.dsn, transport="spool", settings=spool.settings, models=[first_model()])
        doors = ServeSettings(spool=folder / "spool")
        try:
            with in_background(Plan(config.Settings(), doors, worker_dsn=spool.dsn)):
                yield spool.dsn
        finally:
            with server.connect() as admin:
                admin.execute("DROP ROLE IF EXISTS my_app, my_worker")


@pytest.mark.timeout(600)
def test_examples_run_one_after_the_other(place: str, tmp_path: Path) -> None:
    ran = 0
    for block in blocks():
        if block.section in (TRY, OWN, MANAGED):
            continue
        ran += 1
        if block.language == "sql":
            done = psql(place, block.text)
            assert done.returncode == 0, f"{block.text}\n{done.stderr}"
        elif block.language == "python":
            done = subprocess.run(
                [sys.executable, "-c", block.text], env={**os.environ, "PG_EMBED_DSN": place},
                capture_output=True, text=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{block.text}\n{done.stderr}"
            assert done.stdout.strip() not in ("", "[]")
        else:
            assert block.language == "sh"
            for line in block.lines:
                # in front of a sidecar that runs; what looks for faults finds none
                shell(line, place, tmp_path)
    assert ran > 8


def test_five_statements_find_the_answer(place: str) -> None:
    with psycopg.connect(place, autocommit=True) as db:
        found = db.execute(
            "SELECT title FROM docs"
            " ORDER BY embedding <=> embed('how do I get my money back?', 'all-MiniLM-L6-v2')"
        ).fetchone()
    assert found == ("Returns",)


def test_first_commands_are_run_by_ci_and_by_other_tests() -> None:
    first = [line for block in blocks() if block.section == TRY for line in block.lines]
    assert first == ["make demo", "make test", "pg-embed up"]
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make demo" in steps
    assert "make test" in steps
    assert "pg-embed up" in " ".join(STAYS)


def run_section(section: str, dsn: str, folder: Path, changes: dict[str, str]) -> list[Running]:
    """Run a section's commands; a process that stays is waited for until it is ready."""
    staying: list[Running] = []
    for block in blocks():
        if block.section != section:
            continue
        if block.language == "python":
            done = subprocess.run(
                [sys.executable, "-c", changed(block.text, changes) + "\nprint(len(vector))"],
                capture_output=True, text=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
            assert done.stdout.strip() == "384", done.stderr
            continue
        for line in (changed(line, changes) for line in block.lines):
            if line.startswith(STAYS):
                for process in staying:
                    process.end()
                process = Running(*line.split()[1:], PG_EMBED_DSN=dsn)
                staying.append(process)
                process.wait_for("door_opened")
                process.wait_for("worker_started")
            elif not line.startswith(ELSEWHERE):
                shell(line, dsn, folder)
    return staying


def changed(text: str, changes: dict[str, str]) -> str:
    for word, other in changes.items():
        text = text.replace(word, other)
    return text


@pytest.mark.plpython
@pytest.mark.timeout(300)
def test_installation_on_your_own_server(bare_dsn15: str, serve_folder: Path, tmp_path: Path) -> None:
    for process in run_section(
        OWN, bare_dsn15, tmp_path, {"sudo install": "install", "/run/pg_embed": str(serve_folder)}
    ):
        assert process.end() == 0


@pytest.mark.dblink
@pytest.mark.timeout(300)
def test_installation_on_a_managed_server(bare_dsn15: str, tmp_path: Path) -> None:
    processes = run_section(MANAGED, bare_dsn15, tmp_path, {"8765": str(free_port())})
    assert len(processes) == 2
    assert processes[-1].end() == 0


def test_every_setting_is_there() -> None:
    assert [name for name in config.variables() if f"`{name}`" not in README] == []


def test_every_command_is_there_with_every_option() -> None:
    missing = []
    for path, command in commands():
        row = re.search(rf"^\| `{path}[ `\[].*", README, re.MULTILINE)
        if row is None:
            missing.append(path)
            continue
        told = row[0] + ("`--help` `--json` " + install_row() if "as `install`" in row[0] else "")
        options = [flag for option in command.params for flag in (*option.opts, *option.secondary_opts)]
        missing += [f"{path} {flag}" for flag in options if flag.startswith("--") and f"`{flag}`" not in told]
    assert missing == []


def install_row() -> str:
    row = re.search(r"^\| `pg-embed install .*", README, re.MULTILINE)
    assert row is not None
    return row[0]


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    for command in pg_embed.cli.COMMANDS:
        import_module(f"pg_embed.cli.{command}")
    groups = [("pg-embed", typer.main.get_command(app))]
    for path, group in groups:
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            yield f"{path} {name}", command
            if hasattr(command, "commands"):
                groups.append((f"{path} {name}", command))


def test_every_event_is_there() -> None:
    events = re.findall(r"^- (\w+) \(", log.__doc__ or "", re.MULTILINE)
    assert len(events) > 10
    assert [event for event in events if f"`{event}`" not in README] == []


def test_every_metric_is_there() -> None:
    metrics = Metrics()
    WorkMetrics(metrics.registry)
    names = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in metrics.registry.collect()
    }
    assert {name for name in names if f"`{name}`" not in README} == set()


def test_every_sqlstate_is_there() -> None:
    classes = [errors.PgEmbedError]
    for parent in classes:
        classes += parent.__subclasses__()
    codes = {cls.sqlstate for cls in classes} - {"PE000"}
    assert {code for code in codes if f"| {code} |" not in README} == set()


def test_every_family_is_there() -> None:
    assert [family for family in default_registry().families() if f"| `{family}` |" not in README] == []


def test_every_public_name_of_sql_is_there(dsn: str) -> None:
    with psycopg.connect(dsn) as db:
        rows = db.execute(
            "SELECT proname FROM pg_proc"
            " WHERE pronamespace = 'embed'::regnamespace AND proname !~ '^_|^pg_embed'"
            " UNION SELECT relname FROM pg_class"
            " WHERE relnamespace = 'embed'::regnamespace AND relkind IN ('r', 'v')"
            " AND relname !~ '^_|^pg_embed'"
        ).fetchall()
    names = {str(name) for (name,) in rows}
    assert "create_vectorizer" in names
    assert {name for name in names if not re.search(rf"`(embed\.)?{name}\b", README)} == set()
