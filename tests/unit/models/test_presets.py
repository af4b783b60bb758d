"""Presets say what loading them gives."""

from __future__ import annotations

import pytest

from pg_embed.models.presets import presets
from pg_embed.models.registry import default_registry
from pg_embed.protocols import Embedder


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_a_preset_is_of_a_known_family_and_has_a_licence(preset: object) -> None:
    assert preset.family in default_registry().families()  # type: ignore[attr-defined]
    assert preset.licence  # type: ignore[attr-defined]


def test_a_card_that_only_loading_tells_is_none() -> None:
    assert presets()["Qwen3-Embedding-0.6B"].card is None


def test_the_card_of_minilm_is_the_loaded_models(minilm: Embedder) -> None:
    assert presets()["all-MiniLM-L6-v2"].card == minilm.card
