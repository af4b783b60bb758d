"""The batch that a model gets on an accelerator, whose memory is played here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pg_embed.models.room import pass_tokens, token_bytes

MISTRAL_7B = SimpleNamespace(hidden_size=4_096, intermediate_size=14_336)
GIB = 2**30


def model(device: str = "cuda:0", config: Any = MISTRAL_7B) -> Any:
    return SimpleNamespace(device=torch.device(device), dtype=torch.bfloat16, config=config)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say how much memory is free."""

    def free(size: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(size), 80 * GIB))

    return free


def test_a_large_model_on_a_small_card_has_small_batches(free: Any) -> None:
    free(9 * GIB)  # what a card of 24 GiB has left
    found = pass_tokens(model(), 4_096, 32_768)
    assert 4_096 <= found < 32_768
    # two calls at the same time take no more than half of what is free
    assert 2 * found * token_bytes(MISTRAL_7B, 2, 4_096) <= 9 * GIB / 2


def test_more_room_makes_larger_batches_up_to_the_most(free: Any) -> None:
    found = []
    for size in (4, 8, 64):
        free(size * GIB)
        found.append(pass_tokens(model(), 512, 32_768))
    assert found[0] < found[1] < found[2] == 32_768


def test_one_long_text_is_tried_in_any_case(free: Any) -> None:
    free(0)
    assert pass_tokens(model(), 4_096, 32_768) == 4_096
    assert pass_tokens(model(), 65_536, 32_768) == 32_768


def test_a_device_that_does_not_tell_has_the_most() -> None:
    assert pass_tokens(model("cpu"), 512, 16_384) == 16_384
    assert pass_tokens(model("mps"), 512, 32_768) == 32_768


def test_a_smaller_model_takes_less_for_a_token() -> None:
    small = SimpleNamespace(hidden_size=384)
    assert token_bytes(small, 2, 512) < token_bytes(MISTRAL_7B, 2, 512) / 8


def test_a_model_that_wraps_a_transformer_tells_its_configuration(free: Any) -> None:
    free(9 * GIB)
    wrapping = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.bfloat16)
    assert pass_tokens(wrapping, 4_096, 32_768, MISTRAL_7B) == pass_tokens(model(), 4_096, 32_768)
    assert pass_tokens(wrapping, 512, 32_768) == 32_768  # no transformer: nothing is known of its layers
