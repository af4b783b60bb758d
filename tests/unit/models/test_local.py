"""What families that compute on this machine share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pg_embed.errors import InputRejected, ModelMisconfigured, ModelUnavailable
from pg_embed.models import local


@pytest.mark.parametrize(
    ("accelerated", "told", "device", "expected"),
    [
        (False, None, None, "float32"),
        (True, None, "cpu", "float32"),
        (True, None, None, "bfloat16"),
        (True, None, "cuda:1", "bfloat16"),
        (True, "float16", None, "float16"),
        (False, "auto", None, "auto"),
    ],
)
def test_numbers_are_as_told_else_float32_on_a_cpu(
    accelerated: bool, told: local.NumberType | None, device: str | None, expected: str
) -> None:
    torch = SimpleNamespace(
        accelerator=SimpleNamespace(is_available=lambda: accelerated),
        float32="float32",
        float16="float16",
        bfloat16="bfloat16",
    )
    assert local.number_type(torch, told, device, "bfloat16") == expected


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("CUDA out of memory"), local.OutOfMemory),
        (RuntimeError("[enforce fail] can't allocate memory: you tried"), local.OutOfMemory),
        (MemoryError(), local.OutOfMemory),
        (IndexError("index 9 is out of bounds"), InputRejected),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), InputRejected),
        (RuntimeError("something else"), ModelUnavailable),
    ],
)
def test_errors_of_computing_are_the_texts_fault_or_pass(raised: Exception, expected: type) -> None:
    assert type(local.translated(raised)) is expected


def test_errors_of_loading_are_the_checkpoints_fault_unless_memory_is_short() -> None:
    assert type(local.unloadable("tiny", OSError("no such file"))) is ModelMisconfigured
    assert type(local.unloadable("tiny", RuntimeError("CUDA out of memory"))) is ModelUnavailable


@pytest.mark.parametrize(("threads", "expected"), [(1, 2_048), (2, 2_048), (8, 8_192), (64, 16_384)])
def test_a_pass_on_a_cpu_has_work_for_its_threads_and_no_more(
    threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert local.cpu_tokens(None) == expected
    assert local.cpu_tokens(64) == 16_384, "whoever tells the size of a pass has the memory for it"
