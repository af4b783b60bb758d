"""Settings come from variables whose names say room and setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from pg_embed import config
from pg_embed.errors import InvalidArgument
from pg_embed.worker import WorkerSettings


def test_without_variables_the_rooms_have_their_defaults() -> None:
    settings = config.read()
    assert settings.worker == WorkerSettings()
    assert settings.serve.socket is None


def test_variables_are_read_into_the_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_EMBED_WORKER_BATCH_ROWS", "12")
    monkeypatch.setenv("PG_EMBED_SERVE_TCP_TOKEN_FILE", "/run/token")
    monkeypatch.setenv("PG_EMBED_SERVE_SOCKET_MODE", "0660")
    monkeypatch.setenv("PG_EMBED_ENGINE_MEMO_SIZE", "0")
    settings = config.read()
    assert settings.worker.batch_rows == 12
    assert settings.serve.tcp_token_file == Path("/run/token")
    assert settings.serve.socket_mode == 0o660
    assert settings.engine.memo_size == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PG_EMBED_WORKER_LEASE", "soon"),
        ("PG_EMBED_WORKER_LEASE", "-1"),
        ("PG_EMBED_WORKER_LEASE", "nan"),
        ("PG_EMBED_WORKER_BATCH_ROWS", "0"),
        ("PG_EMBED_LOG_LEVEL", "loud"),
        ("PG_EMBED_SERVE_SOCKET_MODE", "everybody"),
        ("PG_EMBED_SERVE_SOCKET_MODE", "7777"),
        ("PG_EMBED_SERVE_SOCKET_MODE", "-1"),
        ("PG_EMBED_SERVE_HTTP_PORT", "65536"),
        ("PG_EMBED_WORKER_METRICS_PORT", "99999999"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument, match=f"the setting {name}: "):
        config.read()


@pytest.mark.parametrize("name", config.variables())
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    without = config.read()
    monkeypatch.setenv(name, "")
    assert config.read() == without


def test_options_of_commands_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_EMBED_SERVE_WORKER", "false")
    monkeypatch.setenv("PG_EMBED_VECTORIZE_TEMPLATE", "{a}")
    assert config.read().worker == WorkerSettings()


def test_variables_lists_every_setting() -> None:
    listed = config.variables()
    assert listed["PG_EMBED_WORKER_LEASE"] == 60.0
    assert listed["PG_EMBED_SERVE_HTTP_HOST"] == "127.0.0.1"
    assert listed["PG_EMBED_DEBUG"] is False


def test_a_variable_of_a_room_s_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_EMBED_LOG", "debug")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        config.read()
