"""Family "bce": maidalun1020/bce-embedding-base_v1, for Chinese and English, without instructions."""

from __future__ import annotations

from pg_embed.models.options import read_options
from pg_embed.models.pretrained import load_transformer
from pg_embed.models.registry import Registry
from pg_embed.models.transformer import Family, TransformerEmbedder, TransformerOptions
from pg_embed.records import ModelSpec

BCE = Family(
    name="bce",
    model_type="xlm-roberta",
    pooling="first",
    begin=("<s>",),
    end=("</s>",),
    max_tokens=512,
    longest=512,
    accelerated="float32",
    first_position=2,
)


def load(spec: ModelSpec) -> TransformerEmbedder:
    """Queries and documents are read alike."""
    options = read_options(spec, TransformerOptions)
    return load_transformer(BCE, options, {"query": "", "document": ""})


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("bce", "pg_embed.models.bce:load")
