"""Family "qwen3": the three sizes of Qwen3-Embedding, whose vectors may be cut."""

from __future__ import annotations

from dataclasses import dataclass

from pg_embed.errors import InvalidArgument
from pg_embed.models.options import read_options
from pg_embed.models.pretrained import load_transformer
from pg_embed.models.registry import Registry
from pg_embed.models.transformer import Family, InstructedOptions, TransformerEmbedder
from pg_embed.records import ModelSpec

LEAST_DIMENSIONS = 32
QWEN3 = Family(
    name="qwen3",
    model_type="qwen3",
    pooling="last",
    begin=(),
    end=("<|endoftext|>",),  # not the tokenizer's own end token, which is <|im_end|>
    max_tokens=8_192,
    longest=32_768,
)


@dataclass(frozen=True)
class Qwen3Options(InstructedOptions):
    """The first `dimensions` numbers of a vector are one, too, when made of length 1 again."""

    dimensions: int | None = None


def load(spec: ModelSpec) -> TransformerEmbedder:
    """Documents are read as they are, queries behind the task, with no blank between."""
    options = read_options(spec, Qwen3Options)
    if options.dimensions is not None and options.dimensions < LEAST_DIMENSIONS:
        raise InvalidArgument(f"vectors of this family have at least {LEAST_DIMENSIONS} dimensions")
    task = options.instruction
    query = f"Instruct: {task}\nQuery:" if task else ""
    return load_transformer(QWEN3, options, {"query": query, "document": ""}, options.dimensions)


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("qwen3", "pg_embed.models.qwen3:load")
