"""The registry of families."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from pg_embed.errors import InvalidArgument, ModelMisconfigured
from pg_embed.models import registry as registry_module
from pg_embed.models.registry import ENTRY_POINTS, Registry, default_registry
from pg_embed.records import ModelSpec


def test_our_families_are_known() -> None:
    assert {"fake", "sentence_transformers", "openai", "voyage", "cohere", "jina"} <= set(
        default_registry().families()
    )


def test_an_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match="nonsense") as caught:
        default_registry().load(ModelSpec("x", "nonsense"))
    assert "fake" in str(caught.value.hint)


def test_an_installed_package_adds_its_family(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "pg_embed.models.hashing:load", ENTRY_POINTS)
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [point] * (group == ENTRY_POINTS))
    embedder = default_registry().load(ModelSpec("x", "theirs", {"dimensions": 3}))
    assert embedder.card.dimensions == 3


def test_one_name_has_one_loader() -> None:
    registry = Registry()
    registry.register("mine", "a:load")
    registry.register("mine", "a:load")
    with pytest.raises(InvalidArgument, match="registered twice"):
        registry.register("mine", "b:load")


@pytest.mark.parametrize("loader", ["no_such_module:load", "pg_embed.models.hashing:no_such_loader"])
def test_a_loader_that_is_not_there_is_a_misconfiguration(loader: str) -> None:
    registry = Registry()
    registry.register("broken", loader)
    with pytest.raises(ModelMisconfigured, match="broken"):
        registry.load(ModelSpec("x", "broken"))


def test_knowing_the_families_loads_no_heavy_library() -> None:
    program = (
        "import sys; from pg_embed.models.registry import default_registry; default_registry().families();"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == "[]"
