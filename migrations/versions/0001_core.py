"""The catalog, the queue and the transport."""

from __future__ import annotations

from pg_embed.install.script import run_schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_schema("0001_core.up.sql")


def downgrade() -> None:
    run_schema("0001_core.down.sql")
