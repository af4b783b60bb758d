"""Doors open together and close together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pg_embed.cli.service import Plan
from pg_embed.config import Settings
from pg_embed.engine import Engine
from pg_embed.errors import AmbiguousModel, InvalidArgument, ModelUnavailable, UnknownModel
from pg_embed.models.registry import default_registry
from pg_embed.records import ModelSpec, Priority
from pg_embed.serve.directory import StaticDirectory
from pg_embed.serve.frames import frame
from pg_embed.serve.metrics import Metrics
from pg_embed.serve.settings import ServeSettings, read_token
from pg_embed.serve.sidecar import Sidecar
from tests.fix_models import PATIENCE

ID = "0b5e4a52-6a0e-4d35-9a3e-0f5b4f1f7f3a"
SLOW = {"name": "slow", "family": "fake", "options": {"dimensions": 2, "delay": 1.0}}


async def test_a_sidecar_needs_a_door() -> None:
    with pytest.raises(InvalidArgument, match="no door"):
        await Sidecar(Engine(default_registry()), ServeSettings()).start()


async def test_if_one_door_stays_shut_so_do_the_others(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o777)
    settings = ServeSettings(socket=tmp_path / "s", spool=tmp_path / "spool")
    sidecar = Sidecar(Engine(default_registry()), settings)
    with pytest.raises(InvalidArgument, match="open to everybody"):
        await sidecar.start()
    assert not (tmp_path / "s").exists()
    assert not sidecar.is_ready


async def slow_request(path: Path, engine: Engine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request that the engine has in hand."""
    reader, writer = await asyncio.open_unix_connection(path)
    asked: dict[str, Any] = {"v": 1, "id": ID, "op": "embed", "model": SLOW, "texts": ["a"]}
    writer.write(frame(json.dumps(asked).encode()))
    async with asyncio.timeout(PATIENCE):
        while not engine._models:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.005)
    return reader, writer


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_stop_finishes_requests_and_a_second_one_does_not(tmp_path: Path, hurried: bool) -> None:
    engine = Engine(default_registry())
    sidecar = Sidecar(engine, ServeSettings(socket=tmp_path / "s"))
    await sidecar.start()
    reader, writer = await slow_request(tmp_path / "s", engine)
    hurry = asyncio.Event()
    stopping = asyncio.create_task(sidecar.stop(hurry))
    await asyncio.sleep(0.01)
    assert not sidecar.is_ready
    if hurried:
        hurry.set()
    await asyncio.wait_for(stopping, 5)
    answer = b""
    try:
        answer = await reader.read()
    except ConnectionResetError:
        assert hurried
    assert (b'"vectors"' in answer) is not hurried
    writer.close()
    await engine.close()


async def test_models_are_found_by_name_or_are_the_default() -> None:
    one, two = ModelSpec("one", "fake"), ModelSpec("two", "fake")
    assert await StaticDirectory([one]).default() == one
    assert await StaticDirectory([one, two], default="two").default() == two
    with pytest.raises(AmbiguousModel):
        await StaticDirectory([one, two]).default()
    with pytest.raises(UnknownModel):
        await StaticDirectory([one]).find("two")


async def test_the_only_model_of_a_kind_is_meant_where_none_is_named() -> None:
    one, two, three = ModelSpec("one", "fake"), ModelSpec("two", "fake"), ModelSpec("three", "fake")
    both = StaticDirectory([one, two], rerankers=["two"])
    assert await both.default() == one
    assert await both.reranker() == two
    assert await both.find("two") == two
    with pytest.raises(AmbiguousModel) as raised:
        await StaticDirectory([one, two, three], rerankers=["two", "three"]).reranker()
    assert raised.value.hint == "there are: three, two"
    with pytest.raises(AmbiguousModel) as raised:
        await StaticDirectory([one]).reranker()
    assert raised.value.hint == "there are: none"
    with pytest.raises(AmbiguousModel) as raised:
        await StaticDirectory([two], rerankers=["two"]).default()
    assert raised.value.hint == "there are: none"


def test_tokens_are_read_from_files_without_the_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert read_token(None, tmp_path / "token") == "secret"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(InvalidArgument, match="empty"):
        read_token(None, tmp_path / "token")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_token(None, tmp_path / "none")


def test_metrics_have_these_names() -> None:
    metrics = Metrics()
    with metrics.timed("unix"):
        pass
    metrics.loaded("m", 1.5, None)
    metrics.queued("m", Priority.QUERY, 3)
    metrics.computed("m", Priority.LIVE, 10, 100, 0.1, UnknownModel())
    metrics.answered("m", Priority.BACKFILL, 10, 0.2, None)
    metrics.computed("m", Priority.BACKFILL, 10, 0, 0.1, ModelUnavailable("slow down", limited=True))
    metrics.remembered("m", hits=2, misses=1)
    metrics.throttled("m", Priority.BACKFILL, 1.5)
    text = metrics.render().decode()
    for line in (
        'pg_embed_requests_total{code="ok",door="unix"} 1.0',
        'pg_embed_request_seconds_count{door="unix"} 1.0',
        'pg_embed_model_loads_total{code="ok",model="m"} 1.0',
        'pg_embed_model_load_seconds{model="m"} 1.5',
        'pg_embed_queued_texts{model="m",priority="query"} 3.0',
        'pg_embed_model_calls_total{code="PE001",model="m",priority="live"} 1.0',
        'pg_embed_model_call_texts_sum{model="m",priority="live"} 10.0',
        'pg_embed_tokens_total{model="m",priority="live"} 100.0',
        'pg_embed_answers_total{code="ok",model="m",priority="backfill"} 1.0',
        'pg_embed_memo_texts_total{model="m",outcome="hit"} 2.0',
        'pg_embed_limit_wait_seconds_sum{model="m",priority="backfill"} 1.5',
        'pg_embed_limit_exceeded_total{model="m",priority="backfill"} 1.0',
    ):
        assert line in text


def test_settings_that_are_shown_have_no_secrets() -> None:
    dsn = "postgresql://me:hunter2@db/app"
    settings = ServeSettings(tcp_token="hunter2", http_token="hunter2", mailbox_dsn=dsn)
    plan = Plan(Settings(serve=settings), settings, worker_dsn=dsn, limits_dsn=dsn)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(plan)
