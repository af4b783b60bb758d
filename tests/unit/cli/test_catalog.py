"""What the commands know before they ask a database."""

from __future__ import annotations

from pg_embed.cli.catalog import first_model
from pg_embed.models.presets import presets


def test_the_first_model_is_one_with_a_card_and_needs_no_key() -> None:
    spec, card = first_model()
    assert presets()[spec.name].card == card
    assert spec.family == "sentence_transformers"
