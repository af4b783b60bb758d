"""What a loaded sentence-transformers checkpoint says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pg_embed.errors import ModelMisconfigured
from pg_embed.records import Kind, Metric

PROBE = (
    "The quick brown fox, naïve Größe: 東京 пример 1,234.5 €!\n\tEnd"  # its token ids are part of the space
)
UNLIMITED = 1_000_000  # max_tokens of a model that has no limit
METRICS: dict[str, Metric] = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}
PROMPT_NAMES: dict[Kind, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
ARCHITECTURE = ("model_type", "hidden_act", "num_attention_heads", "is_causal", "sliding_window")


def prompts(model: Any) -> dict[Kind, str]:
    """The checkpoint's prompt of each kind; its default prompt for both where it has none of either kind."""
    own: dict[str, str] = model.prompts
    found = {kind: _first(own, names) for kind, names in PROMPT_NAMES.items()}
    if any(found.values()):
        return found
    return dict.fromkeys(PROMPT_NAMES, own.get(model.default_prompt_name or "", ""))


def metric(model: Any) -> Metric:
    """How the checkpoint's vectors are compared."""
    name = model.similarity_fn_name
    if name not in METRICS:
        raise ModelMisconfigured(f"the checkpoint's metric {name} has no index", hint="set the option metric")
    return METRICS[name]


def limit_tokens(model: Any, wanted: int | None) -> int:
    """Let the model cut texts at `wanted` tokens, if that is less than its own limit, which is returned."""
    own = model.max_seq_length
    limit = own if isinstance(own, int) and 0 < own < UNLIMITED else UNLIMITED
    if wanted is not None and wanted < limit:
        model.max_seq_length = limit = wanted
    return limit


def normalizes(model: Any) -> bool:
    """Whether the checkpoint itself makes all vectors of length 1."""
    return any(type(module).__name__ == "Normalize" for module in model)


def module_facts(model: Any) -> list[list[Any]]:
    """What is done to the transformer's output, apart from weights."""
    return [[type(module).__name__, *_details(module)] for module in model]


def architecture(folder: Path, *others: str) -> dict[str, Any]:
    """What the configuration says of the computation, and the weights do not; `others` are read too."""
    told = _read(folder / "config.json")
    return {name: told[name] for name in (*ARCHITECTURE, *others) if told.get(name) is not None}


def probe(model: Any, folder: Path) -> list[int] | None:
    """Token ids of a fixed text; None for a model without tokens.

    A model that pools the last token must find its end token there: tokenizers of some checkpoints no longer
    add it under transformers 5, and the vectors are then worse without a sign.
    """
    ids = model.preprocess([PROBE]).get("input_ids")
    if ids is None:
        return None
    found: list[int] = ids.flatten().tolist()
    wants_end = _read(folder / "tokenizer_config.json").get("add_eos_token") is True
    if wants_end and found[-1] not in (model.tokenizer.eos_token_id, model.tokenizer.sep_token_id):
        raise ModelMisconfigured(
            "the checkpoint asks for an end token that its tokenizer does not add: vectors would be wrong",
            hint="use this model through its own family, or mend the post-processor in its tokenizer.json",
        )
    return found


def _first(own: dict[str, str], names: tuple[str, ...]) -> str:
    return next((own[name] for name in names if own.get(name)), "")


def _details(module: Any) -> list[Any]:
    match type(module).__name__:
        case "Pooling":
            modes = module.pooling_mode
            return [modes if isinstance(modes, str) else list(modes), module.include_prompt]
        case "Dense":
            return [type(module.activation_function).__name__]
        case _:
            return []


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
