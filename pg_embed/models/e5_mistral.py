"""Family "e5_mistral": intfloat/e5-mistral-7b-instruct and checkpoints trained like it."""

from __future__ import annotations

from pg_embed.models.options import read_options
from pg_embed.models.pretrained import load_transformer
from pg_embed.models.registry import Registry
from pg_embed.models.transformer import Family, InstructedOptions, TransformerEmbedder
from pg_embed.records import ModelSpec

E5_MISTRAL = Family(
    name="e5_mistral",
    model_type="mistral",
    pooling="last",
    begin=("<s>",),
    end=("</s>",),
    max_tokens=4_096,  # its authors advise against more
    longest=32_768,
    accelerated="float16",
)


def load(spec: ModelSpec) -> TransformerEmbedder:
    """Documents are read as they are, queries behind the task."""
    options = read_options(spec, InstructedOptions)
    task = options.instruction
    query = f"Instruct: {task}\nQuery: " if task else ""
    return load_transformer(E5_MISTRAL, options, {"query": query, "document": ""})


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("e5_mistral", "pg_embed.models.e5_mistral:load")
