"""A PostgreSQL of one's own: started in a folder, with pgvector, for laptops, demos and tests."""

from __future__ import annotations

from pg_embed.embedded.server import EmbeddedServer, default_data_dir

__all__ = ["EmbeddedServer", "default_data_dir"]
