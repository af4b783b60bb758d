"""Family "gritlm": GritLM/GritLM-7B as an embedder, without its own code."""

from __future__ import annotations

from pg_embed.models.options import read_options
from pg_embed.models.pretrained import load_transformer
from pg_embed.models.registry import Registry
from pg_embed.models.transformer import Family, InstructedOptions, TransformerEmbedder
from pg_embed.records import ModelSpec

DOCUMENT = "<|embed|>\n"
GRITLM = Family(
    name="gritlm",
    model_type="mistral",
    pooling="mean",
    begin=("<s>",),
    end=(),
    max_tokens=2_048,  # of the documents in training; its authors' library cuts at 512 unless told
    longest=32_768,
    bidirectional=True,
)


def load(spec: ModelSpec) -> TransformerEmbedder:
    """Both kinds of text stand behind a header, which is not pooled; queries have the task in theirs."""
    options = read_options(spec, InstructedOptions)
    task = options.instruction
    query = f"<|user|>\n{task}\n{DOCUMENT}" if task else DOCUMENT
    return load_transformer(GRITLM, options, {"query": query, "document": DOCUMENT})


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("gritlm", "pg_embed.models.gritlm:load")
