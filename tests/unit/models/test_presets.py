"""Presets say what loading them gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pg_embed.models.presets import Preset, preset_of, presets
from pg_embed.models.registry import default_registry
from pg_embed.protocols import Embedder
from pg_embed.records import ModelSpec
from tests.fix_models import PROVIDERS, RANKERS
from tests.providers.server import ProviderServer

HOSTED = [preset for preset in presets().values() if preset.family in PROVIDERS and preset.card is not None]
RANKING = [preset for preset in presets().values() if preset.family in RANKERS and preset.card is not None]


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_a_preset_is_of_a_known_family_and_has_a_licence(preset: Preset) -> None:
    assert preset.family in default_registry().families()
    assert preset.licence
    assert preset.commercial is ("-NC-" not in preset.licence or preset.hosted)


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_a_preset_says_nothing_twice_and_nothing_that_cannot_be(preset: Preset) -> None:
    assert preset.outputs
    assert set(preset.dimensions) <= set(preset.outputs)
    assert preset.price is None or preset.hosted
    assert preset.parameters is None or not preset.hosted
    assert not preset.sizes or preset.dimensions["dense"] not in preset.sizes
    if preset.card is not None:
        assert preset.dimensions == {output: preset.card.size(output) for output in preset.card.outputs}
        assert preset.max_tokens == preset.card.max_tokens


def test_no_two_presets_are_one_model() -> None:
    assert [preset_of(preset.spec) for preset in presets().values()] == list(presets().values())


def test_a_preset_is_known_by_any_name_but_not_on_another_server() -> None:
    voyage = ModelSpec("mine", "voyage", {"model": "voyage-4", "dimensions": 256})
    found = preset_of(voyage)
    assert found is not None
    assert (found.name, found.price) == ("voyage-4", 0.06)
    assert preset_of(replace(voyage, options={**voyage.options, "base_url": "http://there"})) is None
    assert preset_of(replace(voyage, family="openai")) is None


def test_memory_is_that_of_the_parameters() -> None:
    assert presets()["bge-m3"].memory == (2_272_000_000, 1_136_000_000)
    assert presets()["voyage-4"].memory is None


@pytest.mark.parametrize(
    ("name", "language", "expected"),
    [
        ("bce-embedding-base_v1", "Chinese", True),
        ("bce-embedding-base_v1", "french", False),
        ("bge-m3", "french", True),
        ("bge-m3", "code", False),
        ("Qwen3-Embedding-4B", "code", True),
        ("voyage-4", "english", False),  # not known is not told
    ],
)
def test_a_model_speaks_what_is_published(name: str, language: str, expected: bool) -> None:
    assert presets()[name].speaks(language) is expected


def test_the_weights_of_minilm_are_as_many_as_is_said(minilm: Embedder) -> None:
    found = sum(weights.numel() for weights in minilm._model.parameters())  # type: ignore[attr-defined]
    assert found == presets()["all-MiniLM-L6-v2"].parameters


def test_a_card_that_only_loading_tells_is_none() -> None:
    assert presets()["Qwen3-Embedding-0.6B"].card is None


def test_the_card_of_minilm_is_the_loaded_models(minilm: Embedder) -> None:
    told = presets()["all-MiniLM-L6-v2"].card
    assert told is not None
    tokens = minilm.card.max_batch_tokens  # as many as this machine's threads need
    assert told == replace(minilm.card, max_batch_tokens=told.max_batch_tokens)
    assert 0 < tokens <= told.max_batch_tokens


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
