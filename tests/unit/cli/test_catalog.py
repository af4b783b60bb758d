"""The models that are known beforehand."""

from __future__ import annotations

from pg_embed.cli.catalog import known_models
from pg_embed.models.presets import presets


def test_an_installation_enters_only_models_whose_cards_are_known() -> None:
    entered = [spec.name for spec, _ in known_models()]
    assert entered[0] == "all-MiniLM-L6-v2"
    assert entered == [name for name, preset in presets().items() if preset.card is not None]
    assert len(entered) < len(presets())
