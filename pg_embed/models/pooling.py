"""From the states of a text's tokens to one float32 vector; texts are padded on the right."""

from __future__ import annotations

from typing import Any, Literal

Pooling = Literal["first", "last", "mean"]


def pool(pooling: Pooling, states: Any, lengths: Any, header: int) -> Any:
    """One vector a text, not yet normalised: of its first or last token, or the mean behind the header.

    `states` is of shape (texts, tokens, dimensions), `lengths` has the tokens of each text, and `header` is
    the number of tokens that stand before every text.
    """
    match pooling:
        case "first":
            return states[:, 0].float()
        case "last":
            return states[range(len(states)), lengths - 1].float()
        case "mean":
            return _mean(states.float(), lengths, header)


def _mean(states: Any, lengths: Any, header: int) -> Any:
    """The mean of the tokens behind the header; of all tokens where there are none, as of an empty text."""
    import torch

    places = torch.arange(states.shape[1], device=states.device)
    skipped = torch.where(lengths > header, header, 0)
    weights = (places >= skipped[:, None]) & (places < lengths[:, None])
    return states.masked_fill(~weights[:, :, None], 0).sum(dim=1) / weights.sum(dim=1, keepdim=True)
