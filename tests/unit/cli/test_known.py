"""The catalog of known models, as people and as programs read it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pg_embed.cli.known import print_known
from pg_embed.models.presets import presets

Captured = pytest.CaptureFixture[str]
ALL: dict[str, Any] = {"hosted": None, "output": None, "language": None}


def names(capsys: Captured, **narrowed: Any) -> list[str]:
    print_known(**{**ALL, **narrowed}, as_json=True)
    return [model["name"] for model in json.loads(capsys.readouterr().out)]


def test_json_has_every_field_of_every_model(capsys: Captured) -> None:
    print_known(**ALL, as_json=True)
    told = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert list(told) == list(presets())
    assert told["bge-m3"]["dimensions"] == {"dense": 1024, "sparse": 250002, "multi": 1024}
    assert told["bge-m3"]["memory"] == {"cpu": 2_272_000_000, "gpu": 1_136_000_000}
    assert told["voyage-4"]["card"]["max_batch_tokens"] == 320_000
    assert told["voyage-4"]["memory"] is None


def test_models_are_narrowed_by_place_output_and_language(capsys: Captured) -> None:
    local = names(capsys, hosted=False)
    assert {"bge-m3", "splade-v3"} <= set(local)
    assert set(local) | set(names(capsys, hosted=True)) == set(presets())
    assert names(capsys, output="sparse", hosted=False, language="chinese") == ["bm25", "bge-m3"]
    assert "voyage-code-4" in names(capsys, language="code")
    assert names(capsys, output="pictures") == []


def test_the_table_fits_a_line_and_says_what_the_licence_forbids(capsys: Captured) -> None:
    print_known(**ALL, as_json=False)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith(name) for name in presets() for line in lines if len(name) < 30) >= 60
    [splade] = [row for row, line in enumerate(lines) if line.startswith("splade-v3 ")]
    told = " ".join(" ".join(line.split()) for line in lines[splade : splade + 3])
    assert told == "splade-v3 local sparse English CC-BY-NC-SA-4.0 NO COMMERCIAL USE"
    assert "a million tokens" in err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("voyage-4-large", ["hosted", "dense", "1024", "32k", "Voyage", "terms", "0.12"]),
        ("e5-mistral-7b-instruct", ["local", "dense", "4096", "4096", "English", "MIT", "28/14"]),
    ],
)
def test_a_row_says_what_is_published(capsys: Captured, name: str, words: list[str]) -> None:
    print_known(**ALL, as_json=False)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} ")]
    assert line.split() == [name, *words]


def test_sizes_are_not_parted(capsys: Captured) -> None:
    print_known(**ALL, as_json=False)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bm25 ")]
    assert line.split()[:4] == ["bm25", "local", "sparse", "10^9"]


def test_nothing_found_is_said(capsys: Captured) -> None:
    print_known(hosted=None, output="pictures", language=None, as_json=False)
    assert capsys.readouterr().out == "no known model is like that\n"
