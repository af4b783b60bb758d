"""Events on standard error: a line each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from pg_embed.cli import logs
from pg_embed.config import LogSettings
from pg_embed.log import event, logger

EVIL = "row 1\n2026-11-26 12:00:00 INFO forged all is well\r\x1b[2J\x9b\u2028."


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Give the loggers back what they had."""
    root, ours = logging.getLogger(), logging.getLogger("pg_embed")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_no_text_forges_a_line_or_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings())
    event(logger("worker"), logging.WARNING, "row_failed", EVIL)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert r"row 1\n2026" in told
    assert not any(character in told for character in "\r\x1b\x9b\u2028")


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings())
    try:
        raise ValueError("a bug")
    except ValueError:
        logger("serve").exception("it failed")
    assert capsys.readouterr().err.rstrip().endswith("\nValueError: a bug")


def test_a_line_of_json_says_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(format="json"))
    event(logger("worker"), logging.WARNING, "row_failed", EVIL, key="1")
    (line,) = capsys.readouterr().err.rstrip("\n").split("\n")
    told = json.loads(line)
    assert (told["message"], told["key"], told["event"]) == (EVIL, "1", "row_failed")
