"""How many tokens a forward pass may have beside the weights, by the memory that is free after loading."""

from __future__ import annotations

from typing import Any

from pg_embed.models import local

SHARE = 0.5  # of the free memory; the rest is for the allocator's gaps, and for other programs
FLOAT32 = 4  # bytes; layers normalise in it, whatever the weights have


def pass_tokens(model: Any, longest: int, most: int, config: Any = None) -> int:
    """Tokens of a pass, padding counted, at most `most`: that where the device does not tell its free memory.

    A text of `longest` tokens is tried in any case. Should the estimate be too high, a pass that runs out of
    memory is halved, and that is remembered (`Budget`). `config` is that of a transformer that is wrapped.
    """
    config = config or getattr(model, "config", None)
    if model.device.type != "cuda" or not hasattr(config, "hidden_size"):
        return most
    import torch

    free, _ = torch.cuda.mem_get_info(model.device)
    fitting = int(free * SHARE / local.CONCURRENCY / token_bytes(config, model.dtype.itemsize, longest))
    return max(min(fitting, most), min(longest, most), 1)


def token_bytes(config: Any, size: int, longest: int) -> int:
    """Bytes of a token, in numbers of `size` bytes, where a pass takes most: in a feed-forward network.

    These live there together: the states and what is added to them, two products and what is made of both, a
    float32 copy of the states, and the token's row of the attention mask.
    """
    states: int = config.hidden_size
    inner: int = getattr(config, "intermediate_size", None) or 4 * states
    found: int = size * (2 * states + 3 * inner + longest) + FLOAT32 * states
    return found
