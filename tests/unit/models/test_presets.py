"""Presets say what loading them gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pg_embed.models.presets import Preset, presets
from pg_embed.models.registry import default_registry
from pg_embed.protocols import Embedder
from pg_embed.records import ModelSpec
from tests.fix_models import PROVIDERS, RANKERS
from tests.providers.server import ProviderServer

HOSTED = [preset for preset in presets().values() if preset.family in PROVIDERS]
RANKING = [preset for preset in presets().values() if preset.family in RANKERS]


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_a_preset_is_of_a_known_family_and_has_a_licence(preset: object) -> None:
    assert preset.family in default_registry().families()  # type: ignore[attr-defined]
    assert preset.licence  # type: ignore[attr-defined]


def test_a_card_that_only_loading_tells_is_none() -> None:
    assert presets()["Qwen3-Embedding-0.6B"].card is None


def test_the_card_of_minilm_is_the_loaded_models(minilm: Embedder) -> None:
    assert presets()["all-MiniLM-L6-v2"].card == minilm.card


@pytest.mark.parametrize("preset", [*HOSTED, *RANKING], ids=lambda preset: preset.name)
def test_the_card_of_a_hosted_model_is_the_loaded_models(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "VOYAGE_API_KEY", "CO_API_KEY", "JINA_API_KEY"):
        monkeypatch.setenv(variable, "unused")
    embedder = default_registry().load(preset.spec)  # no network: nothing has to be asked
    assert embedder.card == preset.card
    embedder.close()


@pytest.mark.parametrize("preset", HOSTED, ids=lambda preset: preset.name)
def test_a_hosted_model_gives_what_its_card_says_where_the_contract_is_spoken(
    preset: Preset, start_provider: Callable[[str], ProviderServer]
) -> None:
    contextual = str(preset.options["model"]).startswith("voyage-context-")
    server = start_provider("voyage_context" if contextual else preset.family)
    options = {**preset.options, "base_url": server.base_url}
    embedder = default_registry().load(ModelSpec(preset.name, preset.family, options))
    assert replace(embedder.card, space_id="") == replace(preset.card, space_id="")
    assert embedder.card.space_id != preset.card.space_id  # what another server serves is not known
    found = embedder.embed(["a", ""], "query")
    vectors = found.dense if found.multi is None else found.multi.vectors
    assert vectors.shape == (2, preset.card.dimensions)
    embedder.close()


@pytest.mark.parametrize("preset", RANKING, ids=lambda preset: preset.name)
def test_a_hosted_reranker_gives_what_its_card_says_where_the_contract_is_spoken(
    preset: Preset, start_provider: Callable[[str], ProviderServer]
) -> None:
    options = {**preset.options, "base_url": start_provider(preset.family).base_url}
    reranker = default_registry().load(ModelSpec(preset.name, preset.family, options))
    assert replace(reranker.card, space_id="") == replace(preset.card, space_id="")
    assert reranker.rerank("q", ["a", ""]).scores.shape == (2,)
    reranker.close()
