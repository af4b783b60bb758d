"""A database with pg_embed, or a sidecar, from Python: vectors, searches, and how far the work is."""

from __future__ import annotations

from pg_embed.client.asynchronous import AsyncClient
from pg_embed.client.client import Client
from pg_embed.client.requests import Status, Vectors

__all__ = ["AsyncClient", "Client", "Status", "Vectors"]
