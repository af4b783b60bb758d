"""Family "gte_qwen": Alibaba-NLP's gte-Qwen1.5-7B-instruct and both gte-Qwen2, without their own code."""

from __future__ import annotations

from pg_embed.models.options import read_options
from pg_embed.models.pretrained import load_transformer
from pg_embed.models.registry import Registry
from pg_embed.models.transformer import Family, InstructedOptions, TransformerEmbedder
from pg_embed.records import ModelSpec

GTE_QWEN = Family(
    name="gte_qwen",
    model_type="qwen2",
    pooling="last",
    begin=(),
    end=("<|endoftext|>",),
    max_tokens=8_192,
    longest=32_768,
    bidirectional=True,
)


def load(spec: ModelSpec) -> TransformerEmbedder:
    """Documents are read as they are, queries behind the task."""
    options = read_options(spec, InstructedOptions)
    task = options.instruction
    query = f"Instruct: {task}\nQuery: " if task else ""
    return load_transformer(GTE_QWEN, options, {"query": query, "document": ""})


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("gte_qwen", "pg_embed.models.gte_qwen:load")
