"""What people read."""

from __future__ import annotations

import pytest

from pg_embed.cli.output import duration, print_error, print_rows
from pg_embed.errors import PgEmbedError


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.2, "0 s"), (59.4, "59 s"), (90, "2 min"), (7_100, "118 min"), (9_000, "2 h 30 min")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_an_error_is_one_line_and_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(PgEmbedError("it broke\n\tin two", hint="mend it"))
    assert capsys.readouterr().err == "error: it broke in two\nhint: mend it\n"


def test_rows_are_a_table_json_or_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"a_b": 1.5, "c": None}], as_json=False, nothing="none")
    assert "a b" in capsys.readouterr().out
    print_rows([{"a_b": 1.5, "c": None}], as_json=True, nothing="none")
    assert capsys.readouterr().out == '[{"a_b": 1.5, "c": null}]\n'
    print_rows([], as_json=False, nothing="none")
    assert capsys.readouterr().out == "none\n"
