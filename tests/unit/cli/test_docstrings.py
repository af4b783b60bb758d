"""The texts of the demo."""

from __future__ import annotations

from pg_embed.cli.docstrings import LENGTH, collect, edition


def test_there_are_several_thousand_and_each_name_is_there_once() -> None:
    texts = collect()
    assert len(texts) > 3_000
    assert len({(text.module, text.name) for text in texts}) == len(texts)
    assert all(0 < len(text.docstring) <= LENGTH for text in texts)


def test_a_known_function_is_among_them() -> None:
    found = next(text for text in collect() if (text.module, text.name) == ("textwrap", "dedent"))
    assert found.signature == "(text)"
    assert found.docstring.startswith("Remove any common leading whitespace")


def test_a_limit_takes_them_from_all_over_the_library() -> None:
    texts = collect(200)
    assert len(texts) == 200
    assert texts[0].module[0] < "c" < "t" < texts[-1].module[0]


def test_editions_differ_by_limit() -> None:
    assert edition(5) != edition(None)
