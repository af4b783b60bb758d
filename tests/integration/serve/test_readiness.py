"""A sidecar is ready once the models are loaded that its database uses; who can wait is answered before."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from pg_embed.cli import service
from pg_embed.config import Settings
from pg_embed.errors import ModelUnavailable
from pg_embed.models.hashing import FakeEmbedder, FakeOptions
from pg_embed.models.options import read_options
from pg_embed.models.registry import Registry
from pg_embed.records import ModelSpec
from pg_embed.serve.directory import StaticDirectory
from pg_embed.serve.settings import ServeSettings
from tests.fix_models import PATIENCE

LATE = ModelSpec("late", "late", {"dimensions": 4})
MISSING = ModelSpec("missing", "missing", {"dimensions": 4})
loading, go_on = threading.Event(), threading.Event()


def load_late(spec: ModelSpec) -> FakeEmbedder:
    """The fake model, once it is let go on."""
    loading.set()
    assert go_on.wait(PATIENCE)
    return FakeEmbedder(read_options(spec, FakeOptions))


def load_missing(spec: ModelSpec) -> FakeEmbedder:
    """A model whose weights are nowhere."""
    raise ModelUnavailable("no weights")


def families() -> Registry:
    known = Registry()
    known.register("late", f"{__name__}:load_late")
    known.register("missing", f"{__name__}:load_missing")
    return known


@pytest.mark.parametrize("warm", [(LATE,), (LATE, MISSING)])
def test_ready_once_the_models_in_use_are_loaded(
    monkeypatch: pytest.MonkeyPatch, warm: tuple[ModelSpec, ...]
) -> None:
    loading.clear()
    go_on.clear()
    monkeypatch.setattr(service, "default_registry", families)
    plan = service.Plan(
        Settings(), ServeSettings(http_port=0), directory=StaticDirectory([LATE, MISSING]), warm=warm
    )

    async def run() -> None:
        running = service.Service(plan)
        up = asyncio.Event()
        task = asyncio.create_task(running.run(lambda _: up.set()))
        await asyncio.wait_for(up.wait(), PATIENCE)
        async with httpx.AsyncClient(base_url=running.addresses[0], timeout=PATIENCE) as web:
            assert await asyncio.to_thread(loading.wait, PATIENCE)
            assert (await web.get("/readyz")).status_code == 503
            assert (await web.get("/healthz")).status_code == 200
            asked = asyncio.create_task(web.post("/v1/embeddings", json={"model": "late", "input": "x"}))
            go_on.set()
            assert (await asked).status_code == 200
            for _ in range(int(PATIENCE * 100)):
                if (await web.get("/readyz")).status_code == 200:
                    break
                await asyncio.sleep(0.01)
            else:
                pytest.fail("it does not become ready")
        running.stop()
        await asyncio.wait_for(task, PATIENCE)

    asyncio.run(run())
