"""Chunks: long texts in pieces that a model can read, cut where an edit elsewhere does not move the cuts."""

from __future__ import annotations

from pg_embed.chunks.chunking import Chunk, Chunking
from pg_embed.chunks.counting import Counter, estimated, tokenized
from pg_embed.chunks.spans import token_spans
from pg_embed.chunks.splitting import split

__all__ = ["Chunk", "Chunking", "Counter", "estimated", "split", "token_spans", "tokenized"]
