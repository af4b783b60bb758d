"""Keys are named in options, never held by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pg_embed.errors import InvalidArgument, ModelMisconfigured
from pg_embed.models.keys import read_key, refuse_keys

KEY = "sk-proj-abcdefghijklmnop"


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "anything"},
        {"Authorization": "Bearer x"},
        {"model": KEY},
        {"api_key_env": KEY},
        {"query_prompt": "Bearer abc"},
        {"space": "pa-abcdefghijklmnop"},
        {"model": "jina_0123456789abcdef"},
        {"model": "aB3" + "dE4fG" * 7 + "hI"},  # as Cohere's are
    ],
)
def test_an_option_that_is_a_key_is_refused_and_not_repeated(options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        refuse_keys(options)
    assert KEY not in str(caught.value)
    assert "environment" in str(caught.value.hint)


def test_ordinary_options_are_let_through() -> None:
    refuse_keys({"model": "text-embedding-3-small", "max_tokens": 10, "api_key_env": "OPENAI_API_KEY"})
    refuse_keys({"model": "jina-embeddings-v5-text-small", "revision": "0123456789abcdef" * 2 + "01234567"})


def test_a_key_is_read_from_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert read_key("OPENAI_API_KEY", None) == KEY


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "HOME", "pgpassword", KEY])
def test_only_variables_for_keys_can_be_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_key(variable, None)
    assert KEY not in str(caught.value)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelMisconfigured, match="OPENAI_API_KEY"):
        read_key("OPENAI_API_KEY", None)


def test_a_key_is_read_from_a_file_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert read_key(None, str(tmp_path / "key")) == KEY


def test_a_file_that_is_no_key_is_refused_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("somebody:x:0:0\nbin:x:1:1\n")
    for name in ("passwd", "absent"):
        with pytest.raises(ModelMisconfigured) as caught:
            read_key(None, str(tmp_path / name))
        assert "somebody" not in str(caught.value)


def test_two_places_are_one_too_many() -> None:
    with pytest.raises(InvalidArgument, match="not both"):
        read_key("OPENAI_API_KEY", "/key")


def test_no_place_is_no_key() -> None:
    assert read_key(None, None) is None


@pytest.mark.parametrize("variable", ["PG_EMBED_DSN", "PG_EMBED_SERVE_HTTP_TOKEN", "PGPASSWORD", "PATH"])
def test_a_variable_that_is_no_models_key_is_not_sent_away(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "postgresql://someone:secret@host/db")
    with pytest.raises(InvalidArgument, match="api_key_env must name"):
        read_key(variable, None)
