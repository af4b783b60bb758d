"""What people read."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from pg_embed.cli.output import duration, fitting, print_error, print_json, print_packed, print_rows
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


def shown(width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    rows = [{"vectorizer": "docs_embedding", "in_flight": 0}, {"vectorizer": "pages", "in_flight": 12}]
    console.print(fitting(rows, console))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_no_word_is_broken_where_the_terminal_is_narrow() -> None:
    assert "docs_embedding   0" in " ".join(shown(40))
    assert shown(24) == [
        "vectorizer  docs_embeddi",
        "            ng",
        "in flight   0",
        "",
        "vectorizer  pages",
        "in flight   12",
    ]


def test_a_packed_table_that_does_not_fit_is_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pg_embed.cli.output.WIDTH", 20)
    print_packed([{"name": "bm25", "price": None}], {"name": 30}, nothing="")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["name   bm25", "price"]


def test_json_is_ascii_where_standard_output_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    print_json({"text": "über €"})
    assert raw.getvalue() == b'{"text": "\\u00fcber \\u20ac"}\n'
