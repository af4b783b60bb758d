"""What every command has, whatever it does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer.main

import pg_embed.cli
from pg_embed.cli.app import app

LINES = 80
LIST_WIDTH = 63  # characters that a terminal of 80 leaves beside the longest name of a command


def commands() -> Iterator[tuple[str, typer.Context, typer.core.TyperCommand]]:
    for command in pg_embed.cli.COMMANDS:
        import_module(f"pg_embed.cli.{command}")
    root = typer.main.get_command(app)
    yield from _below(root, typer.Context(root, info_name="pg-embed", **root.context_settings))


def _below(group, parent) -> Iterator[tuple[str, typer.Context, typer.core.TyperCommand]]:  # type: ignore[no-untyped-def]
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=name, parent=parent)
        yield context.command_path, context, command
        if hasattr(command, "commands"):
            yield from _below(command, context)


def test_every_option_names_its_variable() -> None:
    missing = [
        f"{path} {option.opts[0]}"
        for path, context, command in commands()
        for option in command.params
        if option.param_type_name == "option"
        if "env var: PG_EMBED_" not in str(option.get_help_record(context))
    ]
    assert not missing


def test_the_commands_are_those_of_the_contract() -> None:
    names = (
        "up demo install upgrade uninstall serve worker vectorize status failures retry backfill search index"
        " recall switch embed rerank models eval"
    )
    found = {path.removeprefix("pg-embed ") for path, _, _ in commands()}
    assert found == {*names.split(), "models create", "doctor"}


def test_the_list_of_commands_cuts_no_sentence_off() -> None:
    cut = {path: command.get_short_help_str(LIST_WIDTH) for path, _, command in commands()}
    assert not {path: said for path, said in cut.items() if said.endswith("...")}


@pytest.mark.parametrize("command", pg_embed.cli.COMMANDS)
def test_a_command_file_is_short(command: str) -> None:
    file = Path(pg_embed.cli.__file__).with_name(f"{command}.py")
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


def test_a_worker_alone_loads_no_http_server_and_no_library_of_models() -> None:
    heavy = {"starlette", "uvicorn", "torch", "transformers"}
    program = "import pg_embed.cli.worker, pg_embed.cli.running, sys; print(*{heavy} & set(sys.modules))"
    program = program.replace("{heavy}", repr(heavy))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
